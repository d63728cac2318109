"""AccelerateHook in runs: the same losses and weights, resumed runs, other memory formats."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from helpers.tiny_run import tiny_config
from mmengine.runner import Runner

from swin_backbone.openmmlab.accelerate_hook import match_memory_format

HOOK = {"type": "AccelerateHook"}


def train(scenes, work_dir, steps=4, hook=True, **options):
    config = tiny_config(scenes, work_dir, steps=steps, **options)
    config.train_cfg.val_interval = steps
    config.default_hooks.logger = {
        "type": "LoggerHook",
        "interval": 1,
        "log_metric_by_epoch": False,
    }
    if hook:
        config.custom_hooks.append(HOOK)
    runner = Runner.from_cfg(config)
    runner.train()
    logs = sorted(Path(work_dir).glob("*/vis_data/scalars.json"))
    lines = [json.loads(line) for line in logs[-1].read_text().splitlines()]
    return runner, [line for line in lines if "loss" in line], lines[-1]


@pytest.fixture(scope="module")
def stock(scenes, tmp_path_factory):
    return train(scenes, tmp_path_factory.mktemp("stock"), hook=False)


def test_a_run_has_the_losses_and_scores_of_a_stock_run(scenes, tmp_path, stock):
    _, expected, score = stock
    runner, found, own = train(scenes, tmp_path)
    assert "loss_by_feat" in vars(runner.model.decode_head)
    for step, other in zip(expected, found, strict=True):
        for name in ("decode.loss_ce", "decode.acc_seg"):
            # Four steps of float32, whose sums are taken in another order.
            assert other[name] == pytest.approx(step[name], rel=1e-3)
    assert own["mIoU"] == pytest.approx(score["mIoU"], abs=0.2)


def test_checkpoints_go_both_ways(scenes, tmp_path, stock):
    runner, _, _ = stock
    weights = runner.model.state_dict()
    fast, losses, _ = train(
        scenes, tmp_path, steps=6, resume=True, load_from=str(Path(runner.work_dir) / "iter_4.pth")
    )
    assert [line["step"] for line in losses] == [5, 6]
    assert list(fast.model.state_dict()) == list(weights)


def test_moments_of_an_optimizer_are_laid_out_as_its_parameters():
    convolution = torch.nn.Conv2d(4, 6, 3)
    optimizer = torch.optim.AdamW(convolution.parameters())
    convolution(torch.randn(1, 4, 8, 8)).sum().backward()
    optimizer.step()
    state = optimizer.state[convolution.weight]
    before = {name: value.clone() for name, value in state.items()}
    convolution.to(memory_format=torch.channels_last)
    match_memory_format(optimizer)
    for name in ("exp_avg", "exp_avg_sq"):
        assert state[name].stride() == convolution.weight.stride()
        assert torch.equal(state[name], before[name])
    assert torch.equal(state["step"], before["step"])


def test_the_option_fast_keeps_a_constructor_that_a_config_has(scenes, tmp_path):
    from swin_backbone.cli import launching

    config = tiny_config(scenes, tmp_path)
    own = "SwinLayerDecayOptimWrapperConstructor"
    for constructor, expected in ((None, "MergedGroupsOptimWrapperConstructor"), (own, own)):
        if constructor is not None:
            config.optim_wrapper.constructor = constructor
        config.dump(tmp_path / "config.py")
        parser = argparse.ArgumentParser()
        launching.add_common_arguments(parser)
        arguments = parser.parse_args([str(tmp_path / "config.py"), "--with", "fast"])
        cfg = launching.load_config(arguments, loaders=("train_dataloader",))
        assert cfg.optim_wrapper.constructor == expected
        assert cfg.optim_wrapper.optimizer.fused
        assert cfg.optim_wrapper.dtype == "bfloat16"
        assert cfg.default_hooks.accelerate.type == "AccelerateHook"
