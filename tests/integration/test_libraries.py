"""Our backbone in folders, and among the models of transformers and timm."""

import json
from pathlib import Path

import pytest
import torch

from swin_backbone import SwinBackbone, create
from swin_backbone.checkpoints import CheckpointError

SMALL = {"embed_dims": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8), "window_size": 4}


def small(**options):
    model = SwinBackbone(**{**SMALL, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


IMAGES = torch.randn(1, 3, 52, 40)


def same(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def near(ours, theirs):
    """Of transformers, which computes with a file's tensors where they lie in it: at addresses that
    are no multiples of 64 bytes convolutions and products may round otherwise."""
    torch.testing.assert_close(list(ours), list(theirs), rtol=1e-5, atol=1e-5)


def weights(model):
    return model.state_dict().values()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"version": "v2", "pretrained_window_sizes": (0, 0, (8, 6), 8)},
        {"out_indices": (1, 3), "frozen_stages": 1, "drop_path_rate": 0.3},
        {"window_size": (4, 6), "use_abs_pos_embed": True, "pretrain_img_size": 32},
        {"output_norms": False, "small_maps": "shrink", "act_cfg": {"type": "ReLU"}},
    ],
    ids=str,
)
def test_a_folder_holds_all_of_a_backbone(options, tmp_path):
    model = small(**options)
    model.save_pretrained(tmp_path / "new")
    again = SwinBackbone.from_pretrained(tmp_path / "new")
    assert again.arguments.keys() == model.arguments.keys()
    assert not again.training
    assert same(again(IMAGES), model(IMAGES))
    assert [p.requires_grad for p in again.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "config.json", "model.safetensors", "README.md",
    }  # fmt: skip


def test_options_come_before_the_saved_ones(tmp_path):
    model = small()
    model.save_pretrained(tmp_path)
    again = SwinBackbone.from_pretrained(str(tmp_path), out_indices=(2,), drop_path_rate=0.0)
    assert same(again(IMAGES), model(IMAGES)[2:3])


def test_a_card_that_was_written_stays(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    small().save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_what_is_wrong_with_a_folder_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        SwinBackbone.from_pretrained("nowhere")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        SwinBackbone.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="source"):
        SwinBackbone.from_pretrained(3)
    small().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    for text, message in (("{", "damaged"), ("[]", "model_type"), ('{"model_type": "x"}', "'x'")):
        config.write_text(text)
        with pytest.raises(ValueError, match=message):
            SwinBackbone.from_pretrained(tmp_path)
    saved = small(depths=(1, 1, 1, 1)).hub_config()
    config.write_text(json.dumps({**saved, "depths": [1, 1, 4, 1]}))
    with pytest.raises(CheckpointError, match="missing"):
        SwinBackbone.from_pretrained(tmp_path)


def test_what_is_no_json_is_named():
    with pytest.raises(ValueError, match="JSON"):
        SwinBackbone(act_cfg={"type": torch.nn.GELU}).hub_config()


def test_pushing_uploads_the_folder(monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="needs the extra 'hub'")
    done = {}

    class Commit:
        commit_url = "https://hub/commit"

    class Api:
        def __init__(self, token):
            done["token"] = token

        def create_repo(self, name, **options):
            done["created"] = (name, options)

        def upload_folder(self, repo_id, folder_path):
            done["model"] = SwinBackbone.from_pretrained(folder_path)
            return Commit()

    monkeypatch.setattr(hub, "HfApi", Api)
    model = small()
    assert model.push_to_hub("me/swin", private=True, token="t") == "https://hub/commit"
    assert done["token"] == "t"
    assert done["created"] == ("me/swin", {"private": True, "exist_ok": True})
    assert same(done["model"](IMAGES), model(IMAGES))


def test_the_hub_is_asked_for_config_and_weights(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub", reason="needs the extra 'hub'")
    model, asked = small(), []
    model.save_pretrained(tmp_path)

    def download(name, filename, revision=None):
        asked.append((name, filename, revision))
        return str(tmp_path / filename)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    again = SwinBackbone.from_pretrained("me/swin@v1")
    assert same(again(IMAGES), model(IMAGES))
    files = ["config.json", "model.safetensors"]
    assert asked == [("me/swin", name, "v1") for name in files]


def test_transformers_reads_the_folder_and_writes_one(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from swin_backbone.libraries.transformers_backbone import SwinBackboneModel

    model = small(version="v2")
    model.save_pretrained(tmp_path / "ours")
    backbone = SwinBackboneModel.from_pretrained(tmp_path / "ours").eval()
    assert same(weights(backbone), weights(model))
    near(backbone(IMAGES).feature_maps, model(IMAGES))
    assert backbone.channels == [16, 32, 64, 128]
    some = SwinBackboneModel.from_pretrained(tmp_path / "ours", out_features=["stage2", "stage4"])
    near(some.eval()(IMAGES).feature_maps, model(IMAGES)[1::2])
    near(some(IMAGES, return_dict=False)[0], model(IMAGES)[1::2])
    some.save_pretrained(tmp_path / "theirs")
    again = SwinBackbone.from_pretrained(tmp_path / "theirs")
    assert same(again(IMAGES), model(IMAGES)[1::2])
    config = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    found = transformers.AutoBackbone.from_config(config)
    assert isinstance(found, SwinBackboneModel)
    assert found.backbone.version == "v2"


def test_a_model_of_transformers_takes_it_as_its_backbone(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from swin_backbone.libraries.transformers_backbone import SwinBackboneConfig

    config = transformers.UperNetConfig(
        backbone_config=SwinBackboneConfig(**SMALL), hidden_size=16, auxiliary_in_channels=64,
        auxiliary_channels=8, num_labels=3,
    )  # fmt: skip
    model = transformers.UperNetForSemanticSegmentation(config)
    labels = torch.randint(3, (2, 64, 64))
    loss = model(torch.randn(2, 3, 64, 64), labels=labels).loss
    loss.backward()
    assert all(p.grad is not None for p in model.backbone.parameters())
    model.save_pretrained(tmp_path)
    again = transformers.UperNetForSemanticSegmentation.from_pretrained(tmp_path).eval()
    images = torch.randn(1, 3, 64, 64)
    assert list(again.state_dict()) == list(model.state_dict())
    assert same(weights(again), weights(model))
    near(again(images).logits, model.eval()(images).logits)


def test_timm_makes_it_by_name(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    import swin_backbone.libraries.timm_models

    assert "swin_backbone_tiny" in timm.list_models("swin_backbone_*")
    weights = tmp_path / "weights.pth"
    torch.save(swin_backbone.create("tiny").state_dict(), weights)
    model = timm.create_model(
        "swin_backbone_tiny", features_only=True, out_indices=(1, -1), checkpoint=str(weights)
    )
    assert model.training
    assert model.feature_info.channels() == [192, 768]
    assert model.feature_info.reduction() == [8, 32]
    ours = swin_backbone.create("tiny", str(weights), out_indices=(1, 3))
    assert same(model.eval()(IMAGES), ours(IMAGES))
    four = timm.create_model("swin_backbone_tiny", features_only=True, in_chans=4)
    assert [m.shape[1] for m in four(torch.randn(1, 4, 32, 32))] == [96, 192, 384, 768]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "features_only must be True"),
        ({"features_only": True, "pretrained": True}, "pretrained must be False"),
        ({"features_only": True, "colour": "red"}, "takes no colour"),
    ],
)
def test_what_it_cannot_be_in_timm_is_said(options, message):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    import swin_backbone.libraries.timm_models  # noqa: F401

    with pytest.raises((ValueError, TypeError), match=message):
        timm.create_model("swin_backbone_tiny", **options)


@pytest.mark.parametrize(
    ("name", "architecture", "depth"),
    [("tiny", "Unet", 5), ("swinv2_tiny_window8", "Segformer", 5)],
)
def test_segmentation_models_have_it_as_an_encoder(name, architecture, depth, tmp_path):
    """By timm's name: maps, gradients, weights of a file, and a folder that is read back."""
    smp = pytest.importorskip("segmentation_models_pytorch", reason="smp is not installed")
    import swin_backbone.libraries.timm_models  # noqa: F401

    backbone = create(name)
    torch.save(backbone.state_dict(), tmp_path / "weights.pth")
    options = {"drop_path_rate": 0.0, "checkpoint": str(tmp_path / "weights.pth")}
    model = getattr(smp, architecture)(
        f"tu-swin_backbone_{name}", encoder_weights=None, encoder_depth=depth, in_channels=3,
        classes=5, **options,
    )  # fmt: skip
    assert model.encoder.out_channels == [3, 0, 96, 192, 384, 768][: depth + 1]
    images = torch.randn(2, 3, 64, 96)
    assert model(images).shape == (2, 5, 64, 96)
    maps = model.eval().encoder(images)[2:]
    for ours, theirs in zip(backbone.eval()(images), maps, strict=False):
        torch.testing.assert_close(ours, theirs)
    model(images).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.save_pretrained(tmp_path / "saved")
    again = smp.from_pretrained(tmp_path / "saved").eval()
    torch.testing.assert_close(again(images), model(images))


def test_what_segmentation_models_cannot_have_is_said():
    smp = pytest.importorskip("segmentation_models_pytorch", reason="smp is not installed")
    import swin_backbone.libraries.timm_models  # noqa: F401

    with pytest.raises(ValueError, match="output_stride must be 32 for a Swin Transformer"):
        smp.DeepLabV3Plus("tu-swin_backbone_tiny", encoder_weights=None)
    with (
        pytest.warns(UserWarning, match="encoder_weights"),
        pytest.raises(ValueError, match="name weights: checkpoint="),
    ):
        smp.Unet("tu-swin_backbone_tiny")


def test_the_command_prints_the_report(tmp_path, capsys):
    pytest.importorskip("transformers", reason="transformers is not installed")
    from helpers.models_with_swin import alone

    from swin_backbone.cli.accelerate import main

    alone("SwinForImageClassification").save_pretrained(tmp_path / "theirs")
    small().save_pretrained(tmp_path / "ours")
    main([str(tmp_path / "theirs")])
    printed = capsys.readouterr().out
    assert "SwinForImageClassification: " in printed
    assert "encoder.layers.0.blocks.0 and 5 more (SwinLayer)" in printed
    main([str(tmp_path / "ours")])
    assert "nothing in this model" in capsys.readouterr().out
    main(["timm:swin_base_patch4_window7_224"])
    printed = capsys.readouterr().out
    assert "(SwinTransformerBlock)" in printed
    if not torch.cuda.is_available():  # on a card it says other things
        assert printed in (Path(__file__).parents[2] / "docs" / "encoders.md").read_text()
