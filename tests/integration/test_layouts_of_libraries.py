"""Every library's own class: its weights load into ours, ours into it, with equal maps."""

import pytest
import torch
from helpers.errors import relative_error
from helpers.peers import (
    PAIRS,
    PEERS,
    SMALL,
    make_theirs,
    ours_like,
    randomise,
    transformers_config,
    without_output_norms,
)

from swin_backbone.checkpoints import CheckpointError, find_backbone, to_ours, to_theirs
from swin_backbone.checkpoints.layouts import Windows
from swin_backbone.checkpoints.layouts.name_templates import Template

TOLERANCE = 1e-5  # float32 on both sides, sums in another order
WINDOWS = Windows((4, 4), ((0, 0), (0, 0)))
BUFFERS = ("relative_position_index", "relative_coords_table")


def assert_same_maps(ours, theirs_maps, images):
    with torch.no_grad():
        for a, b in zip(ours(images), theirs_maps, strict=True):
            assert a.shape == b.shape
            assert relative_error(a, b) <= TOLERANCE


def maps_of(name, theirs, images):
    with torch.no_grad():
        return PEERS[name].maps(theirs, images)


@pytest.mark.parametrize(("name", "version"), PAIRS)
def test_their_weights_load_into_ours(name, version):
    theirs, ours = make_theirs(name, version), ours_like(name, version)
    peer = PEERS[name]
    ours.load_state_dict(theirs.state_dict(), strict=version in peer.normed)
    report = ours.checkpoint_report
    assert report.layout == peer.layout[version]
    assert not report.unexpected
    assert not report.interpolated
    norms = {key for key in ours.state_dict() if key.startswith("norm")}
    assert set(report.missing) == (set() if version in peer.normed else norms)
    if version not in peer.normed:
        without_output_norms(ours)
    images = torch.randn(2, 3, 64, 64)
    assert_same_maps(ours, maps_of(name, theirs, images), images)


def load_strictly(name, version, state):
    """A new model of theirs with these tensors; raises if one is missing or left over."""
    if name == "transformers":  # its own loading translates between files and modules
        import transformers

        config = transformers_config(version, 64, (0, 0), **SMALL)
        # The backbone of V2 has no norm at all, the model has the final one.
        model = transformers.SwinBackbone if version == "v1" else transformers.Swinv2Model
        theirs, info = model.from_pretrained(
            None, config=config, state_dict=state, output_loading_info=True
        )
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            assert not info[kind], (kind, info[kind])
        return theirs
    theirs = make_theirs(name, version)
    if (name, version) == ("mmpretrain", "v2"):
        # Its hook removes the buffers before it loads, so that even its own state dict fails.
        with pytest.raises(RuntimeError, match="relative_coords_table"):
            theirs.load_state_dict(theirs.state_dict(), strict=True)
        missing, unexpected = theirs.load_state_dict(state, strict=False)
        assert all(key.endswith(BUFFERS) for key in missing)
        assert not unexpected
    else:
        theirs.load_state_dict(state, strict=True)
    return theirs


@pytest.mark.parametrize(("name", "version"), PAIRS)
def test_our_weights_load_into_theirs(name, version):
    ours = ours_like(name, version)
    randomise(ours)
    state, report = to_theirs(ours.state_dict(), name, WINDOWS)
    theirs = load_strictly(name, version, state)
    dropped = {"norm0.weight", "norm0.bias"} if version not in PEERS[name].normed else set()
    assert set(report.ignored) == dropped
    images = torch.randn(2, 3, 64, 64)
    if (name, version) == ("transformers", "v2"):
        with torch.no_grad():
            out = theirs(images).last_hidden_state
            expected = ours(images)[-1].flatten(2).transpose(1, 2)
        assert relative_error(expected, out) <= TOLERANCE
        return
    if version not in PEERS[name].normed:
        without_output_norms(ours)
    assert_same_maps(ours, maps_of(name, theirs, images), images)


@pytest.mark.parametrize(("name", "version"), [*PAIRS, ("official", "v1"), ("official", "v2")])
def test_round_trips_are_exact(name, version):
    ours = ours_like(name, version)
    randomise(ours)
    state = ours.state_dict()
    theirs, report = to_theirs(state, name)
    back = to_ours(theirs)
    assert not back.unknown
    # A final norm stands for the last output norm where there are no others.
    tensors = {key.replace("norm.", "norm1.") if key.startswith("norm.") else key: tensor
               for key, tensor in back.tensors.items()}  # fmt: skip
    assert tensors.keys() == state.keys() - report.ignored.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in tensors.items())


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_original_as_timm_and_mmdet_read_it(version):
    """There is no package of the original; timm and mmdet each convert its names and orders."""
    ours = ours_like("official", version)
    randomise(ours)
    state, _ = to_theirs(ours.state_dict(), "official")
    images = torch.randn(2, 3, 64, 64)
    theirs = make_theirs("timm", version)
    import timm

    module = timm.models.swin_transformer if version == "v1" else timm.models.swin_transformer_v2
    final = {"norm.weight": state["norm1.weight"], "norm.bias": state["norm1.bias"]}
    classifier = {key: value for key, value in state.items() if not key.startswith("norm")} | final
    theirs.load_state_dict(module.checkpoint_filter_fn(classifier, theirs), strict=True)
    expected = maps_of("timm", theirs, images)
    if version == "v1":
        from mmdet.models.backbones.swin import swin_converter

        converted = swin_converter(state)
        converted = {key.removeprefix("backbone."): value for key, value in converted.items()}
        detector = make_theirs("mmdet", version)
        missing, unexpected = detector.load_state_dict(converted, strict=False)
        assert all(key.endswith(BUFFERS) for key in missing)
        assert not unexpected
        assert_same_maps(ours, maps_of("mmdet", detector, images), images)
    assert_same_maps(without_output_norms(ours), expected, images)


WRAPPERS = {
    "model": lambda state: {"model": state, "optimizer": {"lr": 1.0}},
    "averaged": lambda state: {
        "model_ema": {f"module.{k}": v for k, v in state.items()} | {"n_averaged": torch.tensor(3)}
    },
    "ddp": lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
    "segmentor": lambda state: (
        {f"backbone.{k}": v for k, v in state.items()}
        | {"decode_head.conv_seg.weight": torch.zeros(2)}
    ),
    "nested": lambda state: (
        {f"model.pixel_level_module.encoder.{k}": v for k, v in state.items()}
        | {"model.transformer.queries": torch.zeros(2)}
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(("name", "version"), [("timm", "v2"), ("transformers", "v1")])
def test_backbones_are_found_in_whatever_holds_them(name, version, wrapper):
    theirs, ours = make_theirs(name, version), ours_like(name, version)
    tensors, _ = find_backbone(WRAPPERS[wrapper](theirs.state_dict()))
    assert tensors.keys() == theirs.state_dict().keys()
    ours.load_state_dict(tensors, strict=False)
    assert not ours.checkpoint_report.unexpected


def test_several_backbones_are_an_error():
    state = make_theirs("timm", "v1").state_dict()
    both = {f"{who}.net.{k}": v for who in ("teacher", "student") for k, v in state.items()}
    with pytest.raises(CheckpointError, match=r"several backbones.*'student.net.', 'teacher.net.'"):
        find_backbone(both)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_simmim_pretrained_encoders_load(version):
    ours, source = ours_like("official", version), ours_like("official", version)
    randomise(source)
    encoder, _ = to_theirs(source.state_dict(), "official")
    encoder = {key: value for key, value in encoder.items() if not key.startswith("norm")}
    encoder |= {"mask_token": torch.zeros(1, 1, 16), "norm.weight": torch.ones(32)}
    state = {f"encoder.{key}": value for key, value in encoder.items()}
    state["decoder.0.weight"] = torch.zeros(3072, 32, 1, 1)
    tensors, ignored = find_backbone({"model": state})
    assert list(ignored) == ["decoder.0.weight"]
    ours.load_state_dict(tensors, strict=False)
    report = ours.checkpoint_report
    assert report.ignored["mask_token"] == "stands for masked patches in pretraining"
    assert not report.unexpected
    assert all(key.startswith("norm") for key in report.missing)
    for key, value in source.state_dict().items():
        assert key.startswith("norm") or torch.equal(ours.state_dict()[key], value)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_timms_feature_extractors_load(version):
    import timm

    backbone = make_theirs("timm", version)
    state = {
        key.replace("layers.", "layers_"): value for key, value in backbone.state_dict().items()
    }
    extractor = timm.models.FeatureListNet(backbone, (0, 1), flatten_sequential=True)
    assert set(extractor.state_dict()) == {key for key in state if not key.startswith("norm.")}
    ours = without_output_norms(ours_like("timm", version))
    ours.load_state_dict(extractor.state_dict(), strict=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = [m.permute(0, 3, 1, 2) for m in extractor(images)]
    assert_same_maps(ours, expected, images)


def test_torchvisions_key_bias_counts_as_zero():
    theirs, ours = make_theirs("torchvision", "v2"), ours_like("torchvision", "v2")
    state = theirs.state_dict()
    changed = dict(state)
    for key in state:
        if key.endswith("qkv.bias"):
            changed[key] = state[key].clone()
            changed[key][len(changed[key]) // 3 : 2 * len(changed[key]) // 3] = 7.0
    exported = to_theirs(to_ours(changed).tensors, "torchvision", WINDOWS)[0]
    key = "features.1.0.attn.qkv.bias"
    assert torch.equal(exported[key][16:32], torch.zeros(16))
    assert torch.equal(exported[key][:16], state[key][:16])
    ours.load_state_dict(changed, strict=False)
    images = torch.randn(1, 3, 64, 64)
    assert_same_maps(without_output_norms(ours), maps_of("torchvision", theirs, images), images)


def test_libraries_without_v2_and_unknown_ones_are_named():
    state = ours_like("timm", "v2").state_dict()
    with pytest.raises(ValueError, match="mmseg has no Swin V2"):
        to_theirs(state, "mmseg")
    with pytest.raises(ValueError, match=r"library must be one of mmdet, .*, got 'keras'"):
        to_theirs(state, "keras")


def test_swinv2_cr_is_refused_with_the_reason():
    timm = pytest.importorskip("timm", reason="timm is not installed")
    theirs = timm.models.swin_transformer_v2_cr.SwinTransformerV2Cr(
        img_size=64, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4)
    )
    with pytest.raises(CheckpointError, match="swinv2_cr, another architecture"):
        ours_like("timm", "v2").load_state_dict(theirs.state_dict())


def test_templates_match_and_fill():
    template = Template("features.{2s+1}.{b}.norm1.{p}")
    assert template.match("features.5.1.norm1.weight") == {"s": 2, "b": 1, "p": "weight"}
    assert template.match("features.4.1.norm1.weight") is None
    assert template.match("features.5.1.norm1.weight.more") is None
    assert template.fill({"s": 2, "b": 1, "p": "weight"}) == "features.5.1.norm1.weight"
    assert Template("layers.{s+1}.x").match("layers.0.x") is None
