"""Backbones by CUDA graphs, beside the same without, on a GPU."""

import copy
import socket

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from swin_backbone import SwinBackbone, accelerate, graph_backbone


class Neck(nn.Module):
    """A map of each level with batch norm and dropout."""

    def __init__(self, channels):
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, 16, 1), nn.BatchNorm2d(16), nn.Dropout(0.1))
            for c in channels
        )

    def forward(self, maps):
        return tuple(level(one) for level, one in zip(self.levels, maps, strict=True))


class Detector(nn.Module):
    """As OpenMMLab's models are made."""

    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        options = {"drop_path_rate": 0.3, **options}
        self.backbone = SwinBackbone(
            embed_dims=32, depths=(2, 2), num_heads=(1, 2), out_indices=(0, 1), **options
        )
        self.neck = Neck(self.backbone.num_features[:2])

    def extract_feat(self, x):
        return self.neck(self.backbone(x))

    def forward(self, x):
        return self.extract_feat(x)


def made(**options):
    return Detector(**options).cuda().train()


def images(seed=0, sizes=(64, 96), number=2):
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(number, 3, *sizes, generator=generator, device="cuda")


def mean_square(maps):
    """Whose gradients lie in memory as the maps do. Those of ``mean`` do not, and in eager use
    torch's batch norm then takes another kernel, of other bits."""
    return sum(one.float().square().sum() / one.numel() for one in maps)


def step(model, x, seed, dtype=torch.bfloat16):
    torch.manual_seed(seed)
    with torch.autocast("cuda", dtype, enabled=dtype is not None):
        loss = mean_square(model(x))
    loss.backward()
    return loss.detach()


def same(model, other):
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), name
        assert (one.grad is None) == (two.grad is None), name
        assert one.grad is None or torch.equal(one.grad, two.grad), name
    for (name, one), two in zip(model.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(one, two), name


@pytest.fixture(autouse=True)
def deterministic():
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


OPTIONS = {"plain": {}, "checkpointed": {"with_cp": True}, "frozen": {"frozen_stages": 1}}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_training_is_the_same_bits_with_and_without(name):
    assert_the_same_training(OPTIONS[name], torch.bfloat16)


def assert_the_same_training(options, dtype):
    model = made(**options)
    stock = copy.deepcopy(model)
    graphs = graph_backbone(model)
    optimizers = [torch.optim.AdamW(m.parameters(), 1e-3, fused=True) for m in (model, stock)]
    sizes, seen = ((64, 96), (64, 64)), []
    for index in range(12):
        x = images(index, sizes[index % 2])
        losses = [step(m, x, index, dtype) for m in (model, stock)]
        assert torch.equal(*losses), (index, losses)
        same(model, stock)
        seen.append(losses[0].item())
        if index % 3 == 2:  # gradients accumulate
            for m, optimizer in zip((model, stock), optimizers, strict=True):
                nn.utils.clip_grad_norm_(m.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad(set_to_none=index % 2 == 0)
    print(seen)
    assert graphs.reason is None
    assert graphs.shapes == 2


def test_drop_path_differs_from_replay_to_replay_and_follows_the_seed():
    model = made()
    stock, x = copy.deepcopy(model), images()
    graphs = graph_backbone(model)
    losses = []
    torch.manual_seed(0)
    for _ in range(8):
        maps = model(x)
        losses.append(sum(one.square().mean() for one in maps).item())
    assert graphs.shapes == 1
    assert len(set(losses)) > 5, losses
    stock.load_state_dict(model.state_dict())
    for seed in (5, 6, 5):
        losses = []
        for m in (model, stock):
            m.zero_grad()
            losses.append(step(m, x, seed))
        assert torch.equal(*losses)
        same(model, stock)


def test_predictions_are_the_same_bits():
    model = made()
    stock = copy.deepcopy(model)
    graphs = graph_backbone(model)
    for index in range(6):
        for m in (model, stock):
            m.eval() if index > 1 else step(m, images(), 0)
        mode = torch.inference_mode if index % 2 else torch.no_grad
        maps = []
        for m in (model, stock):
            torch.manual_seed(index)
            with mode(), torch.autocast("cuda", torch.bfloat16):
                maps.append(m(images(index)))
        assert all(map(torch.equal, *maps))
        if index == 3:
            for m in (model, stock):
                for parameter in m.parameters():
                    parameter.data.mul_(1.1)
    assert graphs.reason is None
    assert graphs.shapes >= 2


def test_results_that_are_held_stay():
    model = made()
    graph_backbone(model)
    for seed in range(2):
        step(model, images(), seed)
    maps = model(images(3))
    kept = [one.detach().clone() for one in maps]
    sum(one.square().mean() for one in maps).backward()
    grads = [p.grad for p in model.parameters()]
    held = [grad.clone() for grad in grads]
    model.zero_grad()
    for seed in range(3):
        step(model, images(seed + 4), seed)
        model.zero_grad()
    junk = [torch.full((size,), 1e9, device="cuda") for size in range(1, 2000)]
    assert all(map(torch.equal, kept, maps))
    assert all(map(torch.equal, held, grads))
    assert len(junk) == 1999


def test_two_passes_before_a_backward_pass():
    model = made()
    stock = copy.deepcopy(model)
    graphs = graph_backbone(model)
    for m in (model, stock):
        for seed in range(2):
            step(m, images(), seed)
        m.zero_grad()
        torch.manual_seed(3)
        maps = []
        for seed in (1, 2):
            # Of its own for each pass: within one, both would share weights cast to bfloat16, and
            # the sum of their gradients would be rounded to it.
            with torch.autocast("cuda", torch.bfloat16):
                maps += m(images(seed))
        mean_square(maps).backward()
    same(model, stock)
    assert graphs.shapes == 1


def test_weights_that_move_and_reverting():
    model = made()
    stock = copy.deepcopy(model)
    graphs = graph_backbone(model)
    for index in range(9):
        if index == 3:
            for m in (model, stock):
                m.load_state_dict({k: v.clone() for k, v in m.state_dict().items()}, assign=True)
        if index == 6:
            assert graphs.shapes == 1
            model.cpu().cuda()
        for m in (model, stock):
            m.zero_grad()
            step(m, images(index), index)
        same(model, stock)
    assert graphs.shapes == 1
    graphs.revert()
    assert not {"extract_feat", "forward"} & vars(model).keys()
    for m in (model, stock):
        m.zero_grad()
        step(m, images(), 0)
    same(model, stock)


def test_a_scaler_and_a_loss_that_needs_one_map():
    model = made()
    stock = copy.deepcopy(model)
    graph_backbone(model)
    scalers = [torch.amp.GradScaler("cuda", init_scale=1024.0) for _ in range(2)]
    optimizers = [torch.optim.AdamW(m.parameters(), 1e-3, fused=True) for m in (model, stock)]
    for index in range(5):
        for m, scaler, optimizer in zip((model, stock), scalers, optimizers, strict=True):
            torch.manual_seed(index)
            with torch.autocast("cuda", torch.bfloat16):
                maps = m(images(index))
            scaler.scale(mean_square([maps[index % 2]])).backward()
            scaler.step(optimizer)
            scaler.update()
        same(model, stock)
        for optimizer in optimizers:
            optimizer.zero_grad()


def test_distributed_data_parallel():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    address = f"tcp://localhost:{port}"
    torch.distributed.init_process_group("nccl", init_method=address, rank=0, world_size=1)
    try:
        model = made()
        stock = copy.deepcopy(model)
        graphs = graph_backbone(model)
        wrapped = [DistributedDataParallel(m, device_ids=[0]) for m in (model, stock)]
        optimizers = [torch.optim.AdamW(m.parameters(), 1e-3, fused=True) for m in (model, stock)]
        for index in range(6):
            losses = [step(m, images(index), index) for m in wrapped]
            assert torch.equal(*losses)
            same(model, stock)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        assert graphs.reason is None
        assert graphs.shapes == 1
    finally:
        torch.distributed.destroy_process_group()


def test_what_waits_for_the_gpu_runs_without():
    said, model = [], made()
    forward = model.neck.forward
    model.neck.forward = lambda maps: forward(maps) if maps[0].abs().sum().item() else None
    stock = made()
    graphs = graph_backbone(model, say=lambda line, level: said.append(line))
    for index in range(4):
        for m in (model, stock):
            m.zero_grad()
            step(m, images(index), index)
        same(model, stock)
    print(said)
    assert graphs.shapes == 0
    assert "synchroniz" in said[0]


def test_a_capture_of_the_users_own_holds_the_operators():
    model = made().eval().requires_grad_(False)
    graph_backbone(model)
    x, graph = images(), torch.cuda.CUDAGraph()
    with torch.no_grad():
        for _ in range(3):
            model(x)
        with torch.cuda.graph(graph):
            found = model(x)
        x.copy_(images(1))
        graph.replay()
        assert all(map(torch.equal, found, model(images(1))))


def test_another_stream_runs_without():
    said, model = [], made().eval()
    graphs = graph_backbone(model, say=lambda line, level: said.append(line))
    with torch.no_grad():
        for _ in range(3):
            expected = model(images())
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            found = model(images())
        stream.synchronize()
    assert all(map(torch.equal, found, expected))
    assert graphs.shapes == 1
    assert "another CUDA stream" in said[-1]


def test_accelerate():
    model = made()
    stock = copy.deepcopy(model)
    accelerate(stock)
    report = accelerate(model, graphs=True)
    print(report)
    for index in range(4):
        losses = [step(m, images(index), index) for m in (model, stock)]
        assert torch.equal(*losses)
    same(model, stock)
    report.revert()
    assert "extract_feat" not in vars(model)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_other_precisions_and_version_2(version, dtype):
    options = {"version": version, "window_size": 8 if version == "v2" else 7}
    assert_the_same_training(options, dtype)
