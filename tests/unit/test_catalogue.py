"""The list of public checkpoints: its form, and the facts that the libraries themselves state."""

import re

import pytest
import torch

import swin_backbone
from swin_backbone import SwinBackbone
from swin_backbone.checkpoints import list_checkpoints

ENTRIES = list_checkpoints()
FILES = r"https://[\w./-]+\.pth"
SOURCE = re.compile(rf"{FILES}|timm:[\w.]+|hf-hub:microsoft/[\w-]+")


def test_names_and_sources_are_unique():
    assert swin_backbone.list_checkpoints is list_checkpoints
    assert len(ENTRIES) >= 80
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    assert len({entry.source for entry in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_form_of_an_entry(entry):
    assert SOURCE.fullmatch(entry.source)
    assert entry.name.split("/")[0] == entry.library
    assert entry.page.startswith("https://")
    assert entry.licence in ("MIT", "Apache-2.0", "BSD-3-Clause")
    assert (entry.trained_windows is not None) == (entry.version == "v2")
    assert f"{entry.image_size}" in entry.name or entry.library == "torchvision"
    with torch.device("meta"):
        model = SwinBackbone(**entry.config())
    assert model.init_cfg["checkpoint"] == entry.source


def test_the_list_can_be_filtered():
    v2 = list_checkpoints(version="v2")
    assert {entry.version for entry in v2} == {"v2"}
    assert {entry.library for entry in v2} == {
        "official", "mmpretrain", "timm", "torchvision", "transformers",
    }  # fmt: skip
    assert list_checkpoints(version="v2", library="mmseg") == []


@pytest.mark.parametrize("entry", list_checkpoints(library="timm"), ids=lambda entry: entry.name)
def test_timm_states_the_same(entry):
    """Its names, image sizes, licences, and the original's files that it was converted from."""
    models = pytest.importorskip("timm.models", reason="timm is not installed")
    name = entry.source.removeprefix("timm:")
    config = models.get_pretrained_cfg(name)
    assert config.hf_hub_id == f"timm/{name}"
    assert config.input_size[-1] == entry.image_size
    assert config.license == entry.licence.lower()
    assert (config.num_classes == 21841) == (entry.data == "ImageNet-22k")
    if "s3" not in name:
        assert config.url in {e.source for e in list_checkpoints(library="official")}


def test_timms_windows_are_these():
    timm = pytest.importorskip("timm", reason="timm is not installed")
    # One of each architecture, whatever it was trained with.
    entries = {
        (str(e.architecture), e.window_size, e.image_size, e.trained_windows): e
        for e in list_checkpoints(library="timm")
    }
    assert len(entries) >= 14
    for entry in entries.values():
        with torch.device("meta"):
            model = timm.create_model(entry.source.removeprefix("timm:"))
            ours = SwinBackbone(**entry.config())
        theirs = [stage.blocks[0].window_size[0] for stage in model.layers]
        windows = [size[0] for size in ours.window_sizes]
        maps = [entry.image_size // 4 // 2**stage for stage in range(4)]
        assert theirs == [min(pair) for pair in zip(windows, maps, strict=True)], entry.name
        if entry.version == "v2":
            stated = [stage.blocks[0].attn.pretrained_window_size[0] for stage in model.layers]
            trained = [size[0] for size in ours.pretrained_window_sizes]
            assert trained == [a or b for a, b in zip(stated, theirs, strict=True)], entry.name
        parameters = sum(p.numel() for p in ours.stages.parameters())
        assert parameters == sum(p.numel() for p in model.layers.parameters()), entry.name


def test_torchvisions_files_are_its_own():
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    names = ("swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_s", "swin_v2_b")
    stated = {models.get_model_weights(name).DEFAULT.url for name in names}
    assert {entry.source for entry in list_checkpoints(library="torchvision")} == stated
