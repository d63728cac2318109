"""Same weights, same maps and gradients as mmseg's and mmdet's own ``SwinTransformer``.

Tolerances on ||a - b|| / ||b||: in float32, 1e-5 for maps and 1e-4 for gradients, which add up
rounding over as many as 128 x 128 tokens in another order; in float64, 1e-10 for both, far above
its rounding and far below any difference in meaning.
"""

import functools
import importlib
import inspect

import pytest
import torch
from helpers.errors import relative_error

from swin_backbone import SwinBackbone

PEERS = {"mmseg": "mmseg.models.backbones", "mmdet": "mmdet.models.backbones"}
SIZES = [(224, 224), (400, 667), (97, 130), (33, 50), (7, 5)]
SIZES.append(pytest.param((512, 512), marks=pytest.mark.slow))
TOLERANCES = {torch.float32: (1e-5, 1e-4), torch.float64: (1e-10, 1e-10)}


@functools.lru_cache(maxsize=1)  # tests come grouped by pair
def make_pair(peer, window_size, dtype, **options):
    pytest.importorskip(peer, reason=f"{peer} is not installed")
    peer_class = importlib.import_module(PEERS[peer]).SwinTransformer
    theirs = peer_class(window_size=window_size, **options).to(dtype)
    theirs.eval()  # returns None
    theirs.init_weights()
    with torch.no_grad():
        for parameter in theirs.parameters():  # so that biases, norms and tables matter
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    ours = SwinBackbone(window_size=window_size, **options).to(dtype).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def run(model, images, cotangents):
    """Maps, and the gradients of every parameter and of the images."""
    model.zero_grad()
    images = images.clone().requires_grad_()
    maps = model(images)
    sum((m * c).sum() for m, c in zip(maps, cotangents, strict=True)).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return [m.detach() for m in maps], gradients, images.grad


def assert_same(ours, theirs, images):
    map_tolerance, gradient_tolerance = TOLERANCES[images.dtype]
    with torch.no_grad():
        cotangents = [torch.randn_like(m) for m in theirs(images)]
    their_maps, their_gradients, their_input_gradient = run(theirs, images, cotangents)
    our_maps, our_gradients, our_input_gradient = run(ours, images, cotangents)
    for index, (a, b) in enumerate(zip(our_maps, their_maps, strict=True)):
        assert a.shape == b.shape
        assert relative_error(a, b) <= map_tolerance, f"map {index}"
    renamed, _ = ours.fit_checkpoint(their_gradients)
    assert renamed.keys() == our_gradients.keys()
    for name, gradient in our_gradients.items():
        assert relative_error(gradient, renamed[name]) <= gradient_tolerance, name
    assert relative_error(our_input_gradient, their_input_gradient) <= gradient_tolerance


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("dtype", TOLERANCES, ids=["float32", "float64"])
@pytest.mark.parametrize("window_size", [7, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("peer", PEERS)
def test_parity_of_maps_and_gradients(peer, window_size, dtype, size):
    ours, theirs = make_pair(peer, window_size, dtype)
    assert_same(ours, theirs, torch.randn(1, 3, *size, dtype=dtype))


@pytest.mark.parametrize(
    "options",
    [
        {"qkv_bias": False},
        {"qk_scale": 0.3},
        {"patch_norm": False},
        {"mlp_ratio": 2},
        {"strides": (4, 2, 2, 1)},
        {"patch_size": 2, "strides": (2, 2, 2, 2)},
        {"in_channels": 5},
        {"out_indices": (1, 3)},
        {"norm_cfg": {"type": "LN", "eps": 1e-3}},
        {"act_cfg": {"type": "ReLU"}},
        {"use_abs_pos_embed": True, "pretrain_img_size": (68, 100)},
    ],
    ids=lambda options: "-".join(options),
)
def test_parity_of_options(options):
    """Arguments mean what they mean in mmseg."""
    small = {"embed_dims": 32, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}
    ours, theirs = make_pair.__wrapped__(  # dicts cannot be cached
        "mmseg", 7, torch.float64, **small, **options
    )
    size = options.get("pretrain_img_size", (97, 130))
    assert_same(
        ours, theirs, torch.randn(2, options.get("in_channels", 3), *size, dtype=torch.float64)
    )


def test_parity_of_defaults():
    """Every argument of mmseg's backbone is there, with the same default."""
    module = importlib.import_module(PEERS["mmseg"])
    theirs = inspect.signature(module.SwinTransformer).parameters
    ours = inspect.signature(SwinBackbone).parameters
    assert {name: ours[name].default for name in theirs} == {
        name: p.default for name, p in theirs.items()
    }


@pytest.mark.parametrize("training", [True, False])
def test_parity_under_bf16_autocast(training):
    """Both run in bfloat16; ours is no further from float32 than mmseg's, within a margin of
    1.5 for the different order of rounding."""
    ours, theirs = make_pair("mmseg", 7, torch.float32, drop_path_rate=0.0)
    ours.train(training)
    theirs.train(training)
    images = torch.randn(1, 3, 97, 130)
    with torch.no_grad():
        exact = theirs(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            errors = [
                [relative_error(a.float(), b) for a, b in zip(model(images), exact, strict=True)]
                for model in (ours, theirs)
            ]
    assert all(a <= 1.5 * b for a, b in zip(*errors, strict=True)), errors
