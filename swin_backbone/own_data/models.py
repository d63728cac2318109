"""Names of models that a new config can have: ``upernet-swin-tiny`` and the like."""

from __future__ import annotations

import difflib
from typing import NamedTuple

from ..model.arguments import ARCHITECTURES

#: Families of models by task; the first is the default.
FAMILIES = {
    "segmentation": {"upernet": "models/upernet_swin", "fpn": "models/fpn_swin"},
    "detection": {
        "mask-rcnn": "models/mask-rcnn_swin",
        "faster-rcnn": "models/mask-rcnn_swin",
        "retinanet": "models/retinanet_swin",
    },
}
VERSIONS = {"swin": {}, "swinv2": {"version": "v2", "window_size": 8}}


class Model(NamedTuple):
    """A model by its name.

    Attributes:
        name: as ``'upernet-swin-tiny'``.
        family: as ``'upernet'``.
        base: the config that it is made from, below ``_base_``.
        backbone: changes to the base's backbone.
        channels: of each of its maps.
    """

    name: str
    family: str
    base: str
    backbone: dict
    channels: list[int]


def model_names(task: str) -> list[str]:
    """All names for ``'segmentation'`` or ``'detection'``."""
    return [
        f"{family}-{version}-{arch}"
        for family in FAMILIES[task]
        for version in VERSIONS
        for arch in ARCHITECTURES
    ]


def model_of(name: str, task: str) -> Model:
    """The model of a name.

    Raises:
        ValueError: if the task has no such model; the message has the nearest.
    """
    names = model_names(task)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=4, cutoff=0.3) or names[:4]
        raise ValueError(f"--model {name!r} is none for {task}; there are {', '.join(near)}, ...")
    family, version, arch = name.rsplit("-", 2)
    backbone = {"arch": arch, **VERSIONS[version]}
    channels = [ARCHITECTURES[arch][0] * 2**stage for stage in range(4)]
    return Model(name, family, FAMILIES[task][family], backbone, channels)
