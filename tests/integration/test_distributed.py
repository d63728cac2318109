"""Several processes on the CPU, through gloo: DDP, FSDP, processes that die, options of configs."""

import csv
import inspect
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import two_processes
from helpers.compiled_together import WRAPPERS
from helpers.made_once import made_once
from helpers.paths import CONFIGS
from helpers.tiny_run import tiny_config
from helpers.tools import TOOLS, call_tool, run_tool, torchrun
from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPERS, STRATEGIES
from mmengine.runner import Runner
from torch import nn
from torch.distributed.fsdp import BackwardPrefetch

from swin_backbone import SwinBackbone
from swin_backbone.checkpoints import read_checkpoint
from swin_backbone.model import SwinBlock
from swin_backbone.openmmlab.sharding import wrap_swin_blocks

pytest.importorskip("mmseg")
import benchmark_scaling

OPTIONS = CONFIGS / "_base_" / "options"


@pytest.fixture(scope="module")
def results(tmp_path_factory, script_environment):
    """What both processes found, by rank."""

    def make(folder):
        path = folder / "results.json"
        torchrun(two_processes.__file__, path, environment=script_environment)

    return json.loads((made_once(tmp_path_factory, "two", make) / "results.json").read_text())


FROZEN = ["nothing frozen", "patch embedding frozen", "stage frozen"]
UNUSED = ["early maps", "empty batch", "empty batch, version 2, packed"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", ["joined batch", "version 2", "other sizes", "with_cp", "masked", *FROZEN, *UNUSED]
)
def test_gradients_of_two_processes_equal_those_of_one(results, what):
    """In float64 only the order of sums differs."""
    assert [result[what] <= 1e-6 for result in results] == [True, True], results


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_kernels_are_compiled_ahead_by_all_together(results, wrapper):
    """Their passes wait for each other in losses and, under FSDP, for parameters. The step that
    follows is that of a model whose kernels were not: in float32 FSDP changes no product."""
    assert [result[f"ahead, {wrapper}"] <= 1e-6 for result in results] == [True, True], results


@pytest.mark.slow
def test_no_buffer_is_broadcast(results):
    assert [result["bytes"] for result in results] == [0, 0]
    assert results[0]["bytes of mmseg's"] > 0, "the count counts nothing"


@pytest.fixture
def tiny_file(scenes, tmp_path, script_environment, monkeypatch):
    """Writes a config of a tiny segmentor: changes to path; processes find the tests' hooks."""
    monkeypatch.setenv("PYTHONPATH", script_environment["PYTHONPATH"])

    def write(steps=6, **changes):
        cfg = tiny_config(scenes, tmp_path / "work", steps=steps)
        cfg.custom_imports = {"imports": ["helpers.tiny_run"]}
        cfg.train_cfg.val_interval = 100
        cfg.default_hooks.checkpoint.save_best = None
        cfg.default_hooks.checkpoint.interval = 2
        cfg.default_hooks.logger = {"type": "LoggerHook", "interval": 1}
        cfg.model.decode_head.norm_cfg = {"type": "GN", "num_groups": 4}
        cfg.log_level = "INFO"
        cfg.merge_from_dict(changes)
        path = tmp_path / "tiny.py"
        cfg.dump(path)
        return path

    return write


def read(work_dir, step):
    return read_checkpoint(work_dir / f"iter_{step}.pth")


@pytest.mark.slow
@pytest.mark.parametrize("option", ["fsdp", "fsdp2"])
def test_fsdp_saves_whole_checkpoints_and_resumes(option, tiny_file, tmp_path):
    """Resumed after 4 of 6 steps, it reaches the weights of an unbroken run."""
    config = tiny_file(**{"default_hooks.checkpoint.max_keep_ckpts": 2})
    unbroken, resumed, fsdp = tmp_path / "unbroken", tmp_path / "resumed", ["--with", option]
    run_tool("dist_train.sh", config, 2, "--work-dir", unbroken, *fsdp, PORT="29620")
    middle = unbroken / "iter_4.pth"
    run_tool(
        "dist_train.sh", config, 2, "--work-dir", resumed, "--resume", middle, *fsdp, PORT="29621"
    )
    assert not (resumed / "iter_4.pth").exists(), "it began anew"
    first, second = read(unbroken, 6), read(resumed, 6)
    model = Runner.from_cfg(Config.fromfile(config)).model
    assert first["state_dict"].keys() == model.state_dict().keys(), "not a whole checkpoint"
    for name, tensor in model.state_dict().items():
        assert first["state_dict"][name].shape == tensor.shape
        torch.testing.assert_close(second["state_dict"][name], first["state_dict"][name])
    moved = sum((first["state_dict"][n] - t).abs().max() for n, t in model.state_dict().items())
    assert moved > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "changes"),
    [
        ("fsdp_bf16", {}),
        ("fsdp", {"optim_wrapper.type": "AmpOptimWrapper", "optim_wrapper.dtype": "bfloat16"}),
    ],
)
def test_fsdp_trains_in_mixed_precision(option, changes, tiny_file, tmp_path):
    """Without loss scaling and with, which PyTorch cannot do beside a fused optimizer where
    gradients are clipped."""
    imports = ["helpers.tiny_run", "helpers.amp_on_cpu"]
    fused = {"optim_wrapper.optimizer.fused": True, "optim_wrapper.clip_grad.max_norm": 1.0}
    config = tiny_file(steps=2, **changes, **fused)
    overlay = tmp_path / "on_cpu.py"
    overlay.write_text(
        f"_base_ = {str(config)!r}\ncustom_imports = {{'imports': {imports}, '_delete_': True}}\n"
    )
    work_dir = tmp_path / "run"
    run_tool("dist_train.sh", overlay, 2, "--work-dir", work_dir, "--with", option, PORT="29626")
    log = max(work_dir.glob("*/*.log")).read_text()
    losses = [float(loss) for loss in re.findall(r"  loss: ([\d.]+)", log)]
    assert len(losses) == 2
    saved = read(work_dir, 2)
    first = Runner.from_cfg(Config.fromfile(tiny_file(steps=2))).model.state_dict()
    assert any(not torch.equal(saved["state_dict"][name], first[name]) for name in first)


@pytest.mark.slow
def test_a_killed_rank_ends_the_job_and_little_is_lost(tiny_file, tmp_path):
    steps, interval, die_at = 8, 2, 5
    config = tiny_file(steps=steps)
    dying = tmp_path / "dying.py"
    hook = {"type": "DieHook", "step": die_at, "delay": 0.01, "rank": 1}
    dying.write_text(f"_base_ = {str(config)!r}\ncustom_hooks = [{hook}]\n")
    work_dir = tmp_path / "work"
    began = time.monotonic()
    killed = run_tool("dist_train.sh", dying, 2, "--work-dir", work_dir, check=False, PORT="29623")
    assert killed.returncode != 0
    assert "Signal 9" in killed.stderr, killed.stderr[-2000:]
    assert not (work_dir / f"iter_{steps}.pth").exists(), "it was over before the process died"
    assert time.monotonic() - began < 60 + start_up_seconds(), "the job hung"
    saved = int(Path((work_dir / "last_checkpoint").read_text()).stem.split("_")[1])
    assert die_at - saved <= interval
    run_tool("dist_train.sh", config, 2, "--work-dir", work_dir, "--resume", PORT="29624")
    assert (work_dir / f"iter_{steps}.pth").is_file()


def start_up_seconds():
    """How long a process takes here to import everything."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import swin_backbone, mmseg.models"], check=True)
    return 3 * (time.monotonic() - began)  # two at once, and torchrun


def with_option(config, name):
    cfg = Config(config.to_dict(), format_python_code=False)
    cfg.merge_from_dict(Config.fromfile(OPTIONS / f"{name}.py").to_dict())
    return cfg


@pytest.mark.parametrize(
    "name", ["accumulate", "ema", "checkpointing", "sync_bn", "mask_padding_seg"]
)
def test_options_train(name, scenes, tmp_path):
    cfg = with_option(tiny_config(scenes, tmp_path, steps=4, log_level="ERROR"), name)
    cfg.train_cfg.val_interval = 100
    cfg.default_hooks.checkpoint.save_best = None
    runner = Runner.from_cfg(cfg)
    runner.train()
    if name == "accumulate":
        assert runner.optim_wrapper._accumulative_counts == 4
        steps = {int(state["step"]) for state in runner.optim_wrapper.optimizer.state.values()}
        assert steps == {1}
    if name == "ema":
        assert any(type(hook).__name__ == "EMAHook" for hook in runner.hooks)
        assert "ema_state_dict" in read(tmp_path, 4)
    if name == "checkpointing":
        assert all(m.with_cp for m in runner.model.modules() if isinstance(m, SwinBlock))


@pytest.mark.parametrize("name", ["amp_bf16", "amp_fp16"])
def test_mixed_precision_is_mmengines(name):
    """mmengine has it for GPUs only."""
    option = Config.fromfile(OPTIONS / f"{name}.py").optim_wrapper
    assert option.type in OPTIM_WRAPPERS
    assert hasattr(torch, option.dtype)
    scaled = option.loss_scale == "dynamic" or option.loss_scale.get("enabled", True)
    assert scaled == (option.dtype == "float16")


@pytest.mark.parametrize(
    "name", ["ddp", "fsdp", "fsdp_bf16", "fsdp2", "fsdp2_bf16", "fsdp2_graphs", "deepspeed"]
)
def test_strategies_are_mmengines(name, scenes, tmp_path):
    """DeepSpeed itself is not installed here: that its strategy takes the settings is shown."""
    cfg = with_option(tiny_config(scenes, tmp_path), name)
    assert cfg.runner_type == "FlexibleRunner"
    kind = STRATEGIES.get(cfg.strategy.type)
    accepted = {name for base in kind.__mro__[:-1] for name in inspect.signature(base).parameters}
    assert set(cfg.strategy) - {"type"} <= accepted


def test_blocks_are_gathered_ahead_in_the_backward_pass(scenes, tmp_path):
    wrapper = with_option(tiny_config(scenes, tmp_path), "fsdp_bf16").strategy.model_wrapper
    assert wrapper.backward_prefetch == BackwardPrefetch.BACKWARD_PRE.name


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_each_swin_block_is_sharded_by_itself(version):
    backbone = SwinBackbone(embed_dims=8, depths=(1, 2), num_heads=(1, 1), strides=(4, 2),
                            out_indices=(0, 1), version=version)  # fmt: skip
    wrapped = [m for m in backbone.modules() if wrap_swin_blocks(m, recurse=False)]
    assert wrapped == [block for stage in backbone.stages for block in stage.blocks]
    assert wrap_swin_blocks(nn.Linear(1, 1), recurse=True)


def test_tools_know_the_options():
    done = call_tool("train.py", "--help")
    assert all(path.stem in done.stdout for path in OPTIONS.glob("*.py"))
    assert os.access(TOOLS / "dist_train.sh", os.X_OK)


def test_of_nccl_counts_what_no_computing_kernel_hides():
    pytest.importorskip("matplotlib")
    kernels = [
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgs)", (10, 30)),
        ("ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgs)", (25, 40)),
        ("gemm", (0, 15)),
        ("gemm", (18, 28)),
        ("Memcpy DtoD (Device -> Device)", (28, 40)),
        ("nccl:all_reduce", (10, 40)),
    ]
    assert benchmark_scaling.overlap(kernels) == (30, 3 + 12)
    assert benchmark_scaling.overlap(kernels[2:]) == (0, 0)


def test_a_line_of_the_profile_says_what_was_not_seen():
    setting = {"arch": "tiny", "batch": 2, "strategy": "ddp", "processes": 2}
    rows = [
        {**setting, "seconds": 0.02, "nccl_ms": 1.5, "exposed_ms": 0.5, "peak_memory_mib": 1.0},
        {**setting, "seconds": 0.02},
        {**setting, "error": "out of memory"},
    ]
    lines = list(csv.DictReader(io.StringIO(benchmark_scaling.profile_lines(rows))))
    assert [line["exposed_share"] for line in lines] == ["0.025", "", ""]
    assert [line["step_ms"] for line in lines] == ["20", "", ""]
    assert [line["error"] for line in lines] == ["", "the profiler saw no kernels", "out of memory"]


@pytest.mark.slow
def test_scaling_is_measured(tmp_path):
    """One and two processes; that the numbers are consistent, not what they are."""
    pytest.importorskip("matplotlib")
    run_tool(
        "benchmark_scaling.py", "--out", tmp_path, "--processes", 1, 2, "--arch", "nano",
        "--batch", 2, "--size", 64, "--steps", 2, "--warm-up", 1, "--port", 29625,
        "--strategy", "ddp", "fsdp2", "fsdp2-reshard",
    )  # fmt: skip
    rows = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    assert [(row["processes"], row["strategy"]) for row in rows] == [
        (processes, strategy)
        for processes in (1, 2)
        for strategy in ("ddp", "fsdp2", "fsdp2-reshard")
    ]
    for row in rows:
        assert row["images_per_second"] == pytest.approx(2 * row["processes"] / row["seconds"])
        assert row["peak_memory_mib"] > 0
    assert rows[0]["efficiency"] == 1
    expected = rows[3]["images_per_second"] / 2 / rows[0]["images_per_second"]
    assert rows[3]["efficiency"] == pytest.approx(expected)
    assert all(row["communication"] > 0 for row in rows[3:])
    lines = (tmp_path / "scaling.csv").read_text().splitlines()
    assert [line.split(",")[4:6] for line in lines[1:]] == [
        [row["strategy"], str(row["processes"])] for row in rows
    ]
    assert "| nano | 2 | ddp | 2 |" in (tmp_path / "scaling.md").read_text()
    assert (tmp_path / "scaling.png").stat().st_size > 0


@pytest.mark.slow
def test_one_of_many_processes_is_measured(tmp_path):
    """Without others, whose part of the images counts nevertheless."""
    pytest.importorskip("matplotlib")
    run_tool(
        "benchmark_scaling.py", "--out", tmp_path, "--processes", 8, "--arch", "nano", "--alone",
        "--batch", 2, "--size", 64, "--steps", 2, "--warm-up", 1, "--port", 29627,
        "--strategy", "ddp", "fsdp2",
    )  # fmt: skip
    rows = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    assert [(row["processes"], row["strategy"]) for row in rows] == [(8, "ddp"), (8, "fsdp2")]
    for row in rows:
        assert row["images_per_second"] == pytest.approx(8 * 2 / row["seconds"])
        assert (row["device"], row["communication"]) == ("CPU, alone", 0)
