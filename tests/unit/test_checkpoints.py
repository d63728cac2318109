"""Loading: every way in, every layout known so far, and a report of what happened."""

from collections import OrderedDict

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import load_checkpoint
from torch import nn

from swin_backbone import SwinBackbone
from swin_backbone.checkpoints import CheckpointError, find_backbone, read_checkpoint

SMALL = {"embed_dims": 16, "depths": (2, 2), "num_heads": (1, 2), "out_indices": (0, 1)}


def make_ours(**options):
    return SwinBackbone(**{**SMALL, **options}).eval()


def make_theirs(**options):
    backbones = pytest.importorskip("mmseg.models.backbones", reason="mmseg is not installed")
    theirs = backbones.SwinTransformer(**{**SMALL, **options})
    theirs.eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    return theirs


class Segmentor(BaseModel):
    """A model with a backbone and a head, as checkpoints of whole models have them."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.decode_head = nn.Conv2d(16, 3, 1)

    def forward(self, x):
        return self.decode_head(self.backbone(x)[0])


def assert_same_maps(ours, theirs, tolerance=1e-5):
    images = torch.randn(1, 3, 41, 53)
    for a, b in zip(ours(images), theirs(images), strict=True):
        assert (a - b).norm() <= tolerance * b.norm()


@pytest.fixture
def save(tmp_path):
    def save_to(content, name="checkpoint.pth"):
        torch.save(content, tmp_path / name)
        return str(tmp_path / name)

    return save_to


WRAPPINGS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "meta": {"epoch": 3}},
    "model": lambda state: {"model": state, "optimizer": {}},
    "module": lambda state: {f"module.{k}": v for k, v in state.items()},
    "segmentor": lambda state: {
        "state_dict": OrderedDict(
            [(f"backbone.{k}", v) for k, v in state.items()]
            + [("decode_head.conv_seg.weight", torch.zeros(3, 16, 1, 1))]
        )
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_init_cfg_loads_mmsegs_checkpoints(wrapping, save):
    theirs = make_theirs()
    path = save(WRAPPINGS[wrapping](theirs.state_dict()))
    ours = make_ours(init_cfg={"type": "Pretrained", "checkpoint": path})
    ours.init_weights()
    assert_same_maps(ours, theirs)
    report = ours.checkpoint_report
    assert report.layout == "mmseg/mmdet"
    assert sorted(report.loaded) == sorted(dict(ours.named_parameters()))
    assert not report.missing
    assert not report.unexpected
    ignored = set(report.ignored)
    assert {key for key in ignored if key.endswith("relative_position_index")}
    assert ("decode_head.conv_seg.weight" in ignored) == (wrapping == "segmentor")


def test_pretrained_is_the_old_form_of_init_cfg(save):
    theirs = make_theirs()
    ours = make_ours(pretrained=save(theirs.state_dict()))
    ours.init_weights()
    assert_same_maps(ours, theirs)


@pytest.mark.parametrize("source", ["backbone", "segmentor"])
def test_load_state_dict_is_strict_and_takes_mmsegs_keys(source):
    theirs = make_theirs()
    state = theirs.state_dict()
    if source == "segmentor":
        state = WRAPPINGS["segmentor"](state)["state_dict"]
    ours = make_ours()
    ours.load_state_dict(state, strict=True)
    assert_same_maps(ours, theirs)


@pytest.mark.parametrize("loader", ["torch", "mmengine"])
def test_a_whole_segmentor_loads_through_its_own_loading(loader, save):
    theirs = Segmentor(make_theirs())
    ours = Segmentor(make_ours())
    if loader == "torch":
        ours.load_state_dict(theirs.state_dict(), strict=True)
    else:
        path = save({"state_dict": theirs.state_dict(), "meta": {}})
        load_checkpoint(ours, path, map_location="cpu", strict=True)
    images = torch.randn(1, 3, 30, 47)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), rtol=1e-4, atol=1e-5)


def test_own_checkpoints_round_trip_bit_for_bit():
    model, other = make_ours(), make_ours()
    state = model.state_dict()
    other.load_state_dict(state)
    assert list(other.state_dict()) == list(state)
    assert all(torch.equal(other.state_dict()[key], state[key]) for key in state)
    assert other.checkpoint_report.layout == "swin_backbone"
    assert not other.checkpoint_report.ignored


def to_official(state):
    """Our tensors as the original repository's classifier names and orders them."""
    official = {}
    for key, tensor in state.items():
        if ".downsample." in key:
            by_neighbour = tensor.unflatten(-1, (-1, 4)).transpose(-2, -1)[..., [0, 2, 1, 3], :]
            tensor = by_neighbour.flatten(-2)
        if key.startswith("norm"):
            continue
        key = key.replace("stages.", "layers.").replace("embed.projection.", "embed.proj.")
        official[key] = tensor
    official["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 49, 49)
    official["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    official["norm.weight"] = torch.ones(32)
    official["head.weight"] = torch.zeros(1000, 32)
    return official


def test_the_original_classifiers_load_and_their_heads_are_named():
    """mmdet's configs start from the original repository's files (``convert_weights=True``)."""
    source, ours = make_ours(), make_ours(convert_weights=True)
    with torch.no_grad():
        for parameter in source.stages.parameters():
            parameter.copy_(torch.randn_like(parameter))
    ours.load_state_dict(to_official(source.state_dict()), strict=False)
    for (name, a), b in zip(ours.named_parameters(), source.parameters(), strict=True):
        assert name.startswith("norm") or torch.equal(a, b), name
    report = ours.checkpoint_report
    assert report.layout == "official"
    assert sorted(report.missing) == ["norm0.bias", "norm0.weight", "norm1.bias", "norm1.weight"]
    assert report.ignored["head.weight"] == "belongs to the classification head"
    assert report.ignored["layers.0.blocks.1.attn_mask"].startswith("computed from")


def test_the_originals_merging_order():
    """Neighbours (0,0), (1,0), (0,1), (1,1) concatenated, as in the original's forward."""
    ours = make_ours()
    merging = ours.stages[0].downsample
    weight = torch.randn(32, 64)
    state = to_official(ours.state_dict())
    state["layers.0.downsample.reduction.weight"] = weight
    scale = torch.randn(64)
    state["layers.0.downsample.norm.weight"] = scale
    ours.load_state_dict(state, strict=False)
    x = torch.randn(1, 6, 4, 16)
    parts = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
    normed = torch.nn.functional.layer_norm(torch.cat(parts, -1), (64,))
    torch.testing.assert_close(merging(x), (normed * scale) @ weight.t())


@pytest.mark.parametrize("window_size", [12, (5, 9)])
def test_bias_tables_are_interpolated_to_another_window(window_size, save):
    theirs = make_theirs()
    for module in theirs.modules():
        if hasattr(module, "relative_position_bias_table"):  # a plane, which bicubic keeps
            rows = torch.linspace(-1, 1, 13)
            plane = rows[:, None] + 2 * rows[None, :]
            module.relative_position_bias_table.data = plane.reshape(-1, 1).repeat(
                1, module.num_heads
            )
    ours = make_ours(
        window_size=window_size,
        init_cfg={"type": "Pretrained", "checkpoint": save(theirs.state_dict())},
    )
    ours.init_weights()
    report = ours.checkpoint_report
    assert len(report.interpolated) == 4
    height, width = ours.window_sizes[0]
    key = "stages.0.blocks.1.attn.relative_position_bias_table"
    shape = ((2 * height - 1) * (2 * width - 1), 1)
    assert report.interpolated[key] == ((169, 1), shape)
    assert f"interpolated {key}: 169x1 -> {shape[0]}x1" in str(report)
    plane = ours.state_dict()[key].view(2 * height - 1, 2 * width - 1)
    assert plane[height - 1, width - 1].abs() < 1e-5  # the centre keeps its value
    assert (plane.diff(dim=0) > -1e-5).all()
    assert (plane.diff(dim=1) > -1e-5).all()


def test_absolute_position_embedding_is_interpolated_to_another_image_size():
    source = make_ours(use_abs_pos_embed=True, pretrain_img_size=32)
    target = make_ours(use_abs_pos_embed=True, pretrain_img_size=(48, 64))
    with torch.no_grad():
        source.absolute_pos_embed.fill_(0.5)
    target.load_state_dict(source.state_dict())
    assert target.checkpoint_report.interpolated == {
        "absolute_pos_embed": ((1, 64, 16), (1, 192, 16))
    }
    torch.testing.assert_close(target.absolute_pos_embed, torch.full((1, 192, 16), 0.5))


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        (
            {"patch_size": 2, "strides": (2, 2)},
            ["patch_embed.projection.weight", "(16, 3, 4, 4)", "(16, 3, 2, 2)"],
        ),
        ({"num_heads": (2, 2)}, ["relative_position_bias_table", "(169, 1)", "(169, 2)"]),
        ({"embed_dims": 32}, ["norm0.bias", "(16,)", "(32,)"]),
    ],
)
def test_a_shape_that_fits_in_no_way_is_an_error_with_both_shapes(options, shapes, save):
    state = make_theirs().state_dict()
    ours = make_ours(**options)
    before = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        ours.load_state_dict(state, strict=False)
    for text in shapes:
        assert text in str(caught.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in ours.state_dict().items())
    with pytest.raises(CheckpointError):  # mmengine's loader alone would only warn
        load_checkpoint(
            Segmentor(ours), save({"state_dict": Segmentor(make_theirs()).state_dict()})
        )


def test_a_table_of_no_square_window_is_an_error():
    source, target = make_ours(window_size=(3, 5)), make_ours(window_size=7)
    with pytest.raises(CheckpointError, match=r"\(45, 1\), backbone takes \(169, 1\)"):
        target.load_state_dict(source.state_dict())


def test_norms_of_stages_that_are_not_returned_are_left_out():
    """As when features of some stages are taken of a model that returned all."""
    torch.manual_seed(0)
    arguments = {"embed_dims": 8, "depths": (1, 1), "num_heads": (1, 1), "strides": (4, 2)}
    whole = SwinBackbone(**arguments, out_indices=(0, 1)).eval()
    last = SwinBackbone(**arguments, out_indices=(1,)).eval()
    last.load_state_dict(whole.state_dict())  # strictly
    report = last.checkpoint_report
    assert set(report.ignored) == {"norm0.weight", "norm0.bias"}
    assert not report.unexpected
    images = torch.randn(1, 3, 20, 30)
    assert torch.equal(last(images)[0], whole(images)[1])
    with pytest.raises(CheckpointError, match=r"norm2\.weight"):
        last.load_state_dict({**whole.state_dict(), "norm2.weight": torch.ones(32)})


def test_missing_and_unexpected_keys_are_reported_and_strict_loading_refuses_them():
    state = make_theirs().state_dict()
    del state["norm1.weight"]
    state["stages.0.blocks.0.surprise"] = torch.zeros(1)
    ours = make_ours()
    ours.load_state_dict(state, strict=False)
    assert ours.checkpoint_report.missing == ["norm1.weight"]
    assert ours.checkpoint_report.unexpected == ["stages.0.blocks.0.surprise"]
    text = str(ours.checkpoint_report)
    assert "missing norm1.weight" in text
    assert "unexpected stages.0.blocks.0.surprise" in text
    with pytest.raises(RuntimeError, match=r"norm1\.weight"):
        ours.load_state_dict(state, strict=True)


def test_a_foreign_model_is_an_error():
    foreign = {f"layer{i}.conv.weight": torch.zeros(1) for i in range(9)}
    with pytest.raises(CheckpointError, match=r"not of a Swin backbone.*layer0.conv.weight"):
        make_ours().load_state_dict(foreign, strict=False)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"state_dict": {"a": "text"}}, {}], ids=repr)
def test_a_file_without_tensors_is_an_error(content, save):
    model = make_ours(init_cfg={"type": "Pretrained", "checkpoint": save(content)})
    with pytest.raises(CheckpointError, match="holds no state dict of tensors"):
        model.init_weights()


@pytest.mark.parametrize("kept", [1, 100, 0.5, 0.99])
def test_a_truncated_file_is_an_error_that_names_it(kept, save, tmp_path):
    path = save(make_ours().state_dict())
    content = (tmp_path / "checkpoint.pth").read_bytes()
    size = kept if isinstance(kept, int) else int(kept * len(content))
    (tmp_path / "checkpoint.pth").write_bytes(content[:size])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pth' is truncated or no PyTorch file"):
        read_checkpoint(path)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        read_checkpoint(tmp_path / "nowhere.pth")


def test_find_backbone_names_what_it_leaves_out():
    state = WRAPPINGS["segmentor"](make_ours().state_dict())
    tensors, ignored = find_backbone(state)
    assert "norm0.weight" in tensors
    assert ignored == {"decode_head.conv_seg.weight": "belongs to the model's decode_head"}


def test_half_precision_checkpoints_load():
    source, target = make_ours(window_size=4), make_ours(window_size=7)
    target.load_state_dict({key: tensor.half() for key, tensor in source.state_dict().items()})
    assert target.norm0.weight.dtype == torch.float32
    assert len(target.checkpoint_report.interpolated) == 4
