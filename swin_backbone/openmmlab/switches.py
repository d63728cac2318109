"""What importing this package changes for other code, and how to leave it out."""

from __future__ import annotations

import os

#: Names parts of :data:`PARTS` that importing leaves out, with commas between them.
VARIABLE = "SWIN_BACKBONE_WITHOUT"

#: What can be left out, and what it does; docs/installation.md has the same list.
PARTS = {
    "openmmlab": "all of the below, and registering with mmengine: OpenMMLab is not even imported",
    "mmcv_ext": "a finder at the end of sys.meta_path serves mmcv._ext where mmcv has none",
    "checkpoint_loading": "mmengine's loaders of files, addresses and object stores read safely",
    "image_loading": "LoadImageFromFile of every config is this package's",
    "optimizer_groups": "mmengine's optimizer constructors form the groups of SwinTransformer",
    "scopes": "the registries of all OpenMMLab packages know our classes under their own scope",
}


def switched_off() -> frozenset[str]:
    """The parts that the environment leaves out.

    Raises:
        ValueError: if it names a part that there is not.
    """
    text = os.environ.get(VARIABLE, "")
    names = {name.strip() for name in text.split(",") if name.strip()}
    unknown = sorted(names - PARTS.keys())
    if unknown:
        raise ValueError(
            f"{VARIABLE} takes {', '.join(PARTS)}, with commas between them; got {text!r}"
        )
    return frozenset(PARTS if "openmmlab" in names else names)
