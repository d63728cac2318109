"""Images of different sizes without padding: what each gives by itself."""

import json

import numpy as np
import pytest
import torch
from helpers.padded_images import ARGUMENTS, SIZES, assert_equal_alone, draw, pad, stock_detector
from helpers.tools import call_tool

from swin_backbone import SwinBackbone
from swin_backbone.model import DropPath
from swin_backbone.ops import (
    Packing,
    TokenLayout,
    join,
    shifted_window_attention,
    shifted_window_attention_packed,
)


def make(dtype=torch.float64, **changes):
    torch.manual_seed(torch.seed() % 2**32)
    print("seed", torch.initial_seed())
    backbone = SwinBackbone(**{**ARGUMENTS, **changes})
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return backbone.to(dtype).eval()


@pytest.mark.parametrize("shift", [(0, 0), (2, 1)])
@pytest.mark.parametrize("mask_padding", [False, True])
@pytest.mark.parametrize("cosine", [False, True])
def test_operation(shift, mask_padding, cosine):
    sizes, heads, channels = [(5, 7), (1, 1), (8, 4), (3, 9)], 2, 8
    maps = [torch.randn(1, *size, 3 * channels, dtype=torch.float64) for size in sizes]
    table = torch.randn(7 * 5, heads, dtype=torch.float64)
    options = {
        "num_heads": heads,
        "window_size": (4, 3),
        "shift_size": shift,
        "padding_qkv": torch.randn(3 * channels, dtype=torch.float64),
        "logit_scale": torch.tensor([2.0, 5.0], dtype=torch.float64) if cosine else None,
    }
    expected = [
        shifted_window_attention(
            x, table, valid_sizes=torch.tensor([size]) if mask_padding else None, **options
        )
        for x, size in zip(maps, sizes, strict=True)
    ]
    packed = torch.cat([x.flatten(0, 2) for x in maps])
    found = shifted_window_attention_packed(
        packed, sizes, table, mask_padding=mask_padding, **options
    )
    torch.testing.assert_close(found, torch.cat([x.flatten(0, 2) for x in expected]))


@pytest.mark.parametrize(
    ("sizes", "backend", "message"),
    [
        ([(2, 3)], "auto", r"sizes=\(\(2, 3\),\), 6; got \(5, 24\)"),
        ([(5, 1), (0, 3)], "auto", ">= 1"),
        ([], "auto", ">= 1"),
        ([(5, 1)], "fast", "backend must be one of"),
    ],
)
def test_sizes_that_do_not_add_up_are_named(sizes, backend, message):
    with pytest.raises(ValueError, match=message):
        shifted_window_attention_packed(
            torch.rand(5, 24), sizes, torch.rand(9, 2), num_heads=2, window_size=(2, 2),
            backend=backend,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mask_padding": True},
        {"use_abs_pos_embed": True, "pretrain_img_size": 64},
        {"patch_norm": False, "window_size": (3, 5), "with_cp": True},
        {"patch_size": 5, "strides": (5, 3, 2)},
        {"version": "v2", "mask_padding": True},
    ],
)
def test_each_image_gets_what_it_gets_alone(changes, dtype):
    """In float32, to the rounding of sums over at most 64 channels and 16 keys."""
    backbone, images = make(dtype, **changes), draw(dtype)
    with torch.no_grad():
        alone = [backbone(image[None]) for image in images]
        lists = backbone.forward_packed(images)
        batches = backbone.forward_packed(images, (64, 96))
    scale = max(x.abs().max().item() for own in alone for x in own)
    tolerance = (1e-12 if dtype == torch.float64 else 1e-5) * max(scale, 1)
    for stage, maps in enumerate(lists):
        for found, own in zip(maps, alone, strict=True):
            torch.testing.assert_close(found, own[stage][0], rtol=tolerance, atol=tolerance)
    assert_equal_alone(batches, alone, tolerance)


def test_gradients_are_those_of_the_images_alone():
    backbone, images = make().train(), draw()

    def gradients(losses):
        backbone.zero_grad()
        sum(losses).backward()
        return [p.grad for p in backbone.parameters()]

    together = gradients(x.square().sum() for x in backbone.forward_packed(images, (64, 96)))
    alone = gradients(x.square().sum() for image in images for x in backbone(image[None]))
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_stochastic_depth_drops_whole_images():
    packing = Packing(((2, 3), (1, 4), (5, 1)))
    dropped = DropPath(0.5).train()(torch.ones(15, 4), TokenLayout(packing=packing))
    for part in packing.split(dropped):
        assert part.unique().numel() == 1
        assert part.unique().item() in (0.0, 2.0)


def test_packing_and_taking_apart():
    packing = Packing(((2, 3), (4, 1)))
    maps = [torch.rand(2, 3, 5), torch.rand(4, 1, 5)]
    tokens = join(maps)
    assert all(map(torch.equal, packing.split(tokens), maps))
    batch = packing.to_batch(tokens, (4, 3))
    assert torch.equal(batch[0, :2], maps[0])
    assert (batch[0, 2:] == 0).all()
    assert packing.shrink((2, 2)).sizes == ((1, 2), (2, 1))
    with pytest.raises(ValueError, match=r"\(4, 1\) tokens does not fit into a batch of \(3, 3\)"):
        packing.to_batch(tokens, (3, 3))


def test_the_switch_takes_a_padded_batch_apart():
    backbone, images = make(packed=True), draw()
    plain = make()
    plain.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        maps = backbone(pad(images, value=float("nan")), torch.tensor(SIZES))
        alone = [plain(image[None]) for image in images]
    assert_equal_alone(maps, alone, 1e-12)


def test_an_image_without_pixels_is_named():
    with pytest.raises(ValueError, match=r"valid_sizes >= 1, got \[\[0, 5\]\]"):
        make(torch.float32, packed=True)(torch.rand(1, 3, 8, 8), torch.tensor([[0, 5]]))


def test_a_detector_trains_with_it():
    model, sample_class = stock_detector()
    model.backbone.mask_padding, model.backbone.packed = False, True
    from mmdet.structures.bbox import HorizontalBoxes
    from mmengine.structures import InstanceData

    samples = []
    for size in SIZES[:2]:
        sample = sample_class(metainfo={"img_shape": size})
        boxes = HorizontalBoxes(torch.tensor([[2.0, 3, 30, 35]]))
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0]))
        samples.append(sample)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in SIZES[:2]]
    data = model.data_preprocessor({"inputs": images, "data_samples": samples}, True)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    loss.backward()
    assert all(p.grad is not None for p in model.backbone.parameters())


@pytest.mark.parametrize(
    ("images", "message"),
    [([], "at least one image"), ([torch.rand(1, 8, 8)], "in_channels=3")],
)
def test_wrong_images_are_named(images, message):
    with pytest.raises(ValueError, match=message):
        make(torch.float32).forward_packed(images)


@pytest.mark.parametrize(
    ("batch_size", "error"),
    [
        ((0, 8), ValueError), ((-8, 8), ValueError), ((8, 2**31), ValueError), ([], ValueError),
        ((8, 8, 8), ValueError), (0, ValueError), ((8.0, 8), TypeError), ((8, 8j), TypeError),
        ((True, 8), TypeError), ("88", TypeError), (torch.tensor([8.0, 8.0]), TypeError),
        (False, TypeError), ({8: 8}, TypeError),
    ],
)  # fmt: skip
def test_wrong_sizes_of_the_batch_are_named(batch_size, error):
    for changes in ({}, {"mask_padding": True}, {"packed": True}):
        with pytest.raises(error, match="batch_size must be"):
            make(torch.float32, **changes).forward_packed([torch.rand(3, 8, 8)], batch_size)


def test_the_batchs_size_may_have_any_form():
    backbone, images = make(torch.float32), [torch.rand(3, 5, 8), torch.rand(3, 8, 8)]
    forms = [(8, 8), [8, 8], np.array([8, 8]), torch.Size([8, 8]), 8, np.int64(8)]
    with torch.no_grad():
        maps = [backbone.forward_packed(images, form) for form in forms]
    assert all(torch.equal(a, b) for own in maps for a, b in zip(own, maps[0], strict=True))


@pytest.mark.parametrize(
    ("images", "error"),
    [
        (None, TypeError), (3, TypeError), ("images", TypeError), ([None], TypeError),
        ([[1.0]], TypeError), ([torch.rand(3, 8, 8), torch.rand(3, 8, 8).double()], TypeError),
        ([torch.rand(3, 8)], ValueError), ([torch.rand(3, 0, 8)], ValueError), ({}, TypeError),
    ],
)  # fmt: skip
def test_what_is_no_list_of_images_is_named(images, error):
    with pytest.raises(error, match="images"):
        make(torch.float32).forward_packed(images)


@pytest.mark.slow
def test_the_benchmark_compares_all_modes(tmp_path):
    call_tool(
        "benchmark_packed.py", "--batch", 2, "--batches", 1, "--scale", 0.1, "--out",
        tmp_path / "packed.json",
    )  # fmt: skip
    found = json.loads((tmp_path / "packed.json").read_text())
    assert set(found["modes"]) == {"padded", "masked", "packed"}
    assert all(row["images_per_second"] > 0 for row in found["modes"].values())
    assert 0 <= found["padding"] < 1
