"""The tools as users run them: train, resume, evaluate, predict, on several processes."""

import importlib.util
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_run import tiny_config
from mmengine.config import Config
from PIL import Image

TOOLS = Path(__file__).parent.parent / "tools"
CLASSES = ("ground", "box", "disc")
PALETTE = [[128, 64, 128], [244, 35, 232], [70, 70, 70]]


def run(command, **environment):
    """Output of a command that succeeds."""
    done = launch(command, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def launch(command, **environment):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [str(part) for part in command]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def config_file(scenes, tmp_path_factory):
    """A run of six steps. Its SyncBN needs GPUs, and has to become batch norm without them."""
    config = tiny_config(scenes, "unused", steps=6, log_level="INFO")
    config.pop("work_dir")
    config.pop("experiment_name")
    config.custom_imports = {"imports": ["swin_backbone"]}
    config.model.decode_head.norm_cfg = {"type": "SyncBN"}
    config.default_hooks.logger = {"type": "LoggerHook", "interval": 1}
    config.log_processor = {"by_epoch": False}
    for loader in ("train_dataloader", "val_dataloader"):
        config[loader].dataset.metainfo = {"classes": CLASSES, "palette": PALETTE}
    config.test_dataloader = config.val_dataloader
    config.test_evaluator = config.val_evaluator
    config.test_cfg = {"type": "TestLoop"}
    config.test_pipeline = config.val_dataloader.dataset.pipeline
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    config.dump(path)
    return path


@pytest.fixture(scope="module")
def trained(config_file, tmp_path_factory):
    """Work dir of a finished run, and what it printed."""
    work_dir = tmp_path_factory.mktemp("run")
    output = run([sys.executable, TOOLS / "train.py", config_file, "--work-dir", work_dir])
    return work_dir, output


@pytest.fixture(scope="module")
def checkpoint(trained):
    return trained[0] / "iter_6.pth"


@pytest.fixture
def tool(monkeypatch):
    """Load a tool as a module, with a command line."""

    def load(name, *arguments):
        monkeypatch.syspath_prepend(TOOLS)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        specification = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        return module

    return load


def steps_of(output):
    return [int(step) for step in re.findall(r"Iter\(train\) +\[ *(\d+)/", output)]


def miou_of(output):
    return float(re.findall(r"mIoU: +([\d.]+)", output)[-1])


def test_train(trained):
    work_dir, output = trained
    assert steps_of(output) == [1, 2, 3, 4, 5, 6]
    assert (work_dir / "iter_6.pth").is_file()
    assert Config.fromfile(work_dir / "tiny.py").train_cfg.max_iters == 6


@pytest.mark.parametrize("given", ["the last one", "a checkpoint"])
def test_resume(config_file, checkpoint, tmp_path, given):
    resume = ["--resume", checkpoint]
    if given == "the last one":
        (tmp_path / "iter_6.pth").symlink_to(checkpoint)
        (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_6.pth"))
        resume = ["--resume"]
    options = ["--work-dir", tmp_path, "--cfg-options", "train_cfg.max_iters=8"]
    output = run([sys.executable, TOOLS / "train.py", config_file, *resume, *options])
    assert steps_of(output) == [7, 8]
    assert (tmp_path / "iter_8.pth").is_file()


@pytest.fixture(scope="module")
def tested(config_file, checkpoint, tmp_path_factory):
    """Folder of predicted labels, and what the evaluation printed."""
    folder = tmp_path_factory.mktemp("tested")
    written = ["--out", folder / "labels", "--show-dir", folder / "show"]
    test = [sys.executable, TOOLS / "test.py", config_file, checkpoint]
    output = run([*test, "--work-dir", folder / "run", *written])
    return folder, output


def test_evaluation_scores_what_it_writes(tested, scenes):
    folder, output = tested
    labels, predicted = [], []
    for path in sorted((scenes / "ann_dir" / "val").iterdir()):
        labels.append(np.array(Image.open(path)).ravel())
        predicted.append(np.array(Image.open(folder / "labels" / path.name)).ravel())
    labels, predicted = np.concatenate(labels), np.concatenate(predicted)
    ious = []
    for kind in range(3):
        union = ((labels == kind) | (predicted == kind)).sum()
        ious.append(((labels == kind) & (predicted == kind)).sum() / union)
    assert miou_of(output) == pytest.approx(100 * np.mean(ious), abs=0.01)


def test_evaluation_paints(tested, scenes):
    painted = list((tested[0] / "show").rglob("*.png"))
    assert len(painted) == len(list((scenes / "img_dir" / "val").iterdir()))


@pytest.mark.slow
def test_two_processes_on_the_cpu(config_file, checkpoint, tested, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there are GPUs, which the processes would take")
    environment = {"PYTHON": sys.executable, "PORT": "29611"}
    work_dir = ["--work-dir", tmp_path]
    train = [TOOLS / "dist_train.sh", config_file, 2, *work_dir]
    output = run([*train, "--cfg-options", "train_cfg.max_iters=4"], **environment)
    assert steps_of(output) == [1, 2, 3, 4]  # the main process alone speaks
    weights = torch.load(tmp_path / "iter_4.pth", weights_only=True)["state_dict"]
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    output = run([TOOLS / "dist_test.sh", config_file, checkpoint, 2, *work_dir], **environment)
    assert miou_of(output) == pytest.approx(miou_of(tested[1]), abs=0.01)


@pytest.fixture
def recorder(tmp_path):
    """A program that writes down its arguments, and their reader."""
    record, program = tmp_path / "record", tmp_path / "bin" / "srun"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {record}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program, lambda: record.read_text().splitlines()


@pytest.mark.parametrize("nodes", [1, 3])
def test_torchrun_on_nodes(recorder, nodes):
    program, recorded = recorder
    environment = {"PYTHON": str(program)}
    expected = ["--nnodes=1", "--node_rank=0", "--master_addr=127.0.0.1", "--master_port=29500"]
    if nodes > 1:
        environment |= {"NNODES": "3", "NODE_RANK": "2", "MASTER_ADDR": "head", "PORT": "1234"}
        expected = ["--nnodes=3", "--node_rank=2", "--master_addr=head", "--master_port=1234"]
    run([TOOLS / "dist_train.sh", "my config.py", 8, "--work-dir", "my runs"], **environment)
    arguments = recorded()
    assert arguments[:2] == ["-m", "torch.distributed.run"]
    assert {*expected, "--nproc_per_node=8"} <= set(arguments)
    tool = arguments.index(str(TOOLS / "train.py"))
    told = ["my config.py", "--work-dir", "my runs", "--launcher", "pytorch"]
    assert arguments[tool + 1 :] == told


def test_slurm(recorder):
    program, recorded = recorder
    environment = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHON": "python3",
        "GPUS": "16",
        "SRUN_ARGS": "--qos=high --time=60",
    }
    train = [TOOLS / "slurm_train.sh", "gpu", "swin", "my config.py", "runs", "--amp"]
    run(train, **environment)
    arguments = recorded()
    asked = {"--ntasks=16", "--ntasks-per-node=8", "--gres=gpu:8", "--qos=high", "--time=60"}
    assert asked <= set(arguments)
    tool = arguments.index(str(TOOLS / "train.py"))
    assert arguments[tool + 1 :] == ["my config.py", "--work-dir=runs", "--launcher=slurm", "--amp"]


@pytest.mark.parametrize("script", ["dist_train.sh", "dist_test.sh", "slurm_train.sh"])
def test_scripts_tell_their_usage(script):
    done = launch([TOOLS / script])
    assert done.returncode == 2
    assert script in done.stderr


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_missing_config(tool, name):
    arguments = ["no/such.py"] if name == "train" else ["no/such.py", "some.pth"]
    with pytest.raises(FileNotFoundError, match=r"config 'no/such\.py' is not a file"):
        tool(name, *arguments).main()


@pytest.mark.parametrize(
    ("name", "split"), [("train", "train"), ("train", "val"), ("test", "test")]
)
def test_a_missing_data_folder(tool, config_file, tmp_path, name, split):
    arguments = [config_file] if name == "train" else [config_file, tmp_path / "some.pth"]
    option = f"{split}_dataloader.dataset.data_root={tmp_path}/nowhere"
    with pytest.raises(FileNotFoundError, match=f"{split}_dataloader: .*nowhere") as raised:
        tool(name, *arguments, "--work-dir", tmp_path / "run", "--cfg-options", option).main()
    assert "does not exist" in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_missing_checkpoint(tool, config_file, tmp_path, name):
    gone = tmp_path / "gone.pth"
    arguments = ["--resume", gone] if name == "train" else [gone]
    options = ["--work-dir", tmp_path, "--cfg-options", f"experiment_name={tmp_path.name}"]
    with pytest.raises(FileNotFoundError, match=f"checkpoint '{gone}' is not a file"):
        tool(name, config_file, *arguments, *options).main()


def test_amp_takes_the_mixed_precision_wrapper(tool, config_file):
    config = Config.fromfile(config_file)
    tool("train").use_mixed_precision(config)
    assert config.optim_wrapper.type == "AmpOptimWrapper"
    assert config.optim_wrapper.loss_scale == "dynamic"


def test_amp_with_another_wrapper(tool, config_file):
    config = Config.fromfile(config_file)
    config.optim_wrapper.type = "ApexOptimWrapper"
    with pytest.raises(ValueError, match=r"--amp needs .* got 'ApexOptimWrapper'"):
        tool("train").use_mixed_precision(config)


@pytest.fixture
def predict(tool, config_file, checkpoint, tmp_path):
    """Run tools/predict.py; returns its exit status and the folder of pictures."""

    def run_predict(*arguments):
        out = tmp_path / "pictures"
        given = [config_file, checkpoint, *arguments, "--out", out, "--device", "cpu"]
        return tool("predict", *given).main(), out

    return run_predict


IN_TRAIN = [f"train/scene_{i}.png" for i in range(8)]
IN_VAL = [f"val/scene_{i}.png" for i in range(4)]


def names_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("inputs", "pictures"),
    [
        (["img_dir/val/scene_1.jpg"], ["scene_1.png"]),
        (["img_dir/val"], [f"scene_{i}.png" for i in range(4)]),
        (["img_dir"], [*IN_TRAIN, *IN_VAL]),
        (["img_dir/val/*_[02].jpg"], ["scene_0.png", "scene_2.png"]),
        (["img_dir/val/scene_3.jpg", "img_dir/val/*_1.jpg"], ["scene_1.png", "scene_3.png"]),
    ],
    ids=["image", "folder", "nested folders", "glob", "several"],
)
def test_predict(predict, scenes, inputs, pictures):
    status, out = predict(*(scenes / entry for entry in inputs))
    assert status == 0
    assert names_in(out) == pictures


def test_a_prediction_is_what_evaluation_found(predict, scenes, tested):
    """At full opacity the picture shows the class colours, beside it the legend."""
    _, out = predict(scenes / "img_dir" / "val" / "scene_0.jpg", "--opacity", 1)
    label = np.array(Image.open(tested[0] / "labels" / "scene_0.png"))
    picture = np.array(Image.open(out / "scene_0.png"))
    height, width = label.shape
    assert np.array_equal(picture[:height, :width], np.array(PALETTE)[label])
    legend = picture[:, width:].reshape(-1, 3)
    for kind in range(3):
        shown = (legend == PALETTE[kind]).all(axis=1).any()
        assert shown == (kind in label)


def test_opacity_zero_shows_the_image(predict, scenes):
    source = scenes / "img_dir" / "val" / "scene_0.jpg"
    _, out = predict(source, "--opacity", 0)
    image = np.array(Image.open(source)).astype(int)
    picture = np.array(Image.open(out / "scene_0.png"))[: image.shape[0], : image.shape[1]]
    assert np.abs(picture - image).max() <= 3  # two decoders of JPEG


@pytest.mark.parametrize(
    ("choice", "whole"),
    [("never", True), ("always", False), ("auto", True), ("auto, large", False)],
)
def test_windows(tool, config_file, checkpoint, scenes, tmp_path, monkeypatch, choice, whole):
    image = scenes / "img_dir" / "val" / "scene_0.jpg"
    out = ["--out", tmp_path, "--device", "cpu", "--window", 24, "--slide", choice.split(",")[0]]
    module = tool("predict", config_file, checkpoint, image, *out)
    if "large" in choice:
        monkeypatch.setattr(module, "LARGE", 100)
    sizes = []
    inference = module.inference_model

    def watch(model, image):
        hook = lambda _, inputs: sizes.append(tuple(inputs[0].shape[2:]))  # noqa: E731
        with model.backbone.register_forward_pre_hook(hook):
            return inference(model, image)

    monkeypatch.setattr(module, "inference_model", watch)
    assert module.main() == 0
    shape = np.array(Image.open(image)).shape[:2]
    assert (sizes == [shape]) == whole
    if not whole:
        assert len(sizes) > 1
        assert set(sizes) == {(24, 24)}


def test_a_corrupt_image_is_reported(config_file, checkpoint, scenes, tmp_path):
    source = scenes / "img_dir" / "val" / "scene_0.jpg"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(source.read_bytes()[:200])
    (tmp_path / "in" / "b.jpg").write_bytes(source.read_bytes())
    (tmp_path / "in" / "c.png").write_text("no image")
    predict = [sys.executable, TOOLS / "predict.py", config_file, checkpoint, tmp_path / "in"]
    done = launch([*predict, "--out", tmp_path / "out", "--device", "cpu"], COLUMNS="400")
    assert done.returncode == 1, done.stderr
    assert names_in(tmp_path / "out") == ["b.png"]
    for name in ("a.jpg", "c.png"):
        assert f"skipped {tmp_path}/in/{name}: not a readable image" in done.stderr
    assert "1 pictures in" in done.stderr


def test_predict_nothing(predict, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"input '.*\*\.bmp' is no image"):
        predict(tmp_path / "*.bmp")


def test_two_images_of_one_name(predict, scenes):
    images = [scenes / "img_dir" / split / "scene_0.jpg" for split in ("train", "val")]
    with pytest.raises(ValueError, match=r"would both become .*scene_0\.png"):
        predict(*images)


@pytest.mark.parametrize("missing", ["config", "checkpoint"])
def test_predict_without(tool, config_file, checkpoint, scenes, tmp_path, missing):
    given = {"config": config_file, "checkpoint": checkpoint, missing: tmp_path / "gone"}
    module = tool("predict", *given.values(), scenes / "img_dir" / "val", "--out", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=f"{missing} '.*gone' is not a file"):
        module.main()


def test_predict_reads_checkpoints_safely(tool, config_file, tmp_path, scenes):
    """A file that would run code when unpickled is refused, and the code is not run."""
    trap = tmp_path / "trap"
    torch.save({"state_dict": {}, "meta": Trap(trap)}, tmp_path / "bad.pth")
    arguments = [config_file, tmp_path / "bad.pth", scenes / "img_dir" / "val"]
    with pytest.raises(Exception, match="could execute code"):
        tool("predict", *arguments, "--out", tmp_path / "out", "--device", "cpu").main()
    assert not trap.exists()


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.slow
def test_demo_shortened(tmp_path):
    output = run([sys.executable, TOOLS / "demo.py", "--out", tmp_path, "--iters", 4])
    majority = float(re.search(r"majority class +([\d.]+) %", output)[1])
    assert 100 / 6 / 6 < majority < 20
    assert re.search(r"mIoU +[\d.]+ %", output)
    assert (tmp_path / "run" / "iter_4.pth").is_file()
    assert Image.open(tmp_path / "predictions.png").width > 3 * 220
