"""Same weights, same maps and gradients as each library's own Swin, V1 and V2.

mmseg and mmdet, whose arguments ours takes, have a file of their own. Tolerances on
||a - b|| / ||b||: 1e-5 in float32; 1e-9 in float64, with coordinates of V2 in float64 too (the
libraries compute them in float32, even if all else is float64). They hold for maps and for the
gradients of images and of all parameters together; of one parameter, ten times as much, since some
are single numbers summed over every pair of tokens, whose terms nearly cancel.
"""

import pytest
import torch
from helpers.errors import relative_error
from helpers.peers import (
    PAIRS,
    PEERS,
    make_theirs,
    ours_like,
    without_output_norms,
)

from swin_backbone.ops import log_spaced_offsets, shifted_window_attention

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-9}
LIBRARIES = [pair for pair in PAIRS if pair[0] not in ("mmseg", "mmdet")]
V2 = [name for name, version in LIBRARIES if version == "v2"]


def make_pair(name, version, dtype=torch.float32, small_maps=None, **sizes):
    theirs = make_theirs(name, version, **sizes).to(dtype)
    if dtype == torch.float64:
        use_exact_coordinates(theirs, sizes.get("pretrained"))
    sizes.pop("image_size", None)
    rule = small_maps or PEERS[name].small_maps[version]
    ours = ours_like(name, version, small_maps=rule, **sizes).to(dtype)
    ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not ours.checkpoint_report.interpolated
    return (ours if version in PEERS[name].normed else without_output_norms(ours)), theirs


def use_exact_coordinates(theirs, pretrained):
    for key, table in theirs.named_buffers():
        if not key.endswith("relative_coords_table"):
            continue
        window = [(side + 1) // 2 for side in table.shape[1:3]]
        reference = window
        if pretrained:
            stage = next(int(part) for part in key.split(".") if part.isdigit())
            reference = [pretrained[stage] or side for side in window]
        exact = log_spaced_offsets(window, reference, dtype=torch.float64)
        assert relative_error(table.view_as(exact), exact) < 1e-6
        table.copy_(exact.view_as(table))


def differentiate(run, model, images, cotangents):
    """Maps, and the gradients of every parameter that has one, and of the images."""
    images = images.clone().requires_grad_()
    maps = run(images)
    sum((m * c).sum() for m, c in zip(maps, cotangents, strict=True)).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return [m.detach() for m in maps], gradients, images.grad


def assert_same(name, ours, theirs, images):
    tolerance = TOLERANCES[images.dtype]

    def run(x):
        return PEERS[name].maps(theirs, x)

    with torch.no_grad():
        cotangents = [torch.randn_like(m) for m in run(images)]
    their_maps, their_gradients, their_image_gradient = differentiate(
        run, theirs, images, cotangents
    )
    our_maps, our_gradients, our_image_gradient = differentiate(ours, ours, images, cotangents)
    for index, (a, b) in enumerate(zip(our_maps, their_maps, strict=True)):
        assert a.shape == b.shape
        assert relative_error(a, b) <= tolerance, f"map {index}"
    translated, _ = ours.fit_checkpoint(their_gradients)
    assert translated.keys() == our_gradients.keys()
    whole = [torch.cat([g[key].flatten() for key in our_gradients])
             for g in (our_gradients, translated)]  # fmt: skip
    assert relative_error(*whole) <= tolerance
    for key, gradient in our_gradients.items():
        assert relative_error(gradient, translated[key]) <= 10 * tolerance, key
    assert relative_error(our_image_gradient, their_image_gradient) <= tolerance


#: Whole windows, and where the library does what the original does, windows that need padding.
#: torchvision cuts off what is no whole patch of 4x4 pixels.
SIZES = {
    "timm": [(64, 64)],
    "torchvision": [(64, 64), (72, 100)],
    "mmpretrain": [(64, 64), (71, 101)],
    "transformers": [(64, 64), (71, 101)],
}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=["float32", "float64"])
@pytest.mark.parametrize(
    ("name", "version", "size"),
    [(name, version, size) for name, version in LIBRARIES for size in SIZES[name]],
)
def test_parity_of_maps_and_gradients(name, version, size, dtype):
    ours, theirs = make_pair(name, version, dtype)
    assert_same(name, ours, theirs, torch.randn(1, 3, *size, dtype=dtype))


@pytest.mark.parametrize("name", [name for name in V2 if name != "torchvision"])
def test_parity_with_windows_larger_than_in_pretraining(name):
    ours, theirs = make_pair(name, "v2", torch.float64, pretrained=(3, 2))
    assert_same(name, ours, theirs, torch.randn(1, 3, 64, 64, dtype=torch.float64))


FOUR_STAGES = {"embed_dims": 16, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}


@pytest.mark.parametrize(("name", "version"), LIBRARIES)
def test_parity_at_224_where_the_last_map_is_one_window(name, version):
    """Stage 4 of every classifier: there the libraries do not shift, but mmseg, mmdet and
    transformers' backbone of V1 (not its classifier) do."""
    sizes = {**FOUR_STAGES, "window_size": 7, "image_size": 224}
    ours, theirs = make_pair(name, version, **sizes)
    shifting, _ = make_pair(name, version, small_maps="shift", **sizes)
    shifting.load_state_dict(ours.state_dict(), strict=False)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = PEERS[name].maps(theirs, images)
        for a, b in zip(ours(images), expected, strict=True):
            assert relative_error(a, b) <= 1e-5
        shifted = shifting(images)
    assert relative_error(shifted[2], expected[2]) <= 1e-5
    same = PEERS[name].small_maps[version] == "shift"
    assert (relative_error(shifted[3], expected[3]) <= 1e-5) == same


SMALL_MAPS = [  # 8x16 tokens, then 4x8, which a window of 4 covers on one axis, then 2x4
    ("timm", "v2", (32, 64), 3),
    ("torchvision", "v1", (32, 64), 3),
    ("torchvision", "v2", (32, 64), 3),
    ("mmpretrain", "v1", (32, 64), 2),
    ("mmpretrain", "v2", (32, 64), 2),
    ("transformers", "v2", (32, 32), 3),
]


@pytest.mark.parametrize(("name", "version", "size", "stages"), SMALL_MAPS)
def test_parity_on_maps_smaller_than_a_window(name, version, size, stages):
    sizes = {key: value[:stages] for key, value in FOUR_STAGES.items() if key != "embed_dims"}
    ours, theirs = make_pair(name, version, torch.float64, image_size=size, **sizes)
    assert_same(name, ours, theirs, torch.randn(1, 3, *size, dtype=torch.float64))


def test_transformers_classifier_of_v1_does_not_shift_where_its_backbone_does():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    backbone = make_theirs("transformers", "v1", window_size=8)  # the last map is one window
    model = transformers.SwinModel(backbone.config).eval()
    model.load_state_dict(backbone.swin.state_dict(), strict=True)
    images = torch.randn(1, 3, 64, 64)
    errors = {}
    for rule in ("shift", "shrink_square"):
        ours = ours_like("transformers", "v1", window_size=8, small_maps=rule)
        ours.load_state_dict(model.state_dict(), strict=False)
        ours.norm1 = model.layernorm
        with torch.no_grad():
            expected = model(images).last_hidden_state
            errors[rule] = relative_error(ours(images)[1].flatten(2).transpose(1, 2), expected)
    assert errors["shrink_square"] <= 1e-5
    assert errors["shift"] > 1e-3


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_timm_pads_after_shifting_and_so_masks_other_tokens(version):
    """A 9x9 map with windows of 4: the original pads, then shifts; timm shifts, then pads, so
    that the padding lies in the middle of the map and the mask does not meet it
    (huggingface/pytorch-image-models issue 2438). Blocks that do not shift agree."""
    ours, theirs = make_pair("timm", version, image_size=36)
    images = torch.randn(1, 3, 36, 36)
    with torch.no_grad():
        x = theirs.patch_embed(images)
        first, second = (
            (our(x), their(x))
            for our, their in zip(ours.stages[0].blocks, theirs.layers[0].blocks, strict=True)
        )
    assert relative_error(*first) <= 1e-5
    assert relative_error(*second) > 1e-2


def test_transformers_v2_takes_windows_and_shifts_of_columns_from_rows():
    """An 8x16 map, then 4x8, with windows of 4: its rows do not shift, and so its columns do not
    either. timm, which it follows, treats each axis by itself."""
    ours, theirs = make_pair("transformers", "v2", image_size=(32, 64))
    per_axis, _ = make_pair("transformers", "v2", small_maps="shrink", image_size=(32, 64))
    per_axis.load_state_dict(ours.state_dict(), strict=False)
    images = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        expected = PEERS["transformers"].maps(theirs, images)[1]
        assert relative_error(ours(images)[1], expected) <= 1e-5
        assert relative_error(per_axis(images)[1], expected) > 1e-3


@pytest.mark.parametrize("shift", [0, 2])
def test_swinv2_cr_is_cosine_attention_with_a_bias_of_its_own(shift):
    """timm's swinv2_cr shares V2's attention and nothing else: with the table that its network
    computes from its own coordinates, the operation gives what its block does."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    block = timm.models.swin_transformer_v2_cr.SwinTransformerV2CrBlock(
        16, 2, feat_size=(8, 12), window_size=(4, 4), shift_size=(shift, shift)
    )
    block = block.double().eval()
    attention = block.attn
    offset = torch.arange(-3, 4, dtype=torch.float64)
    offset = offset.sign() * torch.log1p(offset.abs())
    pairs = torch.stack(torch.meshgrid(offset, offset, indexing="ij"), dim=-1).flatten(0, 1)
    table = attention.meta_mlp(pairs)
    x = torch.randn(2, 8, 12, 16, dtype=torch.float64)
    ours = shifted_window_attention(
        attention.qkv(x), table, num_heads=2, window_size=(4, 4), shift_size=(shift, shift),
        logit_scale=attention.logit_scale.exp(),
    )  # fmt: skip
    expected = block._shifted_window_attn(x)
    assert relative_error(attention.proj(ours), expected) <= 1e-6  # its coordinates are float32
