"""Files are whole or not there, whatever stops the writing; and nothing writes in another way."""

import ast
import errno
import importlib.util
import os
import random
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from PIL import Image

from swin_backbone import atomic_files
from swin_backbone.atomic_files import (
    remove_leftovers,
    write_bytes,
    write_folder,
    write_text,
    write_whole,
)

#: A process that writes two contents in turn, for as long as it lives. It needs nothing but Python.
WRITER = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("atomic_files", {atomic_files.__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert not any(name.split(".")[0] in ("torch", "mmengine", "swin_backbone") for name in sys.modules)
contents = [letter * 3_000_000 for letter in (b"a", b"b")]
print("ready", flush=True)
for turn in range(10**9):
    module.write_bytes(sys.argv[1], contents[turn % 2])
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_kill_leaves_the_old_file_or_the_new_and_the_next_process_tidies_up(tmp_path):
    path, generator, leftovers = tmp_path / "file.bin", random.Random(), 0
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", WRITER, path], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        time.sleep(generator.uniform(0.01, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if path.exists():
            content = path.read_bytes()
            assert len(content) == 3_000_000
            assert len(set(content)) == 1
        left = set(names(tmp_path)) - {"file.bin"}
        assert len(left) <= 1  # of this process; those of the ones before are gone
        leftovers += len(left)
    assert leftovers  # or the test shows nothing
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["file.bin"]


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def fail_in_the_middle(path):
    path.write_bytes(b"ne")
    full_disk()


@pytest.mark.parametrize("fault", ["write", "fsync", "replace", "interrupted"])
@pytest.mark.parametrize("existed", [True, False])
def test_an_error_leaves_what_was_there_and_nothing_else(fault, existed, tmp_path, monkeypatch):
    path = tmp_path / "file.png"
    if existed:
        write_bytes(path, b"old")
    write, error = (lambda unfinished: unfinished.write_bytes(b"new")), OSError
    if fault == "write":
        write = fail_in_the_middle
    elif fault == "interrupted":

        def write(unfinished):
            unfinished.write_bytes(b"ne")
            raise KeyboardInterrupt

        error = KeyboardInterrupt
    else:
        monkeypatch.setattr(os, fault, full_disk)
    with pytest.raises(error):
        write_whole(path, write)
    assert names(tmp_path) == (["file.png"] if existed else [])
    assert not existed or path.read_bytes() == b"old"


def test_what_another_process_is_writing_stays(tmp_path):
    living, dead = f"{os.getppid()}", subprocess.Popen(["true"])
    dead.wait()
    machine = atomic_files.machine()
    for machine_of, pid in ((machine, living), (machine, dead.pid), ("0" * 8, 1)):
        (tmp_path / f".{'1' * 8}-{machine_of}-{pid}-0.unfinished.pth").touch()
    foreign = tmp_path / f".{'1' * 8}-{'2' * 8}-1-0.unfinished.pth"
    foreign.touch()
    os.utime(foreign, (0, 0))
    (tmp_path / "own.unfinished.pth").touch()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted(
        [
            f".{'1' * 8}-{machine}-{living}-0.unfinished.pth",
            f".{'1' * 8}-{'0' * 8}-1-0.unfinished.pth",
            "own.unfinished.pth",
        ]
    )


def test_names_as_long_as_the_file_system_takes(tmp_path):
    for name in ("n" * 251 + ".png", "." + "n" * 254, "ä" * 127, "a." + "s" * 250):
        write_text(tmp_path / "folder" / name, "text")
        assert (tmp_path / "folder" / name).read_text() == "text"
    assert len(names(tmp_path / "folder")) == 4


def test_links_permissions_and_devices(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    write_text("/dev/null", "nothing")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        write_text(tmp_path, "text")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".png", ".json", ".npz"])
def test_libraries_write_the_format_of_the_suffix(suffix, tmp_path):
    path = tmp_path / f"file{suffix}"
    tensor = torch.arange(6.0)
    if suffix == ".pth":
        write_whole(path, lambda unfinished: torch.save(tensor, unfinished))
        assert torch.equal(torch.load(path, weights_only=True), tensor)
    elif suffix == ".png":
        write_whole(path, Image.fromarray(np.zeros((2, 3), np.uint8)).save)
        assert Image.open(path).size == (3, 2)
    elif suffix == ".npz":
        write_whole(path, lambda unfinished: np.savez(unfinished, tensor=tensor.numpy()))
        assert np.load(path)["tensor"].shape == (6,)
    else:
        write_text(path, "{}")
        assert path.read_text() == "{}"
    assert names(tmp_path) == [path.name]


#: Calls that write files by themselves; on a path called ``unfinished``, for the one writer.
WRITING = {"write_text", "write_bytes", "save", "savefig", "savez", "imwrite", "savetxt", "tofile"}
WRITING |= {"save_file", "write_table", "mkstemp", "NamedTemporaryFile"}
#: Where else they stand, and why.
ALLOWED = {
    "swin_backbone/ops/triton/autograd_op.py": "what a backward pass needs is saved, in no file",
    "swin_backbone/ops/triton/tuning_cache.py": "a lock, which holds nothing",
    "swin_backbone/model/hub.py": "save_pretrained, which uses the one",
    "benchmarks/benchmarking/data_sets.py": "write_data, which uses the one",
    "benchmarks/benchmark_backbones.py": "Benchmark.save, which uses the one",
    "benchmarks/benchmark_scaling.py": "a line for each setting, added while it runs",
    "swin_backbone/cli/convert_checkpoint.py": "torch.save into the unfinished file, opened before",
    "swin_backbone/cli/make_demo_data.py": "a folder, which is renamed as a whole",
}


def writing_calls(path):
    """Calls in a file that write, on a path that is not the one writer's."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        function, is_method = node.func, isinstance(node.func, ast.Attribute)
        name = function.attr if is_method else getattr(function, "id", "")
        owner = getattr(function.value, "id", "") if is_method else ""
        words = {owner, *(getattr(argument, "id", "") for argument in node.args)}
        modes = [getattr(argument, "value", "") for argument in node.args]
        opens = name == "open" and any(m in ("w", "wb", "a", "x", "rb+", "w+") for m in modes)
        moves = name in ("rename", "replace") and owner == "os"
        own = name in ("write_text", "write_bytes") and not is_method
        if (name in WRITING or opens or moves) and not own and "unfinished" not in words:
            yield f"{path.name}:{node.lineno}: {name}"


def test_nothing_writes_in_another_way():
    found = {}
    for folder in ("swin_backbone", "tools", "benchmarks", "docs", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            calls = list(writing_calls(path))
            if calls:
                found[str(path.relative_to(ROOT))] = calls
    assert found.keys() == ALLOWED.keys(), found


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs 'features'")
def test_every_writer_keeps_what_was_there(tmp_path, monkeypatch):
    """One of each kind of file that the project writes, on a disk that is full."""
    from swin_backbone.cli.convert_checkpoint import write as write_checkpoint
    from swin_backbone.inference.features.shards import write_shard
    from swin_backbone.openmmlab.atomic_checkpoints import AtomicLocalBackend

    picture = Image.fromarray(np.zeros((2, 3), np.uint8))
    writers = {
        "checkpoint.pth": lambda path: write_checkpoint({"a": torch.ones(2)}, path, "timm"),
        "checkpoint.safetensors": lambda path: write_checkpoint({"a": torch.ones(2)}, path, "timm"),
        "iter_1.pth": lambda path: AtomicLocalBackend().put(b"new", path),
        "picture.png": lambda path: write_whole(path, picture.save),
        "shards/00000.safetensors": lambda path: write_shard(tmp_path, 0, [], [], [0], True),
    }
    for name, write in writers.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"old")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full_disk)
            with pytest.raises(OSError, match="No space left"):
                write(path)
        assert path.read_bytes() == b"old", name
        assert names(path.parent) == sorted({*names(path.parent)} & {*writers, path.name, "shards"})
        write(path)
        assert path.read_bytes() != b"old", name


def test_a_folder_is_whole_or_not_there(tmp_path):
    def breaks(folder):
        (folder / "a").write_text("a")
        raise KeyError("in the middle")

    with pytest.raises(KeyError):
        write_folder(tmp_path / "data", breaks)
    assert names(tmp_path) == []
    write_folder(tmp_path / "data", lambda folder: (folder / "a").write_text("a"))
    assert names(tmp_path / "data") == ["a"]
    with pytest.raises(FileExistsError, match="data is there already"):
        write_folder(tmp_path / "data", breaks)
    assert names(tmp_path) == ["data"]


def test_a_folder_that_a_kill_left_is_removed(tmp_path):
    left = tmp_path / atomic_files.unfinished_name(tmp_path / "data")
    left = left.with_name(left.name.replace(f"-{os.getpid()}-", "-999999999-"))
    (left / "inside").mkdir(parents=True)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == []
