"""Fast data on a GPU: batches arrive whole, and no step waits for the card."""

import uuid
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import MODELS, DefaultScope
from mmseg.structures import SegDataSample

from swin_backbone import ops
from swin_backbone.openmmlab.fast_data.deferred_logs import DeferredRuntimeInfoHook

pytestmark = pytest.mark.gpu
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def preprocessor(device):
    settings = {"mean": MEAN, "std": STD, "bgr_to_rgb": True, "size": (64, 128)}
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build({"type": "SegBytesPreprocessor", **settings}).to(device)


def batch(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).pin_memory()

    rows = torch.tensor([[9.0, 1.2, 1, 1, 0.7, 1, 170], [-20, 0.8, 0, 0, 1, 1, 5]])
    return {
        "inputs": draw(2, 64, 128, 3),
        "labels": draw(2, 64, 128),
        "distortion": rows.pin_memory(),
        "data_samples": [SegDataSample(metainfo={"img_shape": (64, 128)}) for _ in range(2)],
    }


class Run:
    """What a hook sees of a runner: the message hub, an optimizer, where training is."""

    def __init__(self, weight):
        self.message_hub = MessageHub(f"hub-{uuid.uuid4().hex}")
        self.epoch = self.iter = self.max_epochs = self.max_iters = 0
        self.train_dataloader = SimpleNamespace(dataset=[])
        optimizer = torch.optim.AdamW([weight], lr=0.0, fused=True)
        self.optim_wrapper = AmpOptimWrapper(
            optimizer=optimizer, dtype="bfloat16", clip_grad={"max_norm": 1.0},
            loss_scale={"enabled": False},
        )  # fmt: skip
        self.optim_wrapper.message_hub = self.message_hub
        self.optim_wrapper.initialize_count_status(torch.nn.Identity(), 0, 12)


@pytest.fixture
def no_waiting():
    """What waits for the card is an error."""
    torch.cuda.synchronize()
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


def test_steps_do_not_wait_for_the_card(no_waiting):
    weight = torch.ones((), device="cuda", requires_grad=True)
    on_card, run, hook = preprocessor("cuda"), Run(weight), DeferredRuntimeInfoHook()
    batches = [batch(seed) for seed in range(12)]
    hook.before_train(run)
    made = []
    for step, data in enumerate(batches):
        if step == 2:  # kernels are compiled, and histories have begun
            no_waiting()
        found = on_card(dict(data), training=True)
        torch.cuda._sleep(3_000_000)  # the card is behind the host
        loss = found["inputs"].mean() * weight
        run.optim_wrapper.update_params(loss)
        hook.after_train_iter(run, step, outputs={"loss": loss, "again": loss})
        made.append(found)
    torch.cuda.set_sync_debug_mode("default")
    expected = [preprocessor("cpu")(dict(batch(seed)), training=True) for seed in range(12)]
    for ours, other in zip(made, expected, strict=True):
        difference = (ours["inputs"].cpu() - other["inputs"]).abs() * min(STD)
        assert (difference > 0.1).sum() <= 6  # of 49,152: roundings that fall otherwise
        for one, two in zip(ours["data_samples"], other["data_samples"], strict=True):
            assert torch.equal(one.gt_sem_seg.data.cpu(), two.gt_sem_seg.data)
    losses = run.message_hub.get_scalar("train/loss").data[0]
    means = [x["inputs"].mean() for x in expected]
    np.testing.assert_allclose(losses, means, atol=1e-3)
    norms = run.message_hub.get_scalar("train/grad_norm").data[0]
    np.testing.assert_allclose(norms, np.abs(means), atol=1e-3)


def test_the_kernel_is_what_runs():
    images = torch.randint(0, 256, (3, 40, 70, 3), dtype=torch.uint8, device="cuda")
    drawn = torch.tensor([[9.0, 1.2, 1, 1, 0.7, 1, 170]] * 3, device="cuda")
    found = ops.distort_images(images, drawn)
    assert torch.equal(found, ops.distort_images(images, drawn, impl="triton"))
    reference = ops.distort_images(images, drawn, impl="reference")
    assert (found != reference).sum() <= 5
