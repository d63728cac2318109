"""Which of many configs are tried by ``make test``."""

import re

import pytest

#: Sizes of models and windows, data sets of pretraining, lengths of schedules, sizes of batches.
_DIFFERENCES = re.compile(
    r"(?<=[-_])(tiny|small|base|large|t|s|b|l|w7|w12|224|384|in1k|in21k|in22k|[13]x|12e|36e|50e|100e"
    r"|\d+xb\d+)(?=[-_])"
)


def first_of_each_kind(paths):
    """Parameters for ``pytest.mark.parametrize``: all paths. Of configs whose names differ in these
    alone, those but the smallest are slow."""
    parameters, seen = [], set()
    for path in sorted(paths, key=_size):
        kind = (path.parent.name, _DIFFERENCES.sub("*", path.stem))
        marks = [pytest.mark.slow] if kind in seen else []
        parameters.append(pytest.param(path, marks=marks, id=path.stem))
        seen.add(kind)
    return parameters


def _size(path):
    sizes = ("tiny", "small", "base", "large", "t", "s", "b", "l")
    found = [size for size in _DIFFERENCES.findall(path.stem) if size in sizes]
    return sizes.index(found[0]) if found else len(sizes), path
