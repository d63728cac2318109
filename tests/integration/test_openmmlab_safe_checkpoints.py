"""Checkpoints are read without running what is in them, by every way that mmengine reads them."""

import builtins
import contextlib
import os
import pickle
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_run import tiny_config
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint

from swin_backbone import SwinBackbone
from swin_backbone.checkpoints import CheckpointError, read_checkpoint


class Evil:
    """Makes a folder when it is unpickled, as it could do anything else."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def write_zip(payload, path):
    torch.save(payload, path)


def write_legacy(payload, path):
    torch.save(payload, path, _use_new_zipfile_serialization=False)


def write_pickle(payload, path):
    path.write_bytes(pickle.dumps(payload))


@pytest.fixture(params=[write_zip, write_legacy, write_pickle])
def evil_file(request, tmp_path):
    """A checkpoint with weights that are sound and, beside them, what is not."""
    evil = Evil(tmp_path / "marker")
    meta = {"epoch": 0, "iter": 1, "evil": evil}
    path = tmp_path / "evil.pth"
    request.param({"state_dict": {"weight": torch.zeros(2)}, "meta": meta}, path)
    return path


def test_the_evil_file_is_evil(evil_file):
    """Else the refusals below would show nothing."""
    with contextlib.suppress(
        RuntimeError, pickle.UnpicklingError
    ):  # a bare pickle is no checkpoint
        torch.load(evil_file, weights_only=False)
    assert (evil_file.parent / "marker").is_dir()


def load_from(path, scenes):
    Runner.from_cfg(tiny_config(scenes, path.parent / "run", 1, load_from=str(path))).train()


def resume(path, scenes):
    config = tiny_config(scenes, path.parent / "run", 1, load_from=str(path), resume=True)
    Runner.from_cfg(config).train()


def auto_resume(path, scenes):
    work_dir = path.parent / "run"
    work_dir.mkdir()
    (work_dir / "last_checkpoint").write_text(str(path))
    Runner.from_cfg(tiny_config(scenes, work_dir, 1, resume=True)).train()


def init_cfg(path, scenes):
    config = {"type": "Pretrained", "checkpoint": str(path)}
    SwinBackbone(depths=(1,), num_heads=(3,), out_indices=(0,), init_cfg=config).init_weights()


def init_cfg_of_another_module(path, scenes):
    from mmengine.model import BaseModule

    BaseModule({"type": "Pretrained", "checkpoint": str(path)}).init_weights()


def load_into_a_module(path, scenes):
    load_checkpoint(torch.nn.Linear(2, 1), str(path))


WAYS = [load_from, resume, auto_resume, init_cfg, init_cfg_of_another_module, load_into_a_module]


@pytest.mark.parametrize("load", WAYS)
def test_a_file_with_code_is_refused(evil_file, scenes, load):
    with pytest.raises(CheckpointError, match=r"evil\.pth"):
        load(evil_file, scenes)
    assert not (evil_file.parent / "marker").exists()


class Call:
    """Is unpickled as ``function(*args)``."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.mark.parametrize(
    "call",
    [
        Call(getattr, np.ndarray, "tofile"),
        Call(getattr, HistoryBuffer, "__init__"),
        Call(getattr, HistoryBuffer, "_set_default_statistics"),
        Call(setattr, HistoryBuffer, "mean", 1),
        Call(builtins.eval, "1"),
    ],
    ids=["method of an array", "dunder", "private method", "setattr", "eval"],
)
def test_what_histories_need_opens_no_other_door(tmp_path, call):
    path = tmp_path / "call.pth"
    torch.save({"history": call}, path)
    with pytest.raises(CheckpointError, match=r"call\.pth"):
        read_checkpoint(path)


def message_hub():
    hub = MessageHub("of a run")
    hub.update_scalar("train/loss", 0.5)
    hub.update_scalar("train/loss", 0.25)
    hub.update_info("best_score", np.float32(81.5))
    hub.update_info("palette", np.arange(6, dtype=np.uint8).reshape(2, 3))
    return hub


def assert_hub_is_restored(state):
    restored = MessageHub("restored")
    restored.load_state_dict(state)
    assert restored.get_scalar("train/loss").mean() == 0.375
    assert restored.get_scalar("train/loss").statistics("min") == 0.25
    assert restored.get_info("best_score") == np.float32(81.5)
    np.testing.assert_array_equal(restored.get_info("palette"), [[0, 1, 2], [3, 4, 5]])


def test_what_mmengine_stores_is_read(tmp_path):
    path = tmp_path / "run.pth"
    schedulers = [{"milestones": Counter([8, 11]), "last_step": 3}]
    stored = {"message_hub": message_hub().state_dict(), "param_schedulers": schedulers}
    torch.save(stored, path)
    read = CheckpointLoader.load_checkpoint(str(path))
    assert read["param_schedulers"] == schedulers
    assert_hub_is_restored(read["message_hub"])


@pytest.mark.parametrize("package", [b"numpy.core", b"numpy._core"])
def test_histories_of_numpy_1_and_2_are_read(tmp_path, package):
    """A run may be resumed after numpy was upgraded; the two name the same function apart."""
    written, path = tmp_path / "written.pth", tmp_path / "renamed.pth"
    torch.save(message_hub().state_dict(), written)
    own = np.zeros(1).__reduce__()[0].__module__.removesuffix(".multiarray").encode()
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                assert own + b".multiarray" in data
                data = data.replace(own + b".multiarray", package + b".multiarray")
            target.writestr(name, data)
    assert_hub_is_restored(read_checkpoint(path))


def test_getattr_itself_is_left_alone():
    assert getattr(Path("a"), "name") == "a"  # noqa: B009
    assert builtins.getattr is getattr
