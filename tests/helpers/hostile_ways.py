"""Offer hostile files to every way in, in one process that must survive.

    python -m helpers.hostile_ways DATA FOLDER

Prints a line for everything that was not refused as it should be, and at the end how many were.
"""

import contextlib
import io
import random
import resource
import sys
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner import Runner, load_checkpoint

import swin_backbone
from swin_backbone import SwinBackbone
from swin_backbone.checkpoints import CheckpointError, read_checkpoint
from swin_backbone.checkpoints.placeholders import STAND_INS, Tensors
from swin_backbone.cli import main

from . import hostile_files as hostile
from .tiny_run import tiny_config

ARGUMENTS = {"depths": (1,), "num_heads": (3,), "out_indices": (0,)}
SMALL = {"type": "SwinBackbone", **ARGUMENTS}
FUZZED = 40  # pickles a name
MOST_MEMORY = 700  # MB more than before
#: For the ways that take long: one of each kind of thing that a file may name.
SHORT_LIST = (
    "dtype with an object sub-array, zip",
    "rows by stride 0, zip",
    "key that is deep, zip",
)


def pretrained(path):
    return {"type": "Pretrained", "checkpoint": str(path)}


def init_cfg(path):
    SwinBackbone(**ARGUMENTS, init_cfg=pretrained(path)).init_weights()


def init_cfg_of_another_module(path):
    BaseModule(pretrained(path)).init_weights()


def mmengines_load_checkpoint(path):
    load_checkpoint(torch.nn.Linear(2, 1), str(path))


def create(path):
    swin_backbone.create(SMALL, path)


def tool(name, *arguments):
    """Run a command in this process."""
    main([name.replace("_", "-"), *map(str, arguments)])


def convert(path):
    tool("convert_checkpoint", path, FOLDER / "converted.pth", "--to", "timm")


def load_from(path):
    config = tiny_config(DATA, FOLDER / "run", 1, load_from=str(path))
    Runner.from_cfg(config).train()


def resume(path):
    tool("train", CONFIG, "--work-dir", FOLDER / "run", "--resume", path)


def resume_by_itself(path):
    (FOLDER / "run").mkdir(exist_ok=True)
    (FOLDER / "run" / "last_checkpoint").write_text(str(path))
    tool("train", CONFIG, "--work-dir", FOLDER / "run", "--resume")


def test(path):
    tool("test", CONFIG, path, "--work-dir", FOLDER / "run")


def predict(path):
    tool("predict", CONFIG, path, DATA / "img_dir" / "val", "--out", FOLDER / "pictures")


def extract(path):
    model = ["--model", CONFIG, "--checkpoint", path, "--stages", 1]
    tool("extract_features", DATA / "img_dir" / "val", FOLDER / f"features of {path.stem}", *model)


def export(path):
    tool("export", CONFIG, path, "--out", FOLDER / "model.onnx")


def visualize(path):
    out = FOLDER / "seen.png"
    tool("visualize", CONFIG, path, next((DATA / "img_dir").rglob("*.jpg")), "--out", out)


def demo_page(path):
    from swin_backbone.cli.demo_app import load_model

    load_model(str(CONFIG), str(path), "cpu")


FAST = [read_checkpoint, init_cfg, convert]
SLOW = [init_cfg_of_another_module, mmengines_load_checkpoint, create, load_from, resume]
SLOW += [resume_by_itself, test, predict, extract, export, visualize, demo_page]


def offer(way, what, path) -> bool:
    """Whether the file was refused by an error of ours, or by a command that stops with one."""
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            way(path)
        print(f"FAULT {way.__name__} took {what}")
    except CheckpointError:
        return True
    except SystemExit as stop:
        if stop.code in (1, 2) and path.name in said.getvalue():
            return True
        print(f"FAULT {way.__name__} stopped with {stop.code} at {what}: {said.getvalue()[-300:]}")
    except BaseException as error:
        print(f"FAULT {way.__name__} at {what}: {error!r:.300}")
    return False


def random_value(rng, depth=2):
    """Anything that a file may give to a function: numbers, text, containers, other names."""
    plain = [None, True, 0, 1, -1, 3, 8, 64, 2**31, 2**40, 2**63, -(2**63), 0.5, float("nan"), ""]
    plain += [
        "f8",
        "O8",
        "<f4",
        "b1",
        "V8",
        "latin1",
        "cpu",
        "meta",
        "max",
        "a" * 50,
        bytes(8),
        b"x",
    ]
    made = [hostile.tensor(), hostile.storage(4), hostile.dtype(), hostile.OBJECT, hostile.EIGHT]
    made += [hostile.name(other) for other in rng.sample(NAMES, 3)]
    if depth and rng.random() < 0.4:
        items = [random_value(rng, depth - 1) for _ in range(rng.randrange(4))]
        return rng.choice([tuple, list, lambda items: {"a": items}])(items)
    return rng.choice(rng.choice([plain, made]))


def random_pickle(rng, name):
    """A name that is called, rebuilt or given state, with arguments that may fit."""
    fitting = {"numpy.dtype": ("f8", False, True), "builtins.getattr": (hostile.HISTORY, "mean")}
    args = fitting.get(name, ()) if rng.random() < 0.3 else None
    if args is None:
        args = tuple(random_value(rng) for _ in range(rng.randrange(9)))
        if "_rebuild" in name and rng.random() < 0.7:
            size, stride = (
                [rng.choice([0, 1, 2, 4, 5, 2**40]) for _ in range(2)] for _ in range(2)
            )
            args = (
                hostile.storage(4),
                rng.choice([0, 1, 9]),
                tuple(size),
                tuple(stride),
                *args[:3],
            )
    value = rng.choice([hostile.call, hostile.new])(name, *args)
    if rng.random() < 0.5:
        state = {"_log_history": random_value(rng), "_count_history": random_value(rng)}
        five = (1, random_value(rng), random_value(rng), False, random_value(rng))
        value = hostile.build(value, rng.choice([random_value(rng), state, five]))
    return value


def use(value):
    """Touch all that was read; it is small, since the file is."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        for item in value:
            use(item)
    elif isinstance(value, np.ndarray | np.generic):
        assert value.nbytes < 2**16
        value.tolist()
    elif isinstance(value, torch.Tensor):
        assert value.numel() < 2**25, value.shape
        value.to(torch.complex128).sum()
    elif isinstance(value, HistoryBuffer):
        value.update(1.0)
        value.mean()
    elif isinstance(value, bytes | bytearray | str):
        assert len(value) < 2**16


def fuzz(name) -> int:
    """How many of a name's pickles were refused; the others did no harm."""
    rng, refused = random.Random(name), 0
    for _ in range(FUZZED):
        content = hostile.zipped(hostile.with_pickle(random_pickle(rng, name)))
        try:
            use(read_checkpoint(io.BytesIO(content)))
        except CheckpointError:
            refused += 1
        except BaseException as error:
            print(f"FAULT fuzz of {name}: {error!r:.300} {content!r:.2000}")
    return refused


def memory() -> int:
    """MB that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    torch.set_num_threads(1)
    DATA, FOLDER = map(Path, sys.argv[1:])
    CONFIG = FOLDER / "tiny.py"
    config = tiny_config(DATA, FOLDER / "run", 1)
    config.test_dataloader, config.test_evaluator = config.val_dataloader, config.val_evaluator
    config.test_cfg = {"type": "TestLoop"}
    config.dump(CONFIG)
    NAMES = [*STAND_INS, *Tensors().names()]
    called = {**STAND_INS, **Tensors().names()}
    called = [name for name, found in called.items() if getattr(found, "make", None)]
    before, methods = memory(), dict(HistoryBuffer()._statistics_methods)
    refused = 0
    for number, (what, content) in enumerate(hostile.hostile_files().items()):
        path = FOLDER / f"hostile{number}.pth"
        path.write_bytes(content)
        ways = FAST if what.endswith("zip") and len(content) < 20_000 else FAST[:1]
        for way in ways + (SLOW if what in SHORT_LIST else []):
            refused += offer(way, what, path)
        path.unlink()
    print(f"{refused} refused", flush=True)
    harmless = sum(FUZZED - fuzz(name) for name in called)
    print(f"{harmless} of {FUZZED * len(called)} harmless")
    if HistoryBuffer._statistics_methods != methods:
        print("FAULT a file changed the statistics of all histories")
    if memory() - before > MOST_MEMORY:
        print(f"FAULT {memory() - before} MB of memory taken")
    print("survived")
