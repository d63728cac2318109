"""Every model of the libraries that holds a Swin: its weights give its maps in ours.

Norms, biases and embeddings are random, so that one that is dropped or taken from elsewhere shows.
Models are small: two stages have shifted windows, and the others blocks of one window. A model is
saved whole, as its users save it, and the backbone found in it.
"""

import pytest
import torch
from helpers.errors import relative_error
from helpers.models_with_swin import ALL, CASES, IMAGE, SIZES, V2, alone, make_case, maps_of

from swin_backbone import SwinBackbone
from swin_backbone.checkpoints import CheckpointError, find_backbone, read_checkpoint

TOLERANCE = 1e-5  # float32 on both sides, sums in another order


def ours(options, **more):
    arguments = {**SIZES, **ALL, "pretrain_img_size": IMAGE, **options, **more}
    return SwinBackbone(**arguments).eval()


def assert_same_maps(backbone, model):
    report = backbone.checkpoint_report
    assert not report.missing
    assert not report.unexpected
    assert not report.interpolated
    images = torch.randn(2, 3, IMAGE, IMAGE)
    with torch.no_grad():
        expected = maps_of(model, images)
    for a, b in zip(backbone(images), expected, strict=True):
        assert a.shape == b.shape
        assert relative_error(a, b) <= TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_a_whole_models_weights_give_its_maps(name, tmp_path):
    model, options = make_case(name)
    path = tmp_path / "model.pth"
    torch.save({"state_dict": model.state_dict()}, path)
    backbone = ours(options, init_cfg={"type": "Pretrained", "checkpoint": str(path)})
    backbone.init_weights()
    assert_same_maps(backbone, model)
    if hasattr(model, "save_pretrained"):  # transformers' files have other names than its modules
        model.save_pretrained(tmp_path)
        backbone = ours(options)
        tensors, _ = find_backbone(read_checkpoint(tmp_path / "model.safetensors"))
        backbone.load_state_dict(tensors, strict=False)
        assert_same_maps(backbone, model)


LACKING = [name for name, (_, options) in CASES.items() if "output_norms" in options]


@pytest.mark.parametrize("name", ["timm", "torchvision, V2", "Swinv2Backbone", "Donut"])
def test_the_report_says_that_there_are_no_output_norms(name):
    assert name in LACKING
    model, options = make_case(name)
    backbone = ours({key: value for key, value in options.items() if key != "output_norms"})
    tensors, _ = find_backbone(model.state_dict())
    backbone.load_state_dict(tensors, strict=False)
    report = backbone.checkpoint_report
    assert sorted(report.missing) == sorted(
        f"norm{stage}.{p}" for stage in range(4) for p in ("weight", "bias")
    )
    assert "output_norms=False" in str(report)
    with pytest.raises(CheckpointError, match=r"missing norm0\.weight(.|\n)*output_norms=False"):
        backbone.load_state_dict(tensors, strict=True)


@pytest.mark.parametrize("model", ["Swin2SRModel", "ClapAudioModel"])
def test_what_only_resembles_a_swin_is_refused(model):
    """Super-resolution without patch merging, and spectrograms with modules of their own."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    if model == "Swin2SRModel":
        state = alone(model, "Swin2SR").state_dict()
    else:
        config = transformers.ClapAudioConfig(
            spec_size=64, num_mel_bins=16, window_size=2, patch_embeds_hidden_size=8,
            depths=[2, 2, 1, 1], num_attention_heads=[1, 2, 4, 8], hidden_size=64, num_classes=3,
        )  # fmt: skip
        state = transformers.ClapAudioModel(config).state_dict()
    version = V2 if model == "Swin2SRModel" else {}
    with pytest.raises(CheckpointError, match=r"nothing was loaded|several backbones"):
        ours(version).load_state_dict(find_backbone(state)[0], strict=False)
