"""Scores of ``published.yaml`` that name a library's configs are those of its own model cards."""

import importlib.util
from pathlib import Path

import pytest
import yaml
from helpers.paths import CONFIGS

#: How the cards call what the files do.
NAMES = {"box": "box AP", "mask": "mask AP", "PQ": "PQ"}


def published(library):
    """Config, folder of its card, and its scores, of models whose source names a folder."""
    for path in CONFIGS.glob("*/published.yaml"):
        for config, sources in yaml.safe_load(path.read_text())["configs"].items():
            for source, scores in sources.items():
                if source.startswith(f"{library}-"):
                    yield config, source.partition("-")[2].lower(), scores


def card(library, folder, config):
    spec = importlib.util.find_spec(library)
    if spec is None:
        pytest.skip(f"{library} is not installed")
    (path,) = Path(spec.origin).parent.glob(f".mim/configs/{folder}/metafile.y*ml")
    (found,) = [m for m in yaml.safe_load(path.read_text())["Models"] if m["Name"] == config]
    results = found["Results"]
    return {
        name: value
        for result in (results if isinstance(results, list) else [results])
        for name, value in result["Metrics"].items()
    }


@pytest.mark.parametrize(("library", "count"), [("mmdet", 12), ("mmseg", 5)])
def test_scores_are_those_of_the_cards(library, count):
    scores = list(published(library))
    assert len(scores) == count
    for config, folder, own in scores:
        expected = card(library, folder, config)
        if library == "mmseg":
            assert own == {"mIoU": [expected["mIoU"]]}, config
        else:
            assert {NAMES[name]: value for name, value in own.items()} == expected, config
