"""The benchmark from files to steps: what it writes can be read."""

import csv

import benchmark_data
import pytest


def rows(path):
    return list(csv.DictReader(path.open()))


def test_pipelines_by_transform(tmp_path):
    out = tmp_path / "x.csv"
    words = ["pipelines", "--kinds", "ADE20K", "--images", "2", "--repeats", "1", "--out", str(out)]
    assert benchmark_data.main(words) == 0
    found = {(row["way"], row["part"].strip()): float(row["ms"]) for row in rows(out)}
    for way in ("stock", "fast"):
        assert found[way, "total"] > 0
    assert {part for way, part in found if way == "fast"} >= {
        "LoadResizedCrop", "decode", "read_labels", "PackSegBytes", "collate"
    }  # fmt: skip
    assert all(row["date"] and row["device"] for row in rows(out))


def test_runs_of_a_stand_in(tmp_path):
    out = tmp_path / "x.csv"
    words = ["train", "--batch", "2", "--busy", "30", "--steps", "4", "--warm-up", "1",
             "--workers", "1", "--images", "4", "--out", str(out)]  # fmt: skip
    assert benchmark_data.main(words) == 0
    found = rows(out)
    assert [row["way"] for row in found] == ["stock", "fast"]
    for row in found:
        parts = ("waiting for data ms", "train_step ms", "hooks and loop ms")
        whole = sum(float(row[part]) for part in parts)
        assert whole == pytest.approx(float(row["iteration ms"]), rel=1e-3)
        assert float(row["train_step ms"]) >= 30


def test_histories(tmp_path):
    out = tmp_path / "x.csv"
    assert benchmark_data.main(["histories", "--steps", "1000", "--out", str(out)]) == 0
    assert [row["way"] for row in rows(out)] == ["mmengine", "fast data"]


def test_decoders(tmp_path):
    out = tmp_path / "x.csv"
    assert benchmark_data.main(["decoders", "--repeats", "1", "--out", str(out)]) == 0
    found = {(row["data"], row["way"], row["part"]): row["same bits"] for row in rows(out)}
    assert found["ADE20K", "OpenCV", "1/2"] == "True"
    assert ("Cityscapes", "Pillow", "1/8") in found
