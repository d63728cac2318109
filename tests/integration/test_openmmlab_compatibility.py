"""Which OpenMMLab packages work together, and what is said where they do not."""

import subprocess
import sys

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope, Registry

from swin_backbone import SwinBackbone
from swin_backbone.openmmlab.compatibility import INSTALL, find_conflict, installed_distributions

ONEDL = {"onedl-mmengine": "0.10.12", "onedl-mmcv": "2.3.6", "onedl-mmsegmentation": "1.4.2"}
CLASSIC = {"mmengine": "0.10.7", "mmcv-lite": "2.1.0", "mmsegmentation": "1.2.2", "mmdet": "3.3.0"}


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(
    "versions",
    [
        {},
        {"mmengine": "0.10.7"},
        ONEDL,
        CLASSIC,
        {**ONEDL, "onedl-mmdetection": "3.5.1"},
        {**CLASSIC, "mmcv-lite": "2.0.0"},
        {"mmengine": "0.10.7", "mmcv": "2.2.0"},  # nothing classic that would refuse it
    ],
    ids=lambda versions: " ".join(f"{k}={v}" for k, v in versions.items()) or "nothing",
)
def test_combinations_that_work(versions):
    assert find_conflict(versions) is None


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        ({**ONEDL, "mmengine": "0.10.7"}, ["onedl-mmengine 0.10.12", "mmengine 0.10.7", "both"]),
        ({**ONEDL, "mmcv-lite": "2.1.0"}, ["onedl-mmcv 2.3.6", "mmcv-lite 2.1.0", "'mmcv'"]),
        ({**CLASSIC, "mmcv": "2.1.0"}, ["mmcv 2.1.0", "mmcv-lite 2.1.0"]),
        ({**ONEDL, "mmsegmentation": "1.2.2"}, ["mmsegmentation 1.2.2", "'mmseg'"]),
        ({**CLASSIC, "onedl-mmdetection": "3.5.1"}, ["mmdet 3.3.0", "onedl-mmdetection 3.5.1"]),
        ({**CLASSIC, "mmcv-lite": "2.2.0"}, ["mmsegmentation 1.2.2", "below 2.2.0", "2.2.0"]),
        ({"mmdet": "3.3.0", "mmcv": "2.2.1"}, ["mmdet 3.3.0", "below 2.2.0", "mmcv 2.2.1"]),
        ({"mmsegmentation": "1.2.2", "onedl-mmcv": "2.3.6"}, ["mmsegmentation", "onedl-mmcv"]),
        ({"mmengine": "0.10.7", "mmcv": "1.7.2"}, ["mmcv 1.7.2", "too old"]),
        ({"mmcv-full": "1.7.2"}, ["mmcv-full 1.7.2", "too old"]),
    ],
)
def test_combinations_that_do_not_work(versions, told):
    problem = find_conflict(versions)
    assert problem is not None
    for part in told:
        assert part in problem


def test_installed_distributions_are_found():
    assert any(name.endswith("mmengine") for name in installed_distributions())


def test_import_with_both_lines_says_what_to_install():
    """As if the other line had been installed over the one that is here."""
    done = run_python(
        "from importlib import metadata\n"
        "versions = {'onedl-mmengine': '0.10.12', 'mmengine': '0.10.7'}\n"
        "def version(name):\n"
        "    if name in versions: return versions[name]\n"
        "    raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = version\n"
        "import swin_backbone"
    )
    assert done.returncode != 0
    told = "ImportError: onedl-mmengine 0.10.12 and mmengine 0.10.7 both provide 'mmengine'"
    assert told in done.stderr
    assert (
        f"in a fresh environment, {INSTALL}; or do without: SWIN_BACKBONE_WITHOUT=" in done.stderr
    )


def test_mmengine_alone_is_enough_to_plug_in():
    done = run_python(
        "import sys\n"
        "for name in ('mmcv', 'mmseg', 'mmdet'): sys.modules[name] = None\n"
        "import torch, swin_backbone\n"
        "maps = swin_backbone.SwinBackbone(depths=(1,), num_heads=(3,), strides=(4,),"
        " out_indices=(0,))(torch.zeros(1, 3, 9, 9))\n"
        "print(tuple(maps[0].shape))"
    )
    assert done.stdout.strip() == "(1, 96, 3, 3)", done.stderr


CONFIG = {"type": "SwinBackbone", "depths": (1, 1), "num_heads": (3, 6), "out_indices": (0, 1)}


@pytest.mark.parametrize("package", ["mmengine", "mmseg", "mmdet"])
def test_builds_from_the_registry_of(package):
    registry = pytest.importorskip(f"{package}.registry").MODELS
    assert isinstance(registry.build(CONFIG), SwinBackbone)


@pytest.fixture(scope="module")
def mmpretrain_models():
    """The registry that mmpretrain makes: a child of mmengine's with a scope of its own.

    Its own one, where another test has imported mmpretrain.
    """
    if "mmpretrain" in MODELS.children:
        yield MODELS.children["mmpretrain"]
    else:
        yield Registry("model", parent=MODELS, scope="mmpretrain")
        MODELS.children.pop("mmpretrain")


@pytest.mark.parametrize("default_scope", ["mmseg", "mmpretrain"])
def test_builds_in_the_scope_of_mmpretrain(mmpretrain_models, default_scope):
    @mmpretrain_models.register_module(force=True)
    class Classifier(torch.nn.Module):
        def __init__(self, backbone):
            super().__init__()
            self.backbone = mmpretrain_models.build(backbone)

    with DefaultScope.overwrite_default_scope(default_scope):
        assert isinstance(mmpretrain_models.build(CONFIG), SwinBackbone)
        config = {"type": "mmpretrain.Classifier", "backbone": CONFIG}
        assert isinstance(MODELS.build(config).backbone, SwinBackbone)
