"""Backbones from a name."""

import re

import pytest
import torch
from helpers.paths import ROOT

import swin_backbone
from swin_backbone import SwinBackbone, create, list_architectures, list_checkpoints


@pytest.mark.parametrize("name", list_architectures())
def test_names_say_version_size_and_window(name):
    with torch.device("meta"):
        model = SwinBackbone(**list_architectures()[name])
    if name in ("tiny", "small", "base", "large"):
        assert (model.version, model.window_sizes[0]) == ("v1", (7, 7))
        return
    version, size, trained, window = re.fullmatch(
        r"swin(v2)?_([a-z]+)_window(?:(\d+)to)?(\d+)", name
    ).groups()
    with torch.device("meta"):
        same_size = SwinBackbone(arch=size)
    assert model.version == (version or "v1")
    assert (model.num_features, model.depths) == (same_size.num_features, same_size.depths)
    assert set(model.window_sizes) == {(int(window), int(window))}
    if version:
        side = int(trained or window)
        assert model.pretrained_window_sizes[0] == (side, side)


def test_v2_by_its_name():
    model = create("swinv2_tiny_window8", depths=(1, 1, 1, 1), arch=None, out_indices=(3,))
    assert (model.version, model.training, model.init_cfg) == ("v2", False, None)
    with torch.no_grad():
        (features,) = model(torch.randn(1, 3, 33, 70))
    assert features.shape == (1, 768, 2, 3)


def test_a_public_checkpoint_by_its_name(tmp_path, monkeypatch):
    """Its architecture, and its weights unless others are given."""
    asked = []
    monkeypatch.setattr(
        "swin_backbone.model.backbone.load_pretrained",
        lambda _, init_cfg: asked.append(init_cfg["checkpoint"]),
    )
    (entry,) = [e for e in list_checkpoints() if e.name == "timm/swin_s3_tiny_224.ms_in1k"]
    for checkpoint in (None, tmp_path / "mine.pth"):
        with torch.device("meta"):
            model = create(entry.name, checkpoint)
        assert model.window_sizes == ((7, 7), (7, 7), (14, 14), (7, 7))
    assert asked == [entry.source, str(tmp_path / "mine.pth")]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("swinv2_tiny_windows8", "'swinv2_tiny_window8'"),
        ("swinv2_tiny_window8_256", "'timm/swinv2_tiny_window8_256.ms_in1k'"),
        ("swin_tiny_patch4_window7_224", "'official/swin_tiny_patch4_window7_224'"),
        ("Tiny", "'tiny'"),
        ("resnet50", "'tiny', 'small', 'base', 'large'"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"got '{name}', nearest are .*{re.escape(nearest)}"):
        create(name)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config .*missing\.py' is not a file"):
        create(tmp_path / "missing.py")
    with pytest.raises(FileNotFoundError, match=r"missing\.pth"):
        create("tiny", tmp_path / "missing.pth", depths=(1, 1, 1, 1), arch=None)
    with pytest.raises(ValueError, match=r"the config has no model\.backbone"):
        create({"optimizer": {}})


def test_every_name_is_in_the_docs():
    page = (ROOT / "docs" / "checkpoints.md").read_text()
    assert set(re.findall(r"`(swin(?:v2)?_[a-z]+_window[\dto]+)`", page)) == {
        name for name in list_architectures() if name.startswith("swin")
    }
    assert swin_backbone.list_architectures is list_architectures
