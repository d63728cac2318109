"""With ``mask_padding``, an image's maps do not depend on what it is batched with."""

import contextlib
import importlib
import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from helpers.padded_images import (
    ARGUMENTS,
    SIZES,
    assert_equal_alone,
    draw,
    pad,
    stock_detector,
)
from mmengine.registry import init_default_scope

from swin_backbone import SwinBackbone
from swin_backbone.ops import BACKENDS, shifted_window_attention
from swin_backbone.ops.geometry.windows import as_kernels_read


def make(dtype=torch.float64, **changes):
    torch.manual_seed(torch.seed() % 2**32)
    print("seed", torch.initial_seed())
    backbone = SwinBackbone(**{**ARGUMENTS, "mask_padding": True, **changes})
    backbone.init_weights()
    for parameter in backbone.parameters():  # biases and tables too, which begin at zero
        torch.nn.init.normal_(parameter, std=0.3)
    return backbone.to(dtype).eval()


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "cpu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_each_image_gets_what_it_gets_alone(backend, dtype, version):
    """In float32, to the rounding of sums over at most 64 channels and 16 keys."""
    backbone, images = make(dtype, backend=backend, version=version), draw(dtype)
    sizes = torch.tensor(SIZES)
    try:
        with torch.no_grad():
            maps = backbone(pad(images), sizes)
    except ValueError as error:
        if "cannot run these tensors" not in str(error):
            raise
        pytest.skip(str(error))
    with torch.no_grad():
        alone = [backbone(image[None]) for image in images]
    scale = max(x.abs().max().item() for own in alone for x in own)
    assert_equal_alone(maps, alone, (1e-12 if dtype == torch.float64 else 1e-5) * max(scale, 1))


@pytest.mark.parametrize(
    ("size", "value"), [((64, 96), float("nan")), ((64, 96), 1e30), ((97, 130), 0.0)]
)
def test_neither_amount_nor_content_of_the_padding_matters(size, value):
    backbone, images = make(), draw()
    sizes = torch.tensor(SIZES)
    with torch.no_grad():
        maps = backbone(pad(images, size, value), sizes)
        alone = [backbone(image[None]) for image in images]
    assert_equal_alone(maps, alone, 1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_abs_pos_embed": True, "pretrain_img_size": 64},
        {"patch_norm": False, "window_size": (3, 5)},
        {"strides": (4, 3, 2)},
        {"patch_size": 5, "strides": (5, 2, 2)},
        {"qkv_bias": False, "with_cp": True},
    ],
)
def test_whatever_the_backbone_is_like(changes):
    backbone, images = make(**changes), draw()
    with torch.no_grad():
        maps = backbone(pad(images), torch.tensor(SIZES))
        alone = [backbone(image[None]) for image in images]
    assert_equal_alone(maps, alone, 1e-12)


@pytest.mark.parametrize("with_cp", [False, True])
def test_gradients_are_those_of_the_images_alone(with_cp):
    backbone, images = make(with_cp=with_cp).train(), draw()

    def gradients(losses):
        backbone.zero_grad()
        sum(losses).backward()
        return [p.grad for p in backbone.parameters()]

    together = gradients(
        x.square().sum() for x in backbone(pad(images, value=float("nan")), torch.tensor(SIZES))
    )
    alone = gradients(x.square().sum() for image in images for x in backbone(image[None]))
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_without_it_the_padding_matters():
    """Else the tests above would show nothing."""
    backbone, images = make(mask_padding=False), draw()
    with torch.no_grad():
        maps = backbone(pad(images, value=0.0))
        alone = backbone(images[0][None])
    inside = maps[0][0, :, : alone[0].shape[2], : alone[0].shape[3]]
    assert (inside - alone[0][0]).abs().max() > 1e-3


def test_sizes_come_with_the_batch_or_are_the_batchs():
    backbone, images = make(), draw()
    batch, sizes = pad(images), torch.tensor(SIZES)
    with torch.no_grad():
        given = backbone(batch, sizes)
        with pytest.warns(UserWarning, match="no valid_sizes came with the batch"):
            whole = backbone(batch)
        batch.valid_sizes = sizes
        attached = backbone(batch)
        other = backbone(batch, torch.tensor([(64, 96)] * 4))
    for a, b, c, d in zip(given, attached, whole, other, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(c, d)
        assert not torch.equal(a, c)


def test_sizes_that_got_lost_are_missed():
    backbone, batch = make(torch.float32), torch.rand(2, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone(batch[:1])
        backbone(batch, torch.tensor([(8, 8), (4, 8)]))
    with pytest.warns(UserWarning, match="no valid_sizes came with the batch"):
        backbone(batch)


@pytest.mark.parametrize(
    ("changes", "sizes", "error", "message"),
    [
        ({"mask_padding": False}, [(4, 4)], ValueError, "mask_padding=True"),
        ({}, [(4, 4), (4, 4)], ValueError, r"must be \(1, 2\), got \(2, 2\)"),
        ({}, [(4.0, 4.0)], TypeError, "integers, got torch.float32"),
    ],
)
def test_wrong_sizes_are_named(changes, sizes, error, message):
    with pytest.raises(error, match=message):
        make(torch.float32, **changes)(torch.rand(1, 3, 8, 8), torch.tensor(sizes))


MODES = {
    "mask_padding": {"mask_padding": True},
    "packed": {"mask_padding": False, "packed": True},
    "both": {"mask_padding": True, "packed": True},
}
#: The same two sizes, in every form.
FORMS = {
    "tensor": torch.tensor([[5, 8], [8, 3]]),
    **{
        str(dtype): torch.tensor([[5, 8], [8, 3]], dtype=dtype)
        for dtype in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.uint16,
                      torch.uint32, torch.uint64)
    },
    "lists": [[5, 8], [8, 3]],
    "tuples": ((5, 8), (8, 3)),
    "torch.Size": [torch.Size([5, 8]), torch.Size([8, 3])],
    "array": np.array([[5, 8], [8, 3]]),
    "uint16 array": np.array([[5, 8], [8, 3]], np.uint16),
    "list of arrays": [np.array([5, 8]), np.array([8, 3])],
    "list of tensors": [torch.tensor([5, 8]), torch.tensor([8, 3])],
    "numpy's integers": [[np.int64(5), np.uint8(8)], [8, 3]],
    "tensors of no axes": [[torch.tensor(5), 8], [8, torch.tensor(3)]],
    "not contiguous": torch.tensor([[5, 8], [8, 3]]).t().contiguous().t(),
}  # fmt: skip
#: What is refused, and how it begins to be told; a tensor and lists of the same numbers alike.
REFUSED = {
    "zero": ([[5, 8], [0, 3]], ValueError, "images need valid_sizes >= 1"),
    "negative": ([[5, 8], [8, -3]], ValueError, "images need valid_sizes >= 1"),
    "beyond int32": ([[5, 8], [2**31, 3]], ValueError, "images need valid_sizes >= 1"),
    "beyond int64": ([[5, 8], [2**64, 3]], ValueError, "images need valid_sizes >= 1"),
    "unsigned beyond int64": (np.array([[5, 8], [2**63, 3]], np.uint64), ValueError, "valid_sizes"),
    "float": ([[5.0, 8.0], [8.0, 3.0]], TypeError, "valid_sizes must be integers"),
    "nan": ([[math.nan, 8.0], [8.0, 3.0]], TypeError, "valid_sizes must be integers"),
    "complex": ([[5, 8], [8, 3j]], TypeError, "valid_sizes must be integers"),
    "bool": ([[True, True], [True, True]], TypeError, "valid_sizes must be integers"),
    "text": ([["5", "8"], ["8", "3"]], TypeError, "valid_sizes must be integers"),
    "None within": ([[5, 8], [8, None]], TypeError, "valid_sizes must be integers"),
    "one image": ([[5, 8]], ValueError, r"valid_sizes must be \(2, 2\), got \(1, 2\)"),
    "one number": (8, (TypeError, ValueError), r"valid_sizes must be \(2, 2\), got"),
    "one axis": ([5, 8], ValueError, r"valid_sizes must be \(2, 2\)"),
    "three numbers": ([[5, 8, 3], [8, 3, 3]], ValueError, r"valid_sizes must be \(2, 2\)"),
    "ragged": ([[5, 8], [8]], ValueError, r"valid_sizes must be \(2, 2\)"),
    "a name": ("58", TypeError, r"valid_sizes must be \(2, 2\)"),
    "a dict": ({0: [5, 8]}, TypeError, r"valid_sizes must be \(2, 2\)"),
}


@pytest.mark.parametrize("mode", MODES)
def test_sizes_may_have_any_form(mode):
    backbone, batch = make(torch.float32, **MODES[mode]), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        expected = backbone(batch, FORMS["tensor"])
        for form, sizes in FORMS.items():
            for a, b in zip(backbone(batch, sizes), expected, strict=True):
                assert torch.equal(a, b), form
            batch.valid_sizes = sizes
            assert torch.equal(backbone(batch)[0], expected[0]), form
            del batch.valid_sizes


@pytest.mark.parametrize("what", REFUSED)
def test_wrong_sizes_are_refused_alike(what):
    """By every mode, as lists and as tensors, given and attached, and by the operation."""
    sizes, error, message = REFUSED[what]
    forms = [sizes]
    with contextlib.suppress(TypeError, ValueError, RuntimeError, OverflowError):
        forms.append(torch.tensor(sizes))
    for changes, form in itertools.product(MODES.values(), forms):
        backbone, batch = make(torch.float32, **changes), torch.rand(2, 3, 8, 8)
        with pytest.raises(error, match=message):
            backbone(batch, form)
        batch.valid_sizes = form
        with pytest.raises(error, match=message):
            backbone(batch)


@pytest.mark.parametrize("what", [what for what in REFUSED if what != "zero"])
def test_the_operation_refuses_the_same_sizes(what):
    """But zero, which a map on which nothing is an image's may have."""
    sizes, error, message = REFUSED[what]
    with pytest.raises(error, match=message.replace(">= 1", ">= 0")):
        shifted_window_attention(
            torch.rand(2, 8, 8, 24), torch.rand(9, 2), num_heads=2, window_size=(2, 2),
            valid_sizes=sizes,
        )  # fmt: skip


def test_sizes_on_a_device_are_not_waited_for():
    """What cannot be looked at is defined all the same: less than zero is none, more is all."""
    sizes = torch.tensor([[-3, 8], [2**40, 3], [2**31, 2**31 - 1]])
    assert as_kernels_read(sizes).tolist() == [[0, 8], [2**31 - 1, 3], [2**31 - 1, 2**31 - 1]]
    assert as_kernels_read(sizes.int()).dtype == torch.int32
    backbone = make(torch.float32).to("meta")
    maps = backbone(torch.rand(2, 3, 8, 8, device="meta"), sizes[:2].to("meta"))
    assert maps[0].shape == (2, 16, 2, 2)


@pytest.mark.parametrize("mode", ["plain", *MODES])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_an_empty_batch_gives_empty_maps(mode, version):
    """Of the shapes of a batch that is not, and gradients of zeros for all that is trained."""
    changes = {"mask_padding": False, **MODES.get(mode, {})}
    for backend, with_cp, out_indices in [
        ("auto", False, (0, 1, 2)), ("reference", True, (0, 2)), ("sdpa", False, (0, 1)),
        *[("triton", False, (0,))] * (mode == "plain"),
    ]:  # fmt: skip
        backbone = make(
            torch.float32, **changes, version=version, backend=backend, with_cp=with_cp,
            depths=(1, 1, 1), out_indices=out_indices, drop_path_rate=0.5, use_abs_pos_embed=True,
        ).train()  # fmt: skip
        images = torch.rand(0, 3, 9, 18, requires_grad=True)
        maps = backbone(images, *([torch.zeros(0, 2).long()] if mode in MODES else []))
        whole = backbone(torch.rand(1, 3, 9, 18))
        assert [x.shape for x in maps] == [(0, *x.shape[1:]) for x in whole]
        assert {x.dtype for x in maps} == {torch.float32}
        sum(x.square().sum() for x in maps).backward()
        assert images.grad.shape == images.shape
        for name, parameter in backbone.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert (parameter.grad == 0).all(), name
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert backbone.eval()(images)[0].shape[0] == 0


def backbone_maps(model, data, training):
    """The backbone's maps within a stock model, for data as a loader gives them."""
    batch = model.data_preprocessor(data, training)
    seen = []
    handle = model.backbone.register_forward_hook(lambda module, args, maps: seen.append(maps))
    with torch.no_grad():
        model.extract_feat(batch["inputs"])
    handle.remove()
    return seen[0]


def stock_segmentor():
    pytest.importorskip("mmseg")
    init_default_scope("mmseg")
    model = {
        "type": "EncoderDecoder",
        "data_preprocessor": {"type": "SwinSegDataPreProcessor", "size": (96, 96)},
        "backbone": {**ARGUMENTS, "type": "SwinBackbone", "mask_padding": True},
        "decode_head": {
            "type": "FCNHead", "in_channels": 64, "channels": 8, "num_classes": 2, "in_index": 2
        },
        "test_cfg": {"mode": "whole"},
    }  # fmt: skip
    sample = importlib.import_module("mmseg.structures").SegDataSample
    return importlib.import_module("mmseg.registry").MODELS.build(model), sample


@pytest.mark.parametrize("stock", [stock_detector, stock_segmentor])
def test_stock_models_hand_over_the_sizes(stock):
    """From a config alone; a batch as the data loader gives it, unpadded images and samples."""
    model, sample_class = stock()
    model.eval()
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in SIZES]
    samples = [sample_class(metainfo={"img_shape": size}) for size in SIZES]
    training = stock is stock_segmentor  # in validation it takes images of one size
    if training:
        structures = importlib.import_module("mmengine.structures")
        for sample, size in zip(samples, SIZES, strict=True):
            sample.gt_sem_seg = structures.PixelData(data=torch.zeros(1, *size, dtype=torch.long))
    maps = backbone_maps(model, {"inputs": list(images), "data_samples": samples}, training)
    alone = [
        backbone_maps(model, {"inputs": [image], "data_samples": None}, False) for image in images
    ]
    # A detector pads an image to multiples of 32 even by itself: what is outside is zero there too.
    for stage, batch_map in enumerate(maps):
        for index, own in enumerate(alone):
            rows, columns = own[stage].shape[2:]
            rows, columns = min(rows, batch_map.shape[2]), min(columns, batch_map.shape[3])
            torch.testing.assert_close(
                batch_map[index, :, :rows, :columns],
                own[stage][0, :, :rows, :columns],
                rtol=1e-5,
                atol=1e-5,
            )


@pytest.mark.parametrize("option", ["mask_padding", "packed"])
def test_rules_that_look_at_the_batch_are_refused(option):
    with pytest.raises(ValueError, match=r"need small_maps='shift', got 'shrink'"):
        SwinBackbone(**{**ARGUMENTS, option: True, "small_maps": "shrink"})
