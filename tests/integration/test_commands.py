"""Commands leave with one line and exit status 2 for what a user can get wrong; bugs do not."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.peers import import_from_beside
from helpers.small_models import write_detector, write_segmentor
from helpers.tools import HUNG
from PIL import Image

from swin_backbone.cli import commands, entry
from swin_backbone.openmmlab.mmengine_configs import read_config

TOOLS = ROOT / "tools"
CLI = {name.replace("-", "_"): f"swin-backbone {name}" for name in entry.COMMANDS}
PROGRAMS = [p for p in (ROOT / "benchmarks").glob("*.py") if "__main__" in p.read_text()]
#: How each command is called in messages, by the module that it is in.
COMMANDS = CLI | {path.stem: path.name for path in PROGRAMS}
#: What an extra, without which a command cannot do anything, is found by.
NEEDS = {
    "demo_app": "gradio",
    "linear_probe": "sklearn",
    "extract_features": "pyarrow",
    "export": "onnxscript",
    "accelerate": "transformers",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What commands are given, right and wrong, by the names that the cases use."""
    folder = tmp_path_factory.mktemp("files")
    segmentor, segmentor_pth = write_segmentor(folder)
    detector, detector_pth = write_detector(folder)
    for name, text in {
        "no_model": "x = 1",
        "broken": "model = dict(",
        "raises": "model = 1 / 0",
        "unknown_key": f"_base_ = ['{segmentor}']\nmodel = dict(backbone=dict(colour='red'))",
        "unknown_type": f"_base_ = ['{segmentor}']\nmodel = dict(decode_head=dict(type='Nothing'))",
        "bad_value": f"_base_ = ['{segmentor}']\nmodel = dict(backbone=dict(window_size=0))",
        "no_base": "_base_ = ['nowhere.py']",
        "no_import": "custom_imports = dict(imports=['no_such_module'])\nmodel = dict(type='X')",
    }.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "text.pth").write_text("no checkpoint")
    (folder / "empty").mkdir()
    torch.save({"a": torch.ones(1)}, folder / "foreign.pth")
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(folder / "image.png")
    (folder / "run").mkdir()
    for split in ("train", "val"):
        for kind, suffix in (("img_dir", "jpg"), ("ann_dir", "png")):
            (folder / "data" / kind / split).mkdir(parents=True)
            blank = Image.fromarray(np.zeros((40, 50), np.uint8))
            blank.save(folder / "data" / kind / split / f"0.{suffix}")
    return {
        "S": segmentor, "s": segmentor_pth, "D": detector, "d": detector_pth,
        "I": folder / "image.png", "F": folder, "O": folder / "out",
    }  # fmt: skip


#: Configs with something wrong, and what the line says.
CONFIGS = {
    "nowhere.py": "nowhere.py' is not a file",
    "{F}": "is not a file",
    "{F}/no_model.py": "has no model",
    "{F}/broken.py": "cannot be read: SyntaxError|cannot be read: .*syntax",
    "{F}/raises.py": "cannot be read: ZeroDivisionError",
    "{F}/no_base.py": "nowhere.py",
    "{F}/no_import.py": "no_such_module",
}
MODELS = {
    "{F}/unknown_key.py": "colour",
    "{F}/unknown_type.py": "Nothing",
    "{F}/bad_value.py": "window_size",
}
CHECKPOINTS = {
    "nowhere.pth": "nowhere.pth",
    "{F}/text.pth": "text.pth",
    "{F}/foreign.pth": "missing|not of a|lacks",
    "{F}/empty": "not a file|is a folder",
}
DEVICES = {"nonsense": "nonsense", "cuda:99": "cuda:99", "meta": "meta"}


def grid():
    """Command, its arguments and what the line says."""
    with_config = {
        "predict": ("{}", "{s}", "{I}", "--out", "{O}"),
        "demo_app": ("{}", "{s}"),
        "export": ("{}", "{s}", "--out", "{O}/m.pt2"),
        "train": ("{}", "--work-dir", "{F}/run"),
        "test": ("{}", "{s}", "--work-dir", "{F}/run"),
        "contact_sheet": ("{}", "{s}", "--out", "{O}/s.png"),
        "model_stats": ("{}",),
        "benchmark": ("{}", "--size", "32", "32", "--repeats", "1"),
        "compile_kernels": ("{}",),
        "compare_training": ("train", "{}", "--work-dir", "{F}/run"),
    }
    for name, arguments in with_config.items():
        loads = name not in (
            "train", "test", "model_stats", "compare_training", "compile_kernels"
        )  # fmt: skip
        for config, message in (CONFIGS | (MODELS if loads else {})).items():
            yield name, [a.replace("{}", config) for a in arguments], message
    with_checkpoint = {
        "predict": ("{S}", "{}", "{I}", "--out", "{O}"),
        "demo_app": ("{S}", "{}"),
        "export": ("{S}", "{}", "--out", "{O}/m.pt2"),
        "contact_sheet": ("{S}", "{}", "--out", "{O}/s.png"),
        "visualize": ("tiny", "{}", "{I}", "--out", "{O}/s.png"),
        "convert_checkpoint": ("{}", "{O}/c.pth", "--to", "timm"),
    }
    for name, arguments in with_checkpoint.items():
        for checkpoint, message in CHECKPOINTS.items():
            yield name, [a.replace("{}", checkpoint) for a in arguments], message
    with_device = {
        "predict": ("{S}", "{s}", "{I}", "--out", "{O}"),
        "demo_app": ("{S}", "{s}"),
        "visualize": ("tiny", "random", "{I}", "--out", "{O}/s.png"),
        "extract_features": ("{I}", "{O}", "--model", "tiny"),
        "linear_probe": ("tiny", "random", "--data", "{F}"),
        "benchmark": ("{S}",),
    }
    for name, arguments in with_device.items():
        for device, message in DEVICES.items():
            yield name, [*arguments, "--device", device], message
    numbers = {
        "predict": (with_device["predict"], ["--window", "--opacity", "--score"]),
        "demo_app": (with_device["demo_app"], ["--port", "--max-megabytes", "--max-megapixels"]),
        "visualize": (with_device["visualize"], ["--longest", "--cell"]),
        "extract_features": (
            with_device["extract_features"],
            ["--stages", "--every", "--batch-size", "--shard-size", "--threads", "--workers",
             "--gpus-per-worker"],
        ),
        "linear_probe": (
            with_device["linear_probe"],
            ["--stages", "--train-pixels", "--val-pixels", "--neighbours"],
        ),
        "contact_sheet": (with_checkpoint["contact_sheet"], ["--images", "--cell"]),
        "export": (with_checkpoint["export"], ["--time"]),
        "convert_checkpoint": (with_checkpoint["convert_checkpoint"], ["--window-size"]),
        "demo": ((), ["--iters", "--seed"]),
        "make_demo_data": (("{O}/data",), ["--train", "--val", "--seed"]),
        "compare_training": (with_config["compare_training"], ["--seed"]),
        "benchmark": (with_config["benchmark"], ["--batch", "--repeats", "--size"]),
        "compile_kernels": (("{S}",), ["--batch", "--size", "--threads"]),
        "benchmark_backbones": ((), ["--batch", "--repeats", "--threads", "--time-limit"]),
        "benchmark_packed": ((), ["--batch", "--batches", "--seed", "--scale"]),
        "benchmark_scaling": (
            ("--out", "{O}"),
            ["--processes", "--batch", "--size", "--steps", "--warm-up", "--port", "--timeout",
             "--unit-mb", "--bucket-mb"],
        ),
    }  # fmt: skip
    for name, (arguments, options) in numbers.items():
        for option in options:
            for value in ("-1", "x", "nan"):
                filled = [a.replace("{}", "{s}") for a in arguments]
                yield name, [*filled, f"{option}={value}"], re.escape(option)
    data = [
        f"{loader}_dataloader.dataset.data_root={{F}}/data" for loader in ("train", "val", "test")
    ]
    data = ["--work-dir", "{F}/run", "--cfg-options", *data]
    for config, message in MODELS.items():
        yield "train", [config, *data], message
        yield "test", [config, "{s}", *data], message
    for checkpoint, message in CHECKPOINTS.items():
        yield "test", ["{S}", checkpoint, *data], message
        yield "train", ["{S}", "--resume", checkpoint, *data], message
        yield "train", ["{S}", *data, f"load_from={checkpoint}"], f"{message}|no tensor"
    yield from (
        ("train", ["{S}", *data, "train_dataloader.dataset.type=Nothing"], "Nothing"),
        ("train", ["{S}", *data, "optim_wrapper.optimizer.type=Nothing"], "Nothing"),
        *[
            ("train", ["{S}", *mixed, *data], "mmengine has for GPUs alone")
            for mixed in (["--amp"], ["--with", "fast"], ["--with", "amp_fp16"])
        ],
        ("train", ["{S}", *data, "optim_wrapper.optimizer.colour=red"], "colour"),
        ("train", ["{S}", *data, "runner_type=Nothing"], "Nothing"),
        ("test", ["{S}", "{s}", *data, "test_evaluator.type=Nothing"], "Nothing"),
        ("test", ["{S}", "{s}", *data, "test_evaluator=None"], "test_evaluator"),
        ("predict", ["{S}", "{s}", "{F}/empty", "--out", "{O}"], "is no image"),
        ("predict", ["{S}", "{s}"], "--out"),
        ("predict", ["{D}", "{d}", "{I}", "--out", "{O}", "--slide", "always"], "for segmentors"),
        ("predict", ["{S}", "{d}", "{I}", "--out", "{O}"], "error: checkpoint "),
        ("predict", ["{F}/text.onnx", "{I}", "--out", "{O}"], "text.onnx"),
        ("predict", ["{S}", "{s}", "{I}", "--out", "{I}"], "image.png"),
        ("export", ["{D}", "{d}", "--out", "{O}/m.pt2"], "in format 'onnx' alone"),
        ("export", ["{S}", "{s}", "--out", "{O}/m.txt"], "must end in"),
        ("export", ["{S}", "{s}", "--out", "{O}/m.pt2", "--format", "onnx"], "must end in"),
        ("export", ["nothing", "--part", "backbone", "--out", "{O}/m.pt2"], "nothing"),
        ("export", ["{S}", "--out", "{O}/m.pt2", "--cfg-options", "modl.x=1"], "did you mean"),
        ("contact_sheet", ["{D}", "{d}", "--out", "{O}/s.png"], "must be of a segmentor"),
        ("contact_sheet", ["{S}", "{s}", "--out", "{O}/s"], "--out"),
        ("visualize", ["nothing", "random", "{I}", "--out", "{O}/s.png"], "nothing"),
        ("visualize", ["tiny", "random", "{F}/no.png", "--out", "{O}/s.png"], "no.png"),
        ("visualize", ["tiny", "random", "{F}/text.pth", "--out", "{O}/s.png"], "text.pth"),
        ("visualize", ["{F}/no_model.py", "random", "{I}", "--out", "{O}/s.png"], "no model"),
        ("visualize", ["tiny", "random", "{I}", "--out", "{O}/s.txt"], "--out"),
        ("visualize", ["tiny", "random", "{I}", "--out", "{O}/s.png", "--pixel", "99", "99"],
         "pixel must lie"),
        ("extract_features", ["{F}/empty", "{O}", "--model", "tiny"], "names no image"),
        ("extract_features", ["{I}", "{F}/run/x", "--model", "nothing"], "nothing"),
        ("extract_features", ["{I}", "{F}/run/y", "--model", "{F}/no_model.py"], "no model"),
        ("extract_features", ["{I}", "{I}", "--model", "tiny"], "image.png"),
        ("linear_probe", ["tiny", "random", "--data", "{F}/empty"], "holds no images"),
        ("linear_probe", ["nothing", "random", "--data", "{F}/empty"], "nothing"),
        ("demo_app", ["{S}"], "needs its CHECKPOINT"),
        ("accelerate", ["{F}/empty"], "config.json"),
        ("accelerate", ["timm:nothing_like_it"], "nothing_like_it"),
        ("accelerate", ["nothing like it"], "nothing like it"),
        ("accelerate", [], "MODEL"),
        ("train", ["{S}", "--with", "nothing"], "--with"),
        ("train", ["{S}", "--cfg-options", "novalue"], "KEY=VALUE"),
        ("train", ["{S}", "--cfg-options", "x=[1"], "has no 'x'"),
        ("train", ["{S}", "--cfg-options", "modl.backbone.depths=1"], "did you mean 'model'"),
        ("train", ["{S}", "--cfg-options", "model.type.x=1"], "cannot be changed"),
        ("train", ["{S}", "--cfg-options", "train_dataloader.dataset.data_root={F}/no"], "{F}/no"),
        ("train", ["{S}", "--work-dir", "{F}/run", "--launcher", "nothing"], "--launcher"),
        ("convert_checkpoint", ["{s}", "{O}/c.pth", "--to", "nobody"], "--to"),
        ("convert_checkpoint", ["{s}", "{O}/c.pth", "--to", "timm", "--window-size", "1", "2", "3"],
         "--window-size"),
        ("make_demo_data", ["{F}/empty"], "exists and was not made"),
        ("compare_training", ["plot", "{F}/empty", "--to", "{O}/p.png"], "no run under"),
        ("compare_training", ["plot", "{F}/empty", "--to", "{O}/p.txt"], "--to"),
        ("compare_training", [], "required"),
        ("benchmark_backbones", ["--show", "{F}/no.json"], "no.json"),
        ("benchmark_backbones", ["--show", "{F}/text.pth"], "text.pth"),
        ("benchmark_backbones", ["--batch", "1", "2"], "--batch"),
        ("benchmark_losses", ["--repeats", "0"], "--repeats"),
        ("benchmark_kernels", ["counters", "nothing"], "argument case: must be such as"),
        ("benchmark_kernels", ["step", "v1-tiny-w7-forward"], "argument case: .*training step"),
        ("benchmark_kernels", ["parameters", "v1-tiny-w7", "--part", "4/4"], "--part"),
        ("benchmark_models", ["--no-such-option"], "--no-such-option"),
        ("benchmark_detectors", ["--no-such-option"], "--no-such-option"),
        ("benchmark_detector_ops", ["--no-such-option"], "--no-such-option"),
        ("benchmark_detector_ops", ["--regions", "nothing"], "--regions"),
        ("benchmark_data", ["pipelines", "--images", "0"], "--images"),
        ("benchmark_encoders", ["--repeats", "0"], "--repeats"),
        ("benchmark_encoders", ["--cases", "nothing"], "--cases"),
        ("benchmark_volumes", ["--repeats", "0"], "--repeats"),
        ("benchmark_backbones", ["--plot", "{O}/p.txt"], "--plot"),
        (
            "benchmark_scaling",
            ["--out", "{O}", "--alone", "--strategy", "ddp", "--gradients", "bfloat16"],
            "--gradients of DDP .* --alone",
        ),
        *[
            ("benchmark_scaling", ["--out", "{O}", *options], f"{options[0]}.* needs a GPU")
            for options in (
                ["--profile", "{O}/p.csv"],
                ["--strategy", "graphs"],
                ["--strategy", "fsdp2-graphs"],
            )
            if not torch.cuda.is_available()
        ],
    )  # fmt: skip


CASES = list(grid())


def run(name, arguments, capsys):
    main = importlib.import_module(f"swin_backbone.cli.{name}" if name in CLI else name).main
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code, *capsys.readouterr()


@pytest.mark.filterwarnings("ignore:no checkpoint is given")  # said before the error
@pytest.mark.parametrize("name", sorted({name for name, _, _ in CASES}))
def test_bad_input_is_one_line(name, files, capsys, monkeypatch, tmp_path):
    if name in NEEDS:
        import_from_beside(NEEDS[name])
    pytest.importorskip("mmdet")
    monkeypatch.chdir(tmp_path)
    wrong = []
    for command, arguments, message in CASES:
        if command != name:
            continue
        arguments = [argument.format(**files) for argument in arguments]
        try:
            code, _, printed = run(name, arguments, capsys)
        except BaseException as error:
            capsys.readouterr()
            wrong.append((arguments, repr(error)))
            continue
        lines = [
            line
            for line in printed.splitlines()
            if line.startswith(COMMANDS[name]) and "error: " in line
        ]
        message = message.replace("{F}", re.escape(str(files["F"])))
        if code != 2 or len(lines) != 1 or not re.search(message, lines[0]) or "Trace" in printed:
            wrong.append((arguments, code, printed[-600:]))
    assert not wrong, "\n".join(map(str, wrong))
    assert not files["O"].exists()


#: ``env`` takes nothing; of ``new``, tests/unit/test_new_config.py has what it refuses.
APART = {"env", "new"}


def test_the_grid_covers_every_command():
    assert {name for name, _, _ in CASES} == set(COMMANDS) - APART


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_names_every_argument(name, capsys):
    if name in NEEDS:
        import_from_beside(NEEDS[name])
    code, printed, _ = run(name, ["--help"], capsys)
    assert code == 0
    assert printed.startswith(f"usage: {COMMANDS[name]}")


def raise_ours():
    raise ValueError("a message\nfor users")


def cause_a_bug():
    return None + 1


def blame_a_bug():
    try:
        cause_a_bug()
    except TypeError as error:
        raise ValueError("the config is wrong") from error


def raise_through_a_library():
    sorted([2, 1], key=lambda _: raise_ours())


class TestWhoIsAtFault:
    """Errors in files of the project, for which this one stands."""

    @pytest.fixture(autouse=True)
    def ours(self, monkeypatch):
        monkeypatch.setattr(commands, "OUR_FOLDERS", (str(Path(__file__).parent),))
        monkeypatch.delenv(commands.VARIABLE, raising=False)

    @pytest.mark.parametrize(
        "act",
        [
            raise_ours,
            raise_through_a_library,
            lambda: Path("/no/such/file").read_text(),
            lambda: os.listdir("/no/such/folder"),
        ],
    )
    def test_the_user(self, act, capsys):
        with pytest.raises(SystemExit) as caught:
            commands.command(lambda argv=None: act())([])
        assert caught.value.code == 2
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1
        assert printed.startswith("test_commands.py: error: ")

    @pytest.mark.parametrize(
        ("act", "error"),
        [
            (cause_a_bug, TypeError),
            (blame_a_bug, ValueError),
            (lambda: int("x"), ValueError),
            (lambda: {}["x"], KeyError),
            (lambda: [][0], IndexError),
            (lambda: torch.zeros(2) @ torch.zeros(3), RuntimeError),
            (lambda: raise_ours(1), TypeError),
            (lambda: __import__("no_such_module"), ImportError),
        ],
    )
    def test_the_project(self, act, error):
        with pytest.raises(error):
            commands.command(lambda argv=None: act())([])

    def test_the_traceback_can_be_seen(self, monkeypatch):
        monkeypatch.setenv(commands.VARIABLE, "1")
        with pytest.raises(ValueError, match="for users"):
            commands.command(lambda argv=None: raise_ours())([])


def test_as_users_run_them(files, tmp_path):
    """In a process of its own: what is printed, and the status that a shell sees."""
    for tool, arguments, message in (
        ("predict.py", [files["F"] / "no_model.py", files["s"], files["I"], "--out", tmp_path],
         "has no model"),
        ("make_demo_data.py", [tmp_path / "data", "--train", "0"], "--train"),
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, TOOLS / tool, *map(str, arguments)],
            capture_output=True, text=True, timeout=HUNG,
        )  # fmt: skip
        assert done.returncode == 2
        line = done.stderr.splitlines()[-1]
        assert line.startswith(f"swin-backbone {tool[:-3].replace('_', '-')}: error: ")
        assert message in line
        assert "Traceback" not in done.stderr


def test_what_custom_imports_do(tmp_path, monkeypatch):
    """docs/training.md says so of mmengine: a list replaces the base's, and options come late."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("imported_a", "imported_b", "imported_c"):
        (tmp_path / f"{name}.py").touch()
    (tmp_path / "base.py").write_text("custom_imports = dict(imports=['imported_a'])")
    (tmp_path / "derived.py").write_text(
        "_base_ = 'base.py'\ncustom_imports = dict(imports=['imported_b'])"
    )
    cfg = read_config(tmp_path / "derived.py", {"custom_imports.imports": ["imported_c"]})
    assert cfg.custom_imports.imports == ["imported_c"]
    assert [name for name in sys.modules if name.startswith("imported_")] == ["imported_b"]
