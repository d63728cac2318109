"""The core without OpenMMLab: everything but training works where torch is all there is."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from helpers.paths import ROOT
from helpers.tools import HUNG
from helpers.torch_alone import SMALL, write_run
from mmengine.logging import MMLogger
from mmengine.model import BaseModule, Sequential
from torch import nn

import swin_backbone
from swin_backbone import SwinBackbone


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    return tmp_path_factory.mktemp("run") / "run.pth"


@pytest.fixture(scope="module")
def trained(run_file):
    """The backbone whose weights are in the file."""
    return write_run(run_file)


@pytest.fixture(scope="module")
def found(run_file, trained):
    script = ROOT / "tests" / "helpers" / "torch_alone.py"
    done = subprocess.run(
        [sys.executable, str(script), str(run_file.parent), "--hide"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=HUNG,
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "stderr": done.stderr}


def test_it_is_a_plain_module(found):
    ours = ["swin_backbone.model.backbone", "swin_backbone.model.hub"]  # no base of mmengine
    assert found["bases"] == [*ours, "torch.nn.modules.module"]
    assert found["gradients"]


def test_nothing_foreign_is_imported(found):
    assert found["foreign"] == []
    assert not {"mmengine", "cv2", "PIL", "torchvision"} & set(found["foreign afterwards"])


@pytest.mark.parametrize("way", ["init_cfg", "create", "load_state_dict", "folder", "hub"])
def test_checkpoints_of_runs_load(found, trained, way):
    image = torch.linspace(-1, 1, 3 * 21 * 30).view(1, 3, 21, 30)
    with torch.no_grad():
        expected = trained(image)[-1].flatten()
    # The same weights and operations, in another process: not a bit more than rounding.
    torch.testing.assert_close(torch.tensor(found["maps"][way]), expected, rtol=1e-5, atol=1e-5)


def test_missing_tensors_are_logged(found):
    """A warning of Python's own logging, which nobody has set up, goes to stderr."""
    assert "1 missing" in found["stderr"]
    assert "missing norm1.weight" in found["stderr"]


def test_what_a_run_remembers_is_read_as_plain_values(found):
    assert found["history"] == [0.5, 0.25]


def test_names_conversion_features_and_export(found):
    assert found["by name"] == "v2"
    assert found["converted"] > 20
    assert found["features"] == [[96], [768]]
    # Another order of the same sums in float32.
    assert found["export"] is None or found["export"] < 1e-4
    assert found["accelerate"] == "Report"
    assert "tensors loaded" in found["report"]


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("config", ["ModuleNotFoundError", "config.py", "mmengine", "swin-backbone[onedl]"]),
        ("no config", ["FileNotFoundError", "missing.py"]),
        ("norm", ["ValueError: norm_cfg", "'LN'", "mmengine", "'BN1d'"]),
        ("address", ["ModuleNotFoundError", "torchvision://swin_t", "mmengine", "[onedl]"]),
        ("init type", ["ValueError", "elsewhere.Pretrained"]),
        ("model", ["ValueError", "SwinClassifierBackbone"]),
        ("push", ["ModuleNotFoundError", "huggingface_hub", "swin-backbone[hub]"]),
        ("hub", ["ModuleNotFoundError", "huggingface_hub", "swin-backbone[hub]"]),
        ("images", ["ModuleNotFoundError", "cv2", "swin-backbone[images]"]),
    ],
)
def test_what_needs_more_says_so_in_one_line(found, what, told):
    text = found["refusals"][what]
    assert "\n" not in text
    for part in told:
        assert part in text


# With OpenMMLab installed, and switched off


def test_switched_off_openmmlab_is_not_even_imported():
    """Where everything is installed: importing the core brings in torch's modules and its own."""
    code = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import swin_backbone\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "from helpers.torch_alone import FOREIGN\n"
        "print(sorted(new & FOREIGN))\n"
        "print([f for f in sys.meta_path if 'swin_backbone' in type(f).__module__])\n"
        "print(type(swin_backbone.create('tiny')).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "SWIN_BACKBONE_WITHOUT": "openmmlab",
        },
        capture_output=True,
        text=True,
        timeout=HUNG,
    )
    assert done.stdout.splitlines() == ["[]", "[]", "SwinBackbone"], done.stderr


#: Prints which parts are in effect where the environment leaves out each of them; OpenMMLab is
#: imported once.
EFFECTS = """
import json, os, sys, torch
import mmengine.runner, mmengine.optim, mmcv.transforms
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import MODELS, TRANSFORMS, Registry
from mmengine.runner import CheckpointLoader

def missing_file():
    try:
        CheckpointLoader.load_checkpoint("missing.pth")
    except Exception as error:
        return str(error)

STOCK = missing_file()

def groups(model):
    build = DefaultOptimWrapperConstructor({"type": "OptimWrapper", "optimizer": {
        "type": "SGD", "lr": 1.0, "weight_decay": 0.1}}, {"norm_decay_mult": 0.0})
    return sum(len(group["params"]) for group in build(model).optimizer.param_groups)

def knows_scope():
    later = Registry("model", parent=MODELS, scope="later")
    try:
        return later.get("later.SwinBackbone") is not None
    except KeyError:
        return False

def effects():
    import swin_backbone
    swin_backbone.openmmlab.connect()  # again, which changes nothing
    model = torch.nn.ModuleDict({"backbone": swin_backbone.SwinBackbone(
        embed_dims=8, depths=(1,), num_heads=(1,), out_indices=(0,), frozen_stages=0)})
    return {
        "openmmlab": MODELS.get("SwinBackbone") is not None,
        "mmcv_ext": any(type(f).__module__.startswith("swin_") for f in sys.meta_path),
        "checkpoint_loading": missing_file() != STOCK,
        "image_loading": not TRANSFORMS.get("LoadImageFromFile").__module__.startswith("mmcv"),
        "optimizer_groups": groups(model) == len(list(model.parameters())),
        "scopes": knows_scope(),
    }

for without in ["", *sys.argv[1:]]:
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.environ["SWIN_BACKBONE_WITHOUT"] = without
        try:
            print(json.dumps([without, effects()]))
        except Exception as error:
            print(json.dumps([without, f"{type(error).__name__}: {error}"]))
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def effects():
    from swin_backbone.openmmlab.switches import PARTS

    names = [*PARTS, "mmcv_ext, scopes", "mmcv_ext,loaders"]
    done = subprocess.run(
        [sys.executable, "-c", EFFECTS, *names],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=HUNG,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(lines) == len(names) + 1, done.stderr
    return dict(lines)


def test_importing_has_every_effect(effects):
    assert [name for name, there in effects[""].items() if not there] == []


@pytest.mark.parametrize(
    "part", ["mmcv_ext", "checkpoint_loading", "image_loading", "optimizer_groups", "scopes"]
)
def test_a_part_is_left_out_by_itself(effects, part):
    assert [name for name, there in effects[part].items() if not there] == [part]


def test_several_parts_or_all_are_left_out(effects):
    left_out = [name for name, there in effects["mmcv_ext, scopes"].items() if not there]
    assert left_out == ["mmcv_ext", "scopes"]
    assert not any(effects["openmmlab"].values())


def test_an_unknown_part_is_named(effects):
    text = effects["mmcv_ext,loaders"]
    assert text.startswith("ValueError: SWIN_BACKBONE_WITHOUT takes openmmlab, mmcv_ext")
    assert "'mmcv_ext,loaders'" in text


def test_the_docs_list_what_can_be_left_out():
    from swin_backbone.openmmlab.switches import PARTS, VARIABLE

    page = (ROOT / "docs" / "installation.md").read_text()
    assert VARIABLE in page
    assert [part for part in PARTS if f"`{part}`" not in page] == []


# A child of mmengine's modules


class Parent(BaseModule):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.neck = Sequential(nn.Linear(2, 2))


def test_a_model_of_mmengine_initialises_it_and_logs_how(tmp_path):
    model = Parent(SwinBackbone(**SMALL))
    before = {name: p.clone() for name, p in model.backbone.named_parameters()}
    log = tmp_path / "log.txt"
    logger = MMLogger.get_instance("initialisation", log_file=str(log))
    try:
        model.init_weights()
    finally:
        for handler in list(logger.handlers):
            handler.flush()
            handler.close()
        MMLogger._instance_dict.pop("initialisation", None)
    drawn = [n for n, p in model.backbone.named_parameters() if not torch.equal(p, before[n])]
    assert any("qkv.weight" in name for name in drawn)
    assert model.backbone.is_init
    assert not any(hasattr(module, "_params_init_info") for module in model.modules())
    text = log.read_text()
    assert "backbone.patch_embed.projection.weight" in text
    assert "Initialized by user-defined `init_weights` in SwinBackbone" in text


def test_a_backbone_that_was_initialised_is_left_as_it_is():
    backbone = swin_backbone.create({"type": "SwinBackbone", **SMALL})
    before = {name: p.clone() for name, p in backbone.named_parameters()}
    Parent(backbone).init_weights()
    assert all(torch.equal(p, before[name]) for name, p in backbone.named_parameters())


# The one boundary


def test_every_module_of_the_core_imports_or_names_its_extra(found):
    assert len(found["modules"]) > 60
    wrong = {
        name: error
        for name, error in found["modules"].items()
        if error and not re.search(r"pip install 'swin-backbone\[\w+\]'", error)
    }
    assert wrong == {}
    assert all("\n" not in (error or "") for error in found["modules"].values())
