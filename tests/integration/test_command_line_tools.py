"""The command line tools: training as users run it, the others in this process."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.image_files import write_bad_files
from helpers.paths import ROOT
from helpers.tiny_run import tiny_config
from helpers.tools import call_tool, run_tool
from mmengine.config import Config
from PIL import Image

from swin_backbone.cli import launching
from swin_backbone.cli.predict import name_pictures, paint
from swin_backbone.inference.media_files import find_files, on_one_line
from swin_backbone.inference.painters import Segmentor
from swin_backbone.inference.predictors import (
    MOST_WINDOWS,
    CheckpointPredictor,
    Sliding,
    TooManyWindowsError,
)

CONFIG = next((ROOT / "configs" / "demo").glob("*.py"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "data"
    call_tool("make_demo_data.py", folder, "--train", 8, "--val", 3)
    return folder


def options(data, steps):
    roots = [f"{loader}_dataloader.dataset.data_root={data}" for loader in ("train", "val", "test")]
    return [
        "--cfg-options",
        *roots,
        f"train_cfg.max_iters={steps}",
        f"train_cfg.val_interval={steps}",
        "default_hooks.checkpoint.interval=1",
        "default_hooks.logger.interval=1",
        "train_dataloader.num_workers=0",
        "train_dataloader.persistent_workers=False",
        "val_dataloader.num_workers=0",
        "val_dataloader.persistent_workers=False",
        "test_dataloader.num_workers=0",
        "test_dataloader.persistent_workers=False",
    ]


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Work dir of a run of two steps."""
    work_dir = tmp_path_factory.mktemp("run")
    run_tool("train.py", CONFIG, "--work-dir", work_dir, *options(data, 2))
    return work_dir


def logged_steps(work_dir):
    log = max(work_dir.rglob("scalars.json"))
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return [record["iter"] for record in records if "loss" in record]


def test_train_writes_checkpoints_and_evaluates(run):
    assert (run / "iter_2.pth").is_file()
    assert logged_steps(run) == [1, 2]
    assert '"mIoU"' in max(run.rglob("scalars.json")).read_text()


@pytest.mark.parametrize("source", ["last", "named"])
def test_train_resumes(source, run, data, tmp_path):
    if source == "last":
        (tmp_path / "last_checkpoint").write_text(str(run / "iter_2.pth"))
        resume = ["--resume"]
    else:
        resume = ["--resume", run / "iter_2.pth"]
    call_tool("train.py", CONFIG, "--work-dir", tmp_path, *resume, *options(data, 3))
    assert logged_steps(tmp_path) == [3]


def test_test_evaluates_and_writes_labels_and_pictures(run, data, tmp_path):
    done = call_tool(
        "test.py", CONFIG, run / "iter_2.pth", "--work-dir", tmp_path, "--out", tmp_path / "labels",
        "--show-dir", tmp_path / "shown", *options(data, 2),
    )  # fmt: skip
    assert "mIoU" in done.stdout + done.stderr
    names = {path.stem for path in (data / "img_dir" / "val").iterdir()}
    assert {path.stem for path in (tmp_path / "labels").iterdir()} == names
    assert len(list((tmp_path / "shown").rglob("test_*.png"))) == len(names)


@pytest.mark.slow
def test_two_processes_on_the_cpu_train_and_test(data, tmp_path):
    environment = {"PORT": "29617"}
    config = tmp_path / "sync_bn.py"
    head = "dict(norm_cfg=dict(_delete_=True, type='SyncBN'))"
    config.write_text(f"_base_ = ['{CONFIG}']\nmodel = dict(decode_head={head})\n")
    run_tool("dist_train.sh", config, 2, "--work-dir", tmp_path, *options(data, 2), **environment)
    assert logged_steps(tmp_path) == [1, 2]
    done = run_tool(
        "dist_test.sh", config, tmp_path / "iter_2.pth", 2, *options(data, 2), **environment
    )
    assert "mIoU" in done.stdout + done.stderr


@pytest.mark.slow
def test_two_nodes_train_as_one(data, tmp_path):
    """Two nodes of a process each, on this machine: the losses and weights of two processes."""
    port = "29618"
    arguments = [CONFIG, 1, "--work-dir", tmp_path / "nodes", *options(data, 2)]

    def node(rank):
        places = {"NNODES": "2", "NODE_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "PORT": port}
        return run_tool("dist_train.sh", *arguments, **places)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(node, range(2)))
    one = [CONFIG, 2, "--work-dir", tmp_path / "one", *options(data, 2)]
    run_tool("dist_train.sh", *one, PORT=port)
    assert logged_steps(tmp_path / "nodes") == [1, 2]
    found, expected = (
        torch.load(tmp_path / name / "iter_2.pth", weights_only=False)["state_dict"]
        for name in ("nodes", "one")
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)


def test_slurm_asks_for_a_process_a_gpu(tmp_path):
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    asked = run_tool(
        "slurm_train.sh", "part", "job", CONFIG, "dir", "--amp", PATH=path, GPUS="16"
    ).stdout.split("\n")
    for word in ["--ntasks=16", "--gres=gpu:8", "--launcher=slurm", "--work-dir=dir", "--amp"]:
        assert word in asked


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("train.py", ["nowhere.py"], "config 'nowhere.py' is not a file"),
        ("train.py", [CONFIG, "--work-dir", "{tmp}"], "{tmp}/missing"),
        ("test.py", [CONFIG, "nowhere.pth"], "{tmp}/missing"),
        ("predict.py", [CONFIG, "nowhere.pth", "x", "--out", "{tmp}"], "checkpoint 'nowhere.pth'"),
        ("dist_train.sh", [CONFIG], "usage: tools/dist_train.sh CONFIG GPUS"),
    ],
)
def test_what_is_missing_is_named(tool, arguments, message, tmp_path):
    arguments = [str(argument).format(tmp=tmp_path) for argument in arguments]
    if "{tmp}/missing" in message:
        arguments += ["--cfg-options"]
        arguments += [f"{x}_dataloader.dataset.data_root={tmp_path}/missing" for x in ("train", "val", "test")]  # fmt: skip # noqa: E501
    run = run_tool if tool.endswith(".sh") else call_tool
    done = run(tool, *arguments, check=False)
    assert done.returncode != 0
    assert message.format(tmp=tmp_path) in done.stdout + done.stderr


def test_training_with_one_image_says_what_a_batch_norm_needs(data, tmp_path):
    """The head pools whole maps, and a norm then has one value a channel."""
    config = tmp_path / "batch_norm.py"
    head = "dict(norm_cfg=dict(_delete_=True, type='BN'))"
    config.write_text(f"_base_ = ['{CONFIG}']\nmodel = dict(decode_head={head})\n")
    one = [*options(data, 1), "train_dataloader.batch_size=1"]
    done = call_tool("train.py", config, "--work-dir", tmp_path, *one, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (line,) = (x for x in done.stderr.splitlines() if "error:" in x)
    assert "size torch.Size([1," in line
    assert "train_dataloader.batch_size of 2 or more images a process" in line


@pytest.mark.parametrize("kind", ["image", "folder", "glob"])
def test_predict_paints_a_picture_for_each_image(kind, run, data, tmp_path):
    folder = data / "img_dir" / "val"
    images = sorted(folder.iterdir())
    chosen = images[:1] if kind == "image" else images
    source = {"image": chosen[0], "folder": folder, "glob": folder / "*.jpg"}[kind]
    call_tool("predict.py", CONFIG, run / "iter_2.pth", source, "--out", tmp_path)
    assert sorted(p.stem for p in tmp_path.iterdir()) == sorted(p.stem for p in chosen)
    picture, image = Image.open(tmp_path / f"{chosen[0].stem}.png"), Image.open(chosen[0])
    assert picture.width > image.width  # the legend stands beside it
    painted = np.asarray(picture)[: image.height, : image.width].astype(int)
    assert np.abs(painted - np.asarray(image)).mean() > 5


def test_predict_reports_and_skips_what_it_cannot_do(run, data, tmp_path):
    """Files that are no images, whatever their names, and a picture that cannot be written."""
    good, blocked, *_ = (data / "img_dir" / "val").iterdir()
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    reasons = write_bad_files(folder)
    (folder / "good.jpg").write_bytes(good.read_bytes())
    (folder / "blocked.jpg").write_bytes(blocked.read_bytes())
    (out / "blocked.png").mkdir(parents=True)
    done = call_tool("predict.py", CONFIG, run / "iter_2.pth", folder, "--out", out, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"1 pictures in {out}" in done.stderr
    for path, reason in reasons.items():
        (line,) = (x for x in done.stderr.splitlines() if f"skipped {on_one_line(path)}: " in x)
        assert reason in line
    assert f"blocked.jpg: {out / 'blocked.png'} cannot be written: " in done.stderr
    assert "is a folder" in done.stderr
    assert [path.name for path in out.iterdir() if path.is_file()] == ["good.png"]


def test_pictures_have_names_of_their_own(tmp_path):
    """Images that differ in their suffix alone have it in their pictures' names."""
    images = {Path("in", name): Path(name) for name in ("a.jpg", "a.png", "b.png", "c/a.png")}
    named = {path: str(below) for path, below in name_pictures(images, Path()).items()}
    assert list(named.values()) == ["a.jpg.png", "a.png.png", "b.png", "c/a.png"]
    assert list(named) == list(images)
    images[Path("other", "b.png")] = Path("b.png")
    with pytest.raises(
        ValueError, match=r"in/b\.png and other/b\.png would both become b\.png\.png"
    ):
        name_pictures(images, Path())


def test_no_picture_replaces_an_image(tmp_path):
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"would replace the image .*; choose another --out"):
        name_pictures(dict(find_files([str(tmp_path)])), tmp_path / "x" / "..")


def test_windows_that_would_be_too_many_are_refused_by_name(run, tmp_path):
    """And the job goes on with the next image."""
    Image.new("RGB", (96, 72)).save(tmp_path / "image.png")
    predictor = CheckpointPredictor(
        str(CONFIG), str(run / "iter_2.pth"), "cpu", Sliding("always", 2)
    )
    with pytest.raises(TooManyWindowsError, match=r"--window 2 would cut 96x72 pixels into 6745"):
        predictor.labels(np.zeros((72, 96, 3), np.uint8))
    reason = paint(Segmentor(predictor), tmp_path / "image.png", tmp_path / "picture.png")
    assert reason.endswith(f"at most {MOST_WINDOWS} are seen; choose a larger --window")
    assert not (tmp_path / "picture.png").exists()


@pytest.mark.parametrize("size", [(1, 1), (72, 96), (1000, 3), (13_377, 13_377)])
@pytest.mark.parametrize("window", [1, 2, 64, 512, 1024])
def test_windows_cover_the_image_and_are_never_more_than_the_limit(size, window):
    sliding = Sliding("always", window)
    try:
        rows, columns = sliding.starts(*size)
    except TooManyWindowsError:
        assert window < 1024  # the default serves every image that is read
        return
    assert len(rows) * len(columns) <= MOST_WINDOWS
    for starts, length in zip((rows, columns), size, strict=True):
        covered = np.zeros(length, bool)
        for start in starts:
            covered[start : start + window] = True
        assert covered.all()


@pytest.mark.parametrize(
    ("options", "message"),
    [((("auto"), 0), "--window must be at least 1, got 0"), ((("some"), 5), "mode must be 'auto'")],
)
def test_sliding_refuses_what_it_cannot_do(options, message):
    with pytest.raises(ValueError, match=message):
        Sliding(*options)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (MemoryError(), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_an_image_that_needs_too_much_memory_does_not_end_a_job(error, reason, tmp_path):
    class Painter:
        def paint(self, image):
            raise error

    Image.new("RGB", (6, 4)).save(tmp_path / "image.png")
    arguments = Painter(), tmp_path / "image.png", tmp_path / "picture.png"
    if reason:
        assert paint(*arguments) == "too large for the memory: 6x4 pixels"
    else:
        with pytest.raises(RuntimeError, match="shape mismatch"):
            paint(*arguments)


def test_predict_in_windows_agrees_with_whole_where_one_window_suffices(run, data, tmp_path):
    image = next((data / "img_dir" / "val").iterdir())
    for mode in ("always", "never"):
        call_tool(
            "predict.py", CONFIG, run / "iter_2.pth", image, "--out", tmp_path / mode,
            "--slide", mode, "--window", 512,
        )  # fmt: skip
    always, never = (
        np.asarray(Image.open(tmp_path / mode / f"{image.stem}.png"))
        for mode in ("always", "never")
    )
    assert np.array_equal(always, never)


@pytest.mark.slow
def test_demo_runs_shortened(tmp_path):
    done = call_tool("demo.py", "--out", tmp_path, "--iters", 4)
    assert "mIoU" in done.stdout
    assert "majority class" in done.stdout
    assert Image.open(tmp_path / "predictions.png").width > 600


OPTIONS = {path.stem: path for path in sorted((ROOT / "configs/_base_/options").glob("*.py"))}


def settings_of(option):
    """By dotted names: the dictionaries of an option's file, and its other settings."""

    def walk(value, place):
        if isinstance(value, dict):
            found[0][place] = value
            for name, one in value.items():
                walk(one, f"{place}.{name}" if place else name)
        else:
            found[1][place] = value

    found = {}, {}
    walk(Config.fromfile(OPTIONS[option]).to_dict(), "")
    return found


def holds(cfg, settings):
    """Whether a config has settings with dotted names."""
    return all(reduce(lambda one, name: one[name], [cfg, *place.split(".")]) == value
               for place, value in settings.items())  # fmt: skip


@pytest.mark.parametrize("value", [None, "dynamic", 512.0], ids=repr)
@pytest.mark.parametrize("option", OPTIONS)
def test_options_take_the_place_of_what_a_config_has(option, value):
    """Of a hook that is ``None``, of a loss scale that is a word or a number, too."""
    places, settings = settings_of(option)
    for place in [place for place in places if place]:
        *above, last = place.split(".")
        content = {last: value}
        for name in reversed(above):
            content = {name: content}
        cfg = Config({"optim_wrapper": {}, **content})
        launching.apply_options(cfg, [option])
        assert holds(cfg, settings)


@pytest.mark.parametrize("option", ["amp_bf16", "fast", "fsdp_bf16", "fsdp2_bf16", "fsdp2_graphs"])
def test_the_last_option_counts(option):
    """Of options that set the same things, in either order."""
    for names in (["amp_fp16", option], [option, "amp_fp16"]):
        cfg = Config({"optim_wrapper": {"type": "OptimWrapper"}})
        launching.apply_options(cfg, names)
        assert holds(cfg, settings_of(names[-1])[1])


@pytest.mark.parametrize(
    "option", ["ddp", "fsdp", "fsdp_bf16", "fsdp2", "fsdp2_bf16", "fsdp2_graphs"]
)
def test_options_for_several_processes_need_a_launcher(option, tmp_path):
    cfg = tiny_config(tmp_path, tmp_path / "run")
    launching.apply_options(cfg, [option])
    with pytest.raises(ValueError, match="none have been started: use a launcher"):
        launching.build_runner(cfg)
