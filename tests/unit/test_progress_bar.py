"""The progress bar of training."""

import re

import pytest
from helpers.tiny_run import tiny_config
from mmengine.runner import Runner

from swin_backbone.openmmlab.progress import ProgressHook


def train(data, tmp_path, steps, **options):
    config = tiny_config(data, tmp_path, steps=steps, **options)
    config.train_cfg.val_interval = steps + 1
    config.custom_hooks.append({"type": "ProgressHook", "momentum": 0.0})
    Runner.from_cfg(config).train()


@pytest.mark.parametrize(
    ("steps", "lines"), [(4, [1, 2, 3, 4]), (25, [3, 5, 8, 10, 13, 15, 18, 20, 23, 25])]
)
def test_a_line_for_each_tenth_without_a_terminal(scenes, tmp_path, capsys, steps, lines):
    train(scenes, tmp_path, steps)
    output = capsys.readouterr().out
    told = re.findall(r"step (\d+)/(\d+)  loss (\d\.\d{3})  lr (\d\.\de[-+]\d\d)\n", output)
    assert [int(step) for step, *_ in told] == lines
    assert {int(total) for _, total, *_ in told} == {steps}
    assert f"{steps}/{steps}" in output.splitlines()[-1]  # the bar, as it ended


def test_the_bar_goes_on_where_a_run_resumes(scenes, tmp_path, capsys):
    train(scenes, tmp_path, 4)
    capsys.readouterr()
    train(scenes, tmp_path, 6, resume=True)
    output = capsys.readouterr().out
    assert re.findall(r"step (\d+)/", output) == ["5", "6"]
    assert "6/6" in output.splitlines()[-1]


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_momentum_out_of_range(momentum):
    with pytest.raises(ValueError, match="momentum must lie in"):
        ProgressHook(momentum)
