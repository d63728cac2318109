"""CudaGraphHook in runs on the CPU, where what is recorded runs again."""

import functools
import json
from pathlib import Path

import pytest
import torch
from helpers.graph_recorders import StandInGraphHook
from helpers.tiny_run import tiny_config
from mmengine.runner import Runner

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
