"""Frozen features label pixels."""

import re

import numpy as np
import pytest
from helpers.peers import import_from_beside
from helpers.tools import call_tool

pytest.importorskip("pyarrow", reason="needs the extra 'features'")


from swin_backbone.cli.linear_probe import draw_pixels, score

import_from_beside("sklearn")

CONFIG = """
model = dict(
    backbone=dict(type="SwinBackbone", embed_dims=16, depths=(2, 2), num_heads=(1, 2),
                  strides=(4, 2), out_indices=(0, 1)))
"""


def test_score_is_mean_iou_and_accuracy():
    labels = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 1, 0])
    mean_iou, accuracy = score(predicted, labels)
    assert mean_iou == pytest.approx((2 / 4 + 2 / 3 + 0) / 3)
    assert accuracy == pytest.approx(4 / 6)


def test_probe_reads_pixels_from_frozen_features(scenes, tmp_path):
    """Boxes and discs differ in colour, which even random weights carry."""
    (tmp_path / "tiny.py").write_text(CONFIG)
    arguments = [tmp_path / "tiny.py", "random", "--data", scenes, "--stages", 0, 1]
    with pytest.warns(UserWarning, match="the features are those of random weights"):
        done = call_tool("linear_probe.py", *arguments)
    scores = {
        name: float(value) for name, value in re.findall(r"│ ([\w ]+?) +│ ([\d.]+) % ", done.stdout)
    }
    assert scores["logistic regression"] > 1.3 * scores["most frequent class"]
    assert scores["10 nearest neighbours"] > 1.3 * scores["most frequent class"]


def test_missing_data_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no images"):
        draw_pixels(None, tmp_path / "nowhere", "train", 5)
