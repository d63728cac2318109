"""Pictures and tables of the docs that are drawn from measured results."""

import importlib

import pytest
from helpers.paths import DOCS


@pytest.fixture
def figure(monkeypatch):
    """Import a program of docs/figures."""
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(DOCS / "figures")
    return importlib.import_module


@pytest.mark.parametrize(
    ("size", "gpus", "nodes", "expected"),
    [
        (240e6, 2, 1, 0.8),  # 2 x 1/2 x 240 MB / 300 GB/s
        (120e6, 8, 1, 0.7),  # 2 x 7/8 x 120 MB / 300 GB/s
        (936e6, 8, 4, 9.8475),  # 5.46, and 2 x 3/4 x 117 MB / 40 GB/s
    ],
)
def test_gradients_travel_as_long_as_a_ring_takes(figure, size, gpus, nodes, expected):
    milliseconds = 1e3 * figure("scaling").seconds_of_gradients(size, gpus, nodes)
    assert milliseconds == pytest.approx(expected, rel=1e-9)


def test_the_page_has_the_table_that_is_printed(figure):
    page = (DOCS / "distributed.md").read_text(encoding="utf-8")
    assert figure("scaling").expected_table() in page


def test_two_gpus_are_compared_with_one_of_the_same_setting(figure):
    for one, two in figure("scaling").pairs():
        assert (one["processes"], two["processes"]) == ("1", "2")
        assert all(one[name] == two[name] for name in ("arch", "batch", "strategy", "device"))


def test_parts_of_an_iteration_add_up(figure):
    module = figure("where_time_goes")
    for row in module.newest_rows().values():
        parts = sum(float(row[column]) for column in module.PARTS)
        assert parts == pytest.approx(float(row["iteration ms"]), rel=1e-3)


def test_bars_of_a_backbone_are_of_one_run(figure):
    module = figure("backbones")
    rows = module.measured()
    for case in module.CASES:
        for mode in module.MODES:
            found = rows[case, mode]
            assert {row["date"] for row in found} == {found[0]["date"]}
            assert found[0]["implementation"] == "ours"
            assert len(found) > 2


def test_bars_of_a_detector_are_of_one_run(figure):
    module = figure("detectors")
    for task, rows in module.measured().items():
        assert {row["task"] for row in rows} == {task}
        assert [row["way"] for row in rows] == list(module.WAYS)
        assert len({row["device"] for row in rows}) == len({row["date"][:10] for row in rows}) == 1


@pytest.mark.parametrize(
    "name", ["where_time_goes", "scaling", "backbones", "detectors", "whole_models"]
)
def test_pictures_are_drawn(name, figure):
    module = figure(name)
    rows = {
        "where_time_goes": "newest_rows", "scaling": "pairs", "backbones": "measured",
        "detectors": "measured",
        "whole_models": "newest_rows",
    }[name]  # fmt: skip
    picture = module.draw(getattr(module, rows)())
    assert any(axes.patches for axes in picture.axes)
    module.plt.close(picture)
