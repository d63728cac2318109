"""Packed images on the kernels: on a GPU, or small in Triton's interpreter."""

import logging

import pytest
import torch
from helpers.errors import assert_as_good, assert_small, pooled_errors
from helpers.padded_images import ARGUMENTS
from helpers.triton_kernels import DEVICE, HAS_GPU
from helpers.variable_length_cases import SIZES, compare

from swin_backbone import SwinBackbone
from swin_backbone.ops import (
    LinearParameters,
    NormParameters,
    Packing,
    TokenLayout,
    Windows,
    residual_attention,
    shifted_window_attention_packed,
)
from swin_backbone.ops.geometry.packing import Level, make_tables, pack_pyramid
from swin_backbone.ops.triton import launch


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("mask_padding", [False, True])
@pytest.mark.parametrize("shift", [pytest.param((0, 0), marks=pytest.mark.slow), (2, 1)])
def test_float32_agrees_with_float64_one_by_one(shift, mask_padding, cosine):
    options = {"window_size": (4, 3), "shift_size": shift, "mask_padding": mask_padding}
    kernels, reference = compare(torch.float32, options, cosine, draws=4)
    assert_as_good(kernels, reference, torch.float32)


def test_dropout_follows_the_seed_of_torch():
    tokens = sum(rows * columns for rows, columns in SIZES)
    qkv = torch.randn(tokens, 96, device=DEVICE)
    table = torch.zeros(49, 2, device=DEVICE)

    def attend(seed):
        torch.manual_seed(seed)
        return shifted_window_attention_packed(
            qkv, SIZES, table, num_heads=2, window_size=(4, 4), dropout_p=0.4, backend="triton"
        )

    assert torch.equal(attend(1), attend(1))
    assert not torch.equal(attend(1), attend(2))


def test_the_branch_takes_packed_images():
    """Forward and gradients of tokens, with a factor for each, against the plain composition."""
    channels, tokens = 32, sum(rows * columns for rows, columns in SIZES)
    shapes = {
        "norm": [(channels,), (channels,)], "qkv": [(3 * channels, channels), (3 * channels,)],
        "table": [(49, 2)], "proj": [(channels, channels), (channels,)],
    }  # fmt: skip
    drawn = {k: [torch.randn(s, device=DEVICE) * 0.3 for s in v] for k, v in shapes.items()}
    x, cotangent = torch.randn(2, tokens, channels, device=DEVICE)
    path_scale = Packing(SIZES).spread(torch.tensor([1.25, 0.0, 0.8, 1.0], device=DEVICE))
    windows = Windows(2, (4, 4), (2, 2), 0.25)

    def branch(backend, dtype):
        p = {k: [t.to(dtype).requires_grad_() for t in v] for k, v in drawn.items()}
        own = x.to(dtype).requires_grad_()
        out = residual_attention(
            own, NormParameters(*p["norm"], 1e-5), LinearParameters(*p["qkv"]), *p["table"],
            LinearParameters(*p["proj"]), windows, path_scale, backend,
            TokenLayout(packing=Packing(SIZES)),
        )  # fmt: skip
        leaves = [own, *(t for v in p.values() for t in v)]
        return [out.detach(), *torch.autograd.grad(out, leaves, cotangent.to(dtype))]

    if HAS_GPU:
        torch.backends.cuda.matmul.allow_tf32 = True  # or the branch is not fused
    try:
        found = branch("triton", torch.float32)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    # float32: sums over at most 96 channels and 75 tokens; tf32 has 10 bits of them
    tolerance = 3e-3 if HAS_GPU else 1e-5
    exact = branch("reference", torch.float64)
    assert_small(pooled_errors([found], [exact]), tolerance)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_backbone_gives_each_image_what_the_reference_gives(version):
    """1e-4 of the largest value: float32 through four blocks, sums over at most 128 channels."""
    options = {**ARGUMENTS, "embed_dims": 32, "depths": (2, 2), "num_heads": (1, 2)}
    options |= {"strides": (4, 2), "out_indices": (0, 1), "version": version}
    fast = SwinBackbone(**options, packed=True, backend="triton")
    for parameter in fast.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    slow = SwinBackbone(**options, backend="reference")
    slow.load_state_dict(fast.state_dict())
    fast, slow = fast.to(DEVICE), slow.double().to(DEVICE)
    images = [torch.randn(3, *size, device=DEVICE) for size in [(21, 30), (9, 35)]]
    maps = fast.forward_packed(images, (24, 36))
    alone = [slow(image[None].double()) for image in images]
    for stage, found in enumerate(maps):
        for index, own in enumerate(alone):
            rows, columns = own[stage].shape[2:]
            inside = found[index, :, :rows, :columns].double()
            assert (inside - own[stage][0]).abs().max() <= 1e-4 * own[stage].abs().max()
    sum(m.square().mean() for m in maps).backward()
    rest = [m.square().sum() / found.numel() for m, found in _pairs(alone, maps)]
    sum(rest).backward()
    for (name, p), q in zip(fast.named_parameters(), slow.parameters(), strict=True):
        assert (p.grad - q.grad).norm() <= 1e-4 * q.grad.norm() + 1e-6, name


def _pairs(alone, maps):
    return [(own[stage], found) for own in alone for stage, found in enumerate(maps)]


def test_tables_say_where_tokens_and_windows_lie():
    sizes = [(21, 30), (9, 35), (4, 4)]
    packings = pack_pyramid(
        sizes, [(4, 4), (2, 2)], [(3, 2), (4, 4)], torch.device(DEVICE), (24, 36)
    )
    first, second = (p.tables for p in packings)
    assert packings[0].sizes == ((6, 8), (3, 9), (1, 1))
    tokens = [
        (i, y, x) for i, size in enumerate(packings[0].sizes) for y in range(size[0])
        for x in range(size[1])
    ]  # fmt: skip
    assert first.image.tolist() == [i for i, _, _ in tokens]
    assert first.batch.tolist() == [i * 6 * 9 + y * 9 + x for i, y, x in tokens]
    starts, widths = [0, 12, 22], [4, 5, 1]
    assert first.merged.tolist() == [
        4 * (starts[i] + y // 2 * widths[i] + x // 2) + y % 2 * 2 + x % 2 for i, y, x in tokens
    ]
    windows = [[0, 6, 8, n] for n in range(8)] + [[48, 3, 9, n] for n in range(5)]
    assert first.windows.tolist() == [*windows, [75, 1, 1, 0]]
    assert second.merged is None
    assert second.windows.tolist() == [[0, 3, 4, 0], [12, 2, 5, 0], [12, 2, 5, 1], [22, 1, 1, 0]]


def test_tables_of_one_level_need_no_pyramid():
    (tables,) = make_tables([Level(((2, 3), (1, 4)), (2, 2))], torch.device(DEVICE))
    assert tables.windows.tolist() == [[0, 2, 3, 0], [0, 2, 3, 1], [6, 1, 4, 0], [6, 1, 4, 1]]
    assert tables.merged is None
    assert tables.batch is None


def test_the_choice_is_logged(caplog):
    qkv, table = torch.rand(6, 96, device=DEVICE), torch.zeros(9, 2, device=DEVICE)
    with caplog.at_level(logging.DEBUG, logger="swin_backbone.ops.dispatch"):
        shifted_window_attention_packed(
            qkv, [(2, 3)], table, num_heads=2, window_size=(2, 2), backend="reference"
        )
    assert (
        "variable-length attention by 'one by one'; "
        "refused: triton: backend='reference' was asked for" in caplog.text
    )
    assert "attention by 'reference'" in caplog.text


def test_launches_for_other_sizes_share_what_was_compiled():
    def kernel():
        """Stands in for one of Triton's."""

    kernel.arg_names = ["number", "factor", "C"]

    def make(number):
        return launch.Launch(kernel, (1,), (number, 0.5), {"C": 8}, {"num_warps": 4})

    assert make(32).compiled is make(48).compiled
    assert make(32).compiled is not make(33).compiled
    assert make(33).compiled is not make(1).compiled
