"""Importing and training with an mmcv that has no compiled ops, and leaving one that has alone."""

import importlib.util
import subprocess
import sys
import textwrap
from importlib.machinery import PathFinder

import mmcv
import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import init_default_scope
from mmengine.utils.dl_utils import mmcv_full_available

from swin_backbone.openmmlab.mmcv_ext import (
    EXTENSION,
    FallbackFinder,
    MissingOpError,
    install_fallback,
)

COMPILED = PathFinder.find_spec(EXTENSION, mmcv.__path__) is not None
without_ops = pytest.mark.skipif(COMPILED, reason="this mmcv has compiled ops")


def run_python(code, *args):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        capture_output=True,
        text=True,
    )


def test_importing_swin_backbone_lets_openmmlab_import():
    packages = [name for name in ("mmseg", "mmdet") if importlib.util.find_spec(name)]
    models = "".join(f", {name}.models" for name in packages)
    done = run_python(f"import swin_backbone, mmcv.ops{models}")
    assert done.returncode == 0, done.stderr


@without_ops
def test_mmcv_ops_needs_the_fallback():
    """Else the test above would show nothing."""
    done = run_python("import mmcv.ops")
    assert "No module named 'mmcv._ext'" in done.stderr


def segmentor(head):
    init_default_scope("mmseg")
    backbone = {
        "type": "SwinBackbone",
        "embed_dims": 16,
        "depths": (1, 1, 1, 1),
        "num_heads": (1, 2, 4, 8),
        "window_size": 4,
    }
    channels = [16, 32, 64, 128]
    heads = {
        "UPerHead": {"in_channels": channels, "in_index": [0, 1, 2, 3], "pool_scales": (1, 2)},
        "FPNHead": {
            "in_channels": [16] * 4,
            "in_index": [0, 1, 2, 3],
            "feature_strides": [4, 8, 16, 32],
        },
    }
    neck = {"type": "FPN", "in_channels": channels, "out_channels": 16, "num_outs": 4}
    registry = importlib.import_module("mmseg.registry").MODELS
    return registry.build(
        {
            "type": "EncoderDecoder",
            "data_preprocessor": {"type": "SegDataPreProcessor", "size": (64, 64)},
            "backbone": backbone,
            "neck": neck if head == "FPNHead" else None,
            "decode_head": {
                "type": head,
                "channels": 16,
                "num_classes": 3,
                "norm_cfg": {"type": "SyncBN"},
                **heads[head],
            },
            "test_cfg": {"mode": "whole"},
        }
    )


@pytest.mark.parametrize("head", ["UPerHead", "FPNHead"])
def test_segmentors_train(head):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    model = revert_sync_batchnorm(segmentor(head))
    model.train()
    optimizer = {"type": "SGD", "lr": 0.1, "weight_decay": 0.01}
    build = DefaultOptimWrapperConstructor({"optimizer": optimizer}, {"norm_decay_mult": 0.0})
    wrapper = build(model)
    labels = [SegDataSample() for _ in range(2)]
    for sample in labels:
        sample.gt_sem_seg = PixelData(data=torch.zeros(1, 64, 64, dtype=torch.long))
    batch = {"inputs": list(torch.randint(0, 255, (2, 3, 64, 64))), "data_samples": labels}
    losses = [model.train_step(batch, wrapper)["loss"].item() for _ in range(5)]
    assert losses[-1] < losses[0]


def quadri_nms(ops):
    return ops.nms_quadri(torch.rand(4, 8), torch.rand(4), 0.5)


def border_align(ops):
    return ops.border_align(torch.rand(1, 4, 8, 8), torch.rand(1, 64, 4), 2)


def psa_mask(ops):
    return ops.PSAMask("collect", (2, 2))(torch.rand(1, 4, 3, 3))


@without_ops
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("nms_quadri", quadri_nms),
        ("border_align_forward", border_align),
        ("psamask_forward", psa_mask),
    ],
)
def test_an_op_that_is_not_served_says_its_name_and_the_way_out(name, call):
    with pytest.raises(MissingOpError) as raised:
        call(importlib.import_module("mmcv.ops"))
    assert repr(name) in str(raised.value)
    assert "pip install" in str(raised.value)
    assert "--no-binary onedl-mmcv onedl-mmcv" in str(raised.value)


@without_ops
def test_the_module_looks_like_a_module():
    extension = importlib.import_module(EXTENSION)
    assert extension.__spec__.name == EXTENSION
    assert extension.__spec__.loader is extension.__loader__
    assert importlib.util.find_spec(EXTENSION) is extension.__spec__
    assert extension.nms.__name__ == "nms"
    with pytest.raises(AttributeError):
        _ = extension.__path__  # no package


@without_ops
def test_mmengine_finds_mmcvs_layers():
    """It imports them from mmcv.ops where it finds the module, so both must be there."""
    assert mmcv_full_available()
    ops = importlib.import_module("mmcv.ops")
    assert issubclass(ops.DeformConv2d, torch.nn.Module)
    assert issubclass(ops.SyncBatchNorm, torch.nn.Module)


@without_ops
def test_the_environment_can_be_described():
    from mmcv.utils import collect_env

    assert collect_env()["MMCV Compiler"] == "n/a (no compiled ops)"


def test_installing_twice_changes_nothing():
    before = list(sys.meta_path)
    install_fallback()
    assert sys.meta_path == before


def test_a_compiled_mmcv_is_never_touched(tmp_path):
    """A file stands for the compiled module, where Python would find it."""
    (tmp_path / "_ext.py").write_text("def nms(*args):\n    return 'compiled'\n")
    done = run_python(
        """
        import sys, swin_backbone, mmcv
        mmcv.__path__.insert(0, sys.argv[1])
        import mmcv._ext
        print(mmcv._ext.nms(), mmcv._ext.__file__, hasattr(mmcv._ext, "anything_else"))
        """,
        tmp_path,
    )
    assert done.stdout.split() == ["compiled", str(tmp_path / "_ext.py"), "False"], done.stderr


def test_a_broken_compiled_mmcv_says_why(tmp_path):
    (tmp_path / "_ext.py").write_text("raise ImportError('libc10.so: undefined symbol')\n")
    done = run_python(
        """
        import sys, mmcv
        mmcv.__path__.insert(0, sys.argv[1])
        import swin_backbone, mmcv.ops
        """,
        tmp_path,
    )
    assert done.returncode != 0
    assert "ImportError: libc10.so: undefined symbol" in done.stderr


def test_only_the_extension_is_served():
    (finder,) = (each for each in sys.meta_path if isinstance(each, FallbackFinder))
    assert finder.find_spec(EXTENSION).name == EXTENSION
    for other in ("mmcv", "mmcv.ops", "mmcv._ext.more", "mmdet._ext", "_ext"):
        assert finder.find_spec(other) is None
