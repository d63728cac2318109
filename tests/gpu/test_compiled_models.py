"""An accelerated segmentor under torch.compile: what it starts, keeps and gives, beside eager."""

import copy
from collections import Counter

import pytest
import torch
from helpers.compiled_steps import compiled, kept_bytes, started_kernels
from helpers.errors import relative_error
from helpers.segmentors import batch, segmentor

from swin_backbone import SwinBackbone, accelerate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def step(loss, images, samples):
    with torch.autocast("cuda", torch.bfloat16):
        losses = loss(images, samples)
    sum(value.sum() for name, value in losses.items() if "loss" in name).backward()
    return losses


def on_gpu(sizes, seed=0):
    images, samples = batch(sizes, dtype=torch.float32, seed=seed, images=4)
    return images.cuda(), [sample.to("cuda") for sample in samples]


#: By head, what a compiled step starts less often than eager use. FPN's head adds four maps of one
#: size, three of them resized to the size that they have: one gradient goes into three equal steps,
#: and what comes of it into three more, of the last doubling of each. A compiler computes equal
#: steps once (common subexpressions), and leaves out what nobody reads: norms of PSPNet's first two
#: stages.
LEFT_OUT = {"FPN": {"resize_backward_last": 4}, "PSP": {"norm_forward": 2}}


@pytest.mark.parametrize("head", ["UPer", "FPN", "PSP"])
def test_a_training_step(head):
    """The same kernels, but for what is equal and computed once; no more memory kept, one graph;
    the same losses, gradients and buffers, and no gradient where eager use has none, as of the
    norms of stages that PSPNet does not read."""
    model = segmentor(head).cuda().train()
    accelerate(model)
    images, samples = on_gpu((64, 96))
    found = []
    for by_graph in (False, True):
        own = copy.deepcopy(model)
        loss, graphs = compiled(own.loss) if by_graph else (own.loss, None)
        step(loss, images, samples)  # looks up what later steps know
        own.zero_grad()
        inputs = [*own.parameters(), *own.buffers(), images]
        with started_kernels() as kernels, kept_bytes(inputs) as kept:
            losses = step(loss, images, samples)
        grads = {n: p.grad.flatten() for n, p in own.named_parameters() if p.grad is not None}
        found.append((kernels, sum(kept.values()), losses, grads, dict(own.named_buffers())))
    (eager, held, losses, grads, buffers), (ours, ours_held, *others) = found
    assert eager - ours == Counter(LEFT_OUT.get(head))
    assert not ours - eager
    assert ours_held <= 1.01 * held
    assert graphs.frame_count == 1
    for name, value in losses.items():
        torch.testing.assert_close(others[0][name], value, rtol=2e-2, atol=2e-3)  # of bfloat16
    assert others[1].keys() == grads.keys()
    assert relative_error(*(torch.cat(list(g.values())) for g in (others[1], grads))) < 3e-2
    for name, buffer in buffers.items():
        torch.testing.assert_close(others[2][name], buffer, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_backbone_by_inductor(version):
    """Code that is generated: maps and gradients, of three sizes, by two graphs."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = SwinBackbone(
        embed_dims=32, depths=(1, 2), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1),
        drop_path_rate=0.0, version=version,
    ).cuda()  # fmt: skip
    call = torch.compile(model, fullgraph=True)
    for size, count in [((64, 96), 1), ((70, 90), 2), ((97, 61), 2)]:
        x = torch.randn(2, 3, *size, device="cuda")
        both = []
        for run in (call, model):
            with torch.autocast("cuda", torch.bfloat16):
                maps = run(x)
            loss = sum(m.float().sin().sum() for m in maps)
            grads = torch.autograd.grad(loss, list(model.parameters()))
            both.append([*(m.detach() for m in maps), torch.cat([g.flatten() for g in grads])])
        for ours, eager in zip(*both, strict=True):
            assert relative_error(ours, eager) < 2e-2
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == count
