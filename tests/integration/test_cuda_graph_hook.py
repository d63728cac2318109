"""CudaGraphHook in runs on the CPU, where what is recorded runs again."""

import copy
import functools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.graph_recorders import StandInGraphHook
from helpers.graphed_processes import CASES
from helpers.paths import ROOT
from helpers.segmentors import HEADS, batch, segmentor
from helpers.tiny_run import tiny_config
from helpers.tools import torchrun
from mmengine.runner import Runner

from swin_backbone import accelerate
from swin_backbone.cli import launching
from swin_backbone.openmmlab.gradient_compression import CompressGradientsHook

STAND_IN = {"type": "StandInGraphHook"}


def train_from_scenes(scenes, work_dir, steps=4, hooks=(STAND_IN,), **options):
    config = tiny_config(scenes, work_dir, steps=steps, **options)
    config.train_cfg.val_interval = 2
    config.default_hooks.logger = {
        "type": "LoggerHook",
        "interval": 1,
        "log_metric_by_epoch": False,
    }
    config.custom_hooks += hooks
    runner = Runner.from_cfg(config)
    runner.train()
    logs = sorted(Path(work_dir).glob("*/vis_data/scalars.json"))
    lines = [json.loads(line) for line in logs[-1].read_text().splitlines()]
    return runner, lines


def same_logs(lines, others):
    assert len(lines) == len(others)
    for line, other in zip(lines, others, strict=True):
        own = {name: value for name, value in line.items() if "time" not in name}
        assert own == pytest.approx({name: other[name] for name in own}, rel=1e-4)


def recorders(runner):
    hooks = [hook for hook in runner.hooks if isinstance(hook, StandInGraphHook)]
    return [recorder for hook in hooks for recorder in hook.recorders]


def same_weights(runner, other):
    for name, weight in runner.model.state_dict().items():
        torch.testing.assert_close(weight, other.model.state_dict()[name], msg=name)


OPTIONS = {
    "plain": {},
    "accelerated": {"default_hooks": {"accelerate": {"type": "AccelerateHook"}}},
    "accumulated": {"optim_wrapper": {"accumulative_counts": 2}},
    "clipped": {"optim_wrapper": {"clip_grad": {"max_norm": 0.1}}},
    "checkpointed": {"model": {"backbone": {"with_cp": True}}},
    "averaged": {
        "default_hooks": {"ema": {"type": "EMAHook", "momentum": 0.1, "update_buffers": True}}
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_logs_and_learns_what_it_does_without(scenes, tmp_path, name):
    runs = []
    for hooks in ((), (STAND_IN,)):
        config = tiny_config(scenes, tmp_path)
        config.merge_from_dict(OPTIONS[name])
        changed = {key: config[key] for key in OPTIONS[name]}
        runs.append(train_from_scenes(scenes, tmp_path / str(len(hooks)), hooks=hooks, **changed))
    (stock, expected), (runner, found) = runs
    same_logs(found, expected)
    same_weights(runner, stock)
    predicting, training = recorders(runner)
    assert (training.recorded, training.replays) == (2, 8)
    assert predicting.replays
    assert "encode_decode" not in vars(runner.model)
    assert "forward" not in vars(runner.model)


def test_a_run_goes_on_with_graphs_and_without(scenes, tmp_path):
    rates = [{"type": "LinearLR", "start_factor": 0.1, "begin": 0, "end": 6, "by_epoch": False}]
    train = functools.partial(train_from_scenes, scenes, param_scheduler=rates)
    whole, expected = train(tmp_path / "whole", steps=6)
    train(tmp_path / "part", steps=3)
    part = str(tmp_path / "part" / "iter_3.pth")
    for hooks in ((STAND_IN,), ()):
        runner, lines = train(
            tmp_path / str(len(hooks)), steps=6, hooks=hooks, resume=True, load_from=part
        )
        same_weights(runner, whole)
        same_logs(lines[-2:], expected[-2:])


def test_on_a_cpu_a_run_goes_on_and_says_why_once(scenes, tmp_path):
    _runner, lines = train_from_scenes(
        scenes, tmp_path, hooks=({"type": "CudaGraphHook"},), log_level="INFO"
    )
    (log,) = tmp_path.glob("*/*.log")
    said = [line for line in log.read_text().splitlines() if "without CUDA graphs" in line]
    assert len(said) == 1
    assert "the model is on a cpu" in said[0]
    assert len([line for line in lines if "loss" in line]) == 4


def test_hooks_of_modules_keep_a_run_from_graphs(scenes, tmp_path):
    config = tiny_config(scenes, tmp_path, log_level="INFO")
    runner = Runner.from_cfg(config)
    runner.model.decode_head.conv_seg.register_forward_hook(lambda *_: None)
    hook = StandInGraphHook(predictions=False)
    hook.before_train(runner)
    assert hook.graphs is None
    assert not hook.recorders
    (log,) = tmp_path.glob("*/*.log")
    assert "decode_head.conv_seg has a forward hook" in log.read_text()


@pytest.mark.parametrize("value", [0, -1, True, "4", None])
@pytest.mark.parametrize("name", ["most_shapes", "bucket_mb"])
def test_numbers_are_checked(name, value):
    with pytest.raises(ValueError, match=f"{name} must be an? [a-z]+ above 0"):
        StandInGraphHook(**{name: value})


@pytest.mark.slow
def test_two_processes_train_as_they_do_without(tmp_path, script_environment):
    out, script = tmp_path / "out.json", ROOT / "tests" / "helpers" / "graphed_processes.py"
    names = [name for name in CASES if name != "synchronized"]  # SyncBN needs GPUs
    torchrun(script, out, *names, environment=script_environment)
    for of_process in json.loads(out.read_text()):
        for name in names:
            found = of_process[name]
            assert found["reason"] is None, name
            assert found["shapes"] == (2 if name in ("several shapes", "different shapes") else 1)
            assert found["between processes"] == 0, name
            # In float32, gradients that accumulate are averaged in another order.
            assert found["losses"] < 1e-5, name
            weights, statistics = found["weights, buffers"]
            assert weights < 1e-5, name
            assert statistics < 1e-4, name  # variances of tens


def test_the_options_name_the_hooks(scenes, tmp_path):
    cfg = tiny_config(scenes, tmp_path)
    launching.apply_options(cfg, ["fast", "cuda_graphs", "bf16_gradients"])
    kinds = {hook["type"] for hook in cfg.default_hooks.values()}
    assert {"AccelerateHook", "CudaGraphHook", "CompressGradientsHook"} <= kinds


def test_gradients_of_one_process_are_not_compressed(scenes, tmp_path):
    hook = {"type": "CompressGradientsHook"}
    train_from_scenes(scenes, tmp_path, steps=1, hooks=(hook,), log_level="INFO")
    (log,) = tmp_path.glob("*/*.log")
    assert "averages no gradients" in log.read_text()
    with pytest.raises(ValueError, match="dtype must be bfloat16 or float16, got 'int8'"):
        CompressGradientsHook("int8")


@pytest.mark.parametrize(("head", "version"), [*((head, "v1") for head in HEADS), ("UPer", "v2")])
def test_every_head_trains_as_it_does_without(head, version):
    torch.manual_seed(0)
    options = {"dropout_ratio": 0.1} if head != "KNet" else {}
    model = segmentor(head, **options).train()
    if version == "v2":
        model.backbone = type(model.backbone)(
            embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), window_size=4, version="v2"
        )
    accelerate(model)
    stock = copy.deepcopy(model)
    hook = StandInGraphHook()
    hook.before_train(SimpleNamespace(model=model))
    for seed in range(2):
        images, samples = batch((64, 64), seed=seed, dtype=torch.float32)
        for one in (model, stock):
            torch.manual_seed(seed)
            losses = one(images, samples, mode="loss")
            one.parse_losses(losses)[0].backward()
        for (name, own), other in zip(model.named_parameters(), stock.parameters(), strict=True):
            assert (own.grad is None) == (other.grad is None), name
            if own.grad is not None:
                torch.testing.assert_close(own.grad, other.grad, msg=name)
    assert hook.graphs.shapes == 1
    same_weights(SimpleNamespace(model=model), SimpleNamespace(model=stock))
