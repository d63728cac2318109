"""tools/convert_checkpoint.py: from every library to every other, and its errors."""

import os

import pytest
import torch
from helpers.peers import PAIRS, make_theirs, ours_like, randomise

from swin_backbone.checkpoints import (
    LIBRARIES,
    CheckpointError,
    convert_checkpoint,
    read_checkpoint,
    to_theirs,
)
from swin_backbone.cli import convert_checkpoint as tool


def versions_of(library):
    return [version for name, version in PAIRS if name == library] or ["v1", "v2"]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("name", "version"), [("timm", "v1"), ("torchvision", "v2")])
def test_converts_and_reports(name, version, library, suffix, tmp_path, capsys):
    source, out = tmp_path / "in.pth", tmp_path / "folder" / f"out{suffix}"
    theirs = make_theirs(name, version)
    for key, parameter in theirs.named_parameters():
        if version == "v2" and key.endswith("qkv.bias"):  # the keys' third counts as zero
            torch.nn.init.zeros_(parameter.chunk(3)[1])
    torch.save({"model": theirs.state_dict()}, source)
    arguments = [str(source), str(out), "--to", library]
    if version not in versions_of(library):
        with pytest.raises(SystemExit):
            tool.main(arguments)
        assert f"{library} has no Swin {version.upper()}" in capsys.readouterr().err
        assert not out.exists()
        return
    tool.main(arguments)
    printed = capsys.readouterr().out
    assert printed.startswith(f"{name} to {library}, Swin {version.upper()}, layout: ")
    assert f"wrote {out}" in printed
    back, _ = convert_checkpoint(read_checkpoint(out), name)
    original = theirs.state_dict()
    for key, tensor in back.items():
        if key.endswith("relative_coords_table"):  # recomputed
            torch.testing.assert_close(tensor, original[key])
        else:
            assert torch.equal(tensor, original[key]), key
    lost = set(original) - set(back)
    has_final_norm = library in ("swin_backbone", "official", "timm", "torchvision", "transformers")
    # V2's window is known only from the buffers that torchvision and mmpretrain write.
    buffers = {key for key in original if "relative_position_index" in key or "coords" in key}
    knows_window = version == "v1" or library in ("torchvision", "mmpretrain")
    expected = set() if has_final_norm else {"norm.weight", "norm.bias"}
    assert lost == expected | (set() if knows_window else buffers)


def test_windows_can_be_given(tmp_path):
    ours = ours_like("timm", "v2", pretrained=(3, 2))
    randomise(ours)
    source, out = tmp_path / "in.pth", tmp_path / "out.pth"
    torch.save(ours.state_dict(), source)
    windows = ["--window-size", "4", "--pretrained-window-sizes", "3", "2"]
    tool.main([str(source), str(out), "--to", "torchvision", *windows])
    theirs = make_theirs("torchvision", "v2")
    theirs.load_state_dict(read_checkpoint(out), strict=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():  # torchvision itself knows no other windows, but keeps what it is given
        expected = ours(images)[-1].permute(0, 2, 3, 1)
        x = theirs.norm(theirs.features(images))
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)


def test_the_original_finds_its_weights_under_model(tmp_path):
    source, out = tmp_path / "in.pth", tmp_path / "out.pth"
    torch.save(ours_like("timm", "v1").state_dict(), source)
    tool.main([str(source), str(out), "--to", "official"])
    assert list(read_checkpoint(out)) == ["model"]


FAULTS = {
    "renamed": ("it has no stages.0.odd", lambda s: {**s, "stages.0.odd": torch.ones(1)}),
    "missing": (
        "lacks stages.1.blocks.1.mlp.fc1.bias",
        lambda s: {k: v for k, v in s.items() if k != "stages.1.blocks.1.mlp.fc1.bias"},
    ),
    "no patches": (
        "lacks patch_embed.projection.weight",
        lambda s: {k: v for k, v in s.items() if "patch_embed" not in k},
    ),
    "NaN": (
        "norm0.bias holds other than finite",
        lambda s: {**s, "norm0.bias": torch.tensor(float("nan"))},
    ),
    "integers": (
        "norm0.bias holds other than finite",
        lambda s: {**s, "norm0.bias": torch.ones(1).int()},
    ),
    "foreign": ("not of a Swin backbone", lambda s: {"conv1.weight": torch.ones(1)}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_checkpoint_is_an_error_and_writes_nothing(fault, tmp_path, capsys):
    message, break_it = FAULTS[fault]
    source, out = tmp_path / "in.pth", tmp_path / "out.pth"
    state = break_it(ours_like("timm", "v1").state_dict())
    torch.save(state, source)
    out.write_bytes(b"what was there")
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(state, "timm")
    with pytest.raises(SystemExit) as caught:
        tool.main([str(source), str(out), "--to", "timm"])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert out.read_bytes() == b"what was there"


def test_a_death_while_writing_leaves_what_was_there(tmp_path, monkeypatch):
    source, out = tmp_path / "in.pth", tmp_path / "out.pth"
    torch.save(ours_like("timm", "v1").state_dict(), source)
    out.write_bytes(b"what was there")

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        tool.main([str(source), str(out), "--to", "timm"])
    assert out.read_bytes() == b"what was there"


def test_reports_name_what_has_no_place(tmp_path):
    state, _ = to_theirs(ours_like("mmpretrain", "v2").state_dict(), "mmpretrain")
    state = {f"backbone.{key}": value for key, value in state.items()}
    state["head.fc.weight"] = torch.zeros(2)
    _, report = convert_checkpoint({"state_dict": state}, "timm")
    assert report.ignored["head.fc.weight"] == "belongs to the model's head"
    assert report.ignored["norm0.weight"] == "timm has no place for it"
    assert any(key.endswith("norm3.weight") for key in report.loaded)
