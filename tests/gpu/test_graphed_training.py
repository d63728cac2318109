"""Training steps and predictions by CUDA graphs, beside the same without, on a GPU."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.graphed_processes import CASES
from helpers.paths import ROOT
from helpers.segmentors import HEADS, batch, segmentor
from helpers.tiny_run import tiny_config
from helpers.tools import torchrun
from mmengine.runner import Runner

from swin_backbone import accelerate, graph_predictions
from swin_backbone.openmmlab.cuda_graph_hook import CudaGraphHook
from swin_backbone.ops.geometry.resampling import axis

STEPS = 100


def made(accelerated=True, **options):
    torch.manual_seed(0)
    model = segmentor("UPer", dropout_ratio=0.1, **options).cuda().train()
    for module in model.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.3
    if accelerated:
        accelerate(model)
    return model


def data(seed, sizes=(64, 64)):
    images, samples = batch(sizes, seed=seed, dtype=torch.float32)
    return images.cuda(), [sample.to("cuda") for sample in samples]


def graphed(model, **options):
    hook = CudaGraphHook(**options)
    hook.before_train(SimpleNamespace(model=model))
    return hook


def losses(model, seed, images, samples, low=True):
    torch.manual_seed(seed)
    with torch.autocast("cuda", torch.bfloat16, enabled=low):
        return model(images, samples, mode="loss")


def train(model, steps, low=True, sizes=((64, 64),)):
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    logs = []
    for step in range(steps):
        found = losses(model, step, *data(step % 10, sizes[step % len(sizes)]), low)
        optimizer.zero_grad()
        sum(value for name, value in found.items() if "loss" in name).backward()
        optimizer.step()
        logs.append(torch.cat([value.detach().reshape(1) for value in found.values()]))
    return torch.stack(logs).cpu()


@pytest.mark.parametrize("low", [True, False])
def test_losses_are_those_without_over_a_hundred_steps(low):
    model = made()
    stock, again = copy.deepcopy(model), copy.deepcopy(model)
    hook = graphed(model)
    sizes = ((64, 64), (64, 96))
    found, expected, repeated = (train(m, STEPS, low, sizes) for m in (model, stock, again))
    assert hook.graphs.reason is None
    assert hook.graphs.shapes == 2
    apart, by_chance = (found - expected).abs(), (repeated - expected).abs()
    print("losses", expected[[0, 1, 10, 50, -1]], found[[0, 1, 10, 50, -1]])
    print("largest differences", apart.amax(0), "without graphs", by_chance.amax(0))
    is_loss = [0, 2]  # the others count pixels
    assert apart[:, is_loss].max() <= max(2 * by_chance[:, is_loss].max(), 2e-3)
    for (name, one), two in zip(model.named_buffers(), stock.buffers(), strict=True):
        torch.testing.assert_close(one, two, rtol=2e-2, atol=1e-3, msg=name)


def test_random_numbers_differ_from_replay_to_replay_and_follow_the_seed():
    model = made()
    stock = copy.deepcopy(model)
    hook = graphed(model)
    images, samples = data(0)
    values = []
    for _ in range(6):
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(images, samples, mode="loss")["decode.loss_ce"]
        values.append(loss.detach().item())
    assert hook.graphs.shapes == 1
    assert len(set(values)) > 3
    for seed in (5, 6):
        one, two = (losses(m, seed, images, samples)["decode.loss_ce"] for m in (model, stock))
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


RUNS = {
    "plain": {},
    "accumulated": {"optim_wrapper": {"accumulative_counts": 2}},
    "clipped": {"optim_wrapper": {"clip_grad": {"max_norm": 0.1}}},
    "checkpointed": {"model": {"backbone": {"with_cp": True, "drop_rate": 0.0}}},
    "averaged": {"default_hooks": {"ema": {"type": "EMAHook", "momentum": 0.1}}},
    "float16": {
        "optim_wrapper": {"dtype": "float16", "loss_scale": {"init_scale": 256.0, "enabled": True}}
    },
}


def run(scenes, work_dir, by_graphs, changes, steps=6, **options):
    config = tiny_config(scenes, work_dir, steps=steps, **options)
    config.optim_wrapper.update(
        type="AmpOptimWrapper", dtype="bfloat16", loss_scale={"enabled": False}
    )
    config.custom_hooks.append({"type": "AccelerateHook"})
    config.default_hooks.logger = {"type": "LoggerHook", "interval": 1}
    config.merge_from_dict(changes)
    if by_graphs:
        config.custom_hooks.append({"type": "CudaGraphHook"})
    runner = Runner.from_cfg(config)
    hooks = [hook for hook in runner.hooks if isinstance(hook, CudaGraphHook)]
    reasons = []
    for hook in hooks:
        release = hook.after_train
        hook.after_train = lambda runner, hook=hook, release=release: (
            reasons.append((hook.graphs.reason, hook.graphs.shapes)),
            release(runner),
        )
    runner.train()
    logs = sorted(Path(work_dir).glob("*/vis_data/scalars.json"))
    lines = [json.loads(line) for line in logs[-1].read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line], reasons, runner


@pytest.mark.parametrize("name", RUNS)
def test_runs(scenes, tmp_path, name):
    expected, _, stock = run(scenes, tmp_path / "stock", False, RUNS[name])
    found, reasons, runner = run(scenes, tmp_path / "graphs", True, RUNS[name])
    print(name, expected, found, reasons)
    assert reasons == [(None, 1)]
    assert found == pytest.approx(expected, rel=1e-2)
    for one, two in zip(runner.model.parameters(), stock.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=5e-3)  # six steps of at most 1e-3


def test_a_run_goes_on(scenes, tmp_path):
    rates = [{"type": "LinearLR", "start_factor": 0.1, "begin": 0, "end": 6, "by_epoch": False}]
    options = {"param_scheduler": rates}
    expected, _, _ = run(scenes, tmp_path / "whole", True, {}, **options)
    run(scenes, tmp_path / "part", False, {}, steps=3, **options)
    part = str(tmp_path / "part" / "iter_3.pth")
    found, reasons, _ = run(
        scenes, tmp_path / "rest", True, {}, resume=True, load_from=part, **options
    )
    assert reasons == [(None, 1)]
    assert found == pytest.approx(expected[3:], rel=1e-2)


def test_a_model_that_waits_runs_without_and_all_else_works():
    model = made(accelerated=False)  # mmseg's accuracy waits for the GPU
    stock = copy.deepcopy(model)
    hook = graphed(model)
    found, expected = train(model, 3), train(stock, 3)
    assert "synchroniz" in hook.graphs.reason, hook.graphs.reason
    print("reason:", hook.graphs.reason)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def test_after_a_capture_that_broke_all_else_works():
    model = made()
    forward = model.decode_head.forward

    def wait_in_a_capture(maps):
        if torch.cuda.is_current_stream_capturing():
            maps[0].sum().item()
        return forward(maps)

    model.decode_head.forward = wait_in_a_capture
    stock = made()
    hook = graphed(model)
    found, expected = train(model, 3), train(stock, 3)
    print("reason:", hook.graphs.reason)
    assert hook.graphs.reason
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
    assert torch.rand(3, device="cuda").unique().numel() == 3
    other = graphed(stock)
    train(stock, 2)
    assert other.graphs.shapes == 1


def test_memory_is_given_back():
    """All but cuBLAS's workspace, which the first graphs of a process leave and later ones use."""
    model = made()
    left = []
    for _ in range(3):
        hook = graphed(model)
        train(model, 2)
        assert hook.graphs.recorder.bytes_held() > 0
        hook.after_train(SimpleNamespace(model=model))
        model.zero_grad()
        del hook
        torch.cuda.empty_cache()
        left.append(torch.cuda.memory_reserved())
    assert max(left[1:]) <= left[0] + 2**22, left


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_predictions(mode):
    model = made().eval()
    model.test_cfg.update(mode=mode, crop_size=(40, 40), stride=(24, 24))
    stock = copy.deepcopy(model)
    graphs = graph_predictions(model)
    for seed in range(4):
        images, samples = data(seed)
        maps = []
        for one in (model, stock):
            with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
                found = one.predict(images, [sample.clone() for sample in samples])
            maps.append(torch.stack([sample.pred_sem_seg.data for sample in found]))
        assert torch.equal(*maps)
        if seed == 2:
            for one in (model, stock):
                for tensor in one.parameters():
                    tensor.data.mul_(1.1)
    assert graphs.reason is None
    assert graphs.shapes == 1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_processes(tmp_path):
    out, script = tmp_path / "out.json", ROOT / "tests" / "helpers" / "graphed_processes.py"
    torchrun(script, out)
    for of_process in json.loads(out.read_text()):
        for name in CASES:
            found = of_process[name]
            print(name, found)
            assert found["reason"] is None, name
            assert found["shapes"] >= 1, name
            assert found["between processes"] == 0, name
            limit = max(2 * found["losses of two runs without"], 1e-2)
            assert found["losses"] <= limit, name


@pytest.mark.parametrize("head", HEADS)
def test_every_head_is_captured(head):
    torch.manual_seed(0)
    model = segmentor(head).cuda().train()
    accelerate(model)
    stock = copy.deepcopy(model)
    hook = graphed(model)
    found, expected = train(model, 3), train(stock, 3)
    assert hook.graphs.reason is None
    assert hook.graphs.shapes == 1
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def test_tables_that_are_forgotten_stay_for_graphs():
    model = made()
    stock = copy.deepcopy(model)
    hook = graphed(model)
    images, samples = data(0)
    losses(model, 0, images, samples)
    for size in range(500, 900):  # more than are remembered
        axis(size, 2 * size, False, device=images.device)
    junk = [torch.full((size,), 1e9, device="cuda") for size in range(1, 4000)]
    one, two = (losses(m, 1, images, samples)["decode.loss_ce"] for m in (model, stock))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)
    assert hook.graphs.shapes == 1
    assert len(junk) == 3999
