"""Images are resized as a model card says: what mmcv's Resize does to them."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("mmseg")
from mmcv.transforms import Resize

from swin_backbone.inference.export.card import ModelCard
from swin_backbone.inference.predictors import resize_as_tested

CARD = ModelCard("m", "detector", (0.0,), (1.0,), "RGB", (), ())


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(
    "options", [{"scale": (40, 30)}, {"scale_factor": 1.5}, {"scale_factor": (0.7, 1.3)}], ids=str
)
def test_as_mmcv_resizes(options, keep):
    image = np.random.default_rng(0).integers(0, 255, (33, 47, 3), np.uint8)
    wanted = Resize(keep_ratio=keep, **options)({"img": image})["img"]
    factor = options.get("scale_factor")
    pair = factor if isinstance(factor, tuple) or factor is None else (factor, factor)
    card = dataclasses.replace(
        CARD, resize=options.get("scale"), resize_factor=pair, keep_aspect=keep
    )
    assert np.array_equal(resize_as_tested(image, card), wanted)
