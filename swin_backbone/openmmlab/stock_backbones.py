"""The same model with OpenMMLab's own Swin Transformer."""

from __future__ import annotations

import copy

from mmengine.config import Config

from ..model.arguments import ARCHITECTURES

#: Arguments of ``SwinBackbone`` alone that do not change what it computes.
_OWN = ("backend", "arch")


def with_stock_backbone(cfg: Config) -> Config:
    """A config with its scope's ``SwinTransformer`` in place of ``SwinBackbone``.

    Args:
        cfg: a whole config; it stays as it is.

    Raises:
        ValueError: if its backbone is another, or of V2, which mmseg and mmdet do not have.
    """
    backbone = cfg.model.get("backbone") or {}
    kind = str(backbone.get("type"))
    if kind.rpartition(".")[2] != "SwinBackbone":
        raise ValueError(f"the config's backbone must be a SwinBackbone, got {kind}")
    if backbone.get("version", "v1") != "v1":
        raise ValueError("mmseg and mmdet have no Swin Transformer V2")
    stock = {key: value for key, value in backbone.items() if key not in _OWN}
    if backbone.get("arch") is not None:
        sizes = ARCHITECTURES[backbone["arch"]]
        stock |= dict(zip(("embed_dims", "depths", "num_heads"), sizes, strict=True))
    stock["type"] = f"{cfg.get('default_scope') or 'mmseg'}.SwinTransformer"
    changed = copy.deepcopy(cfg)
    changed.model.pop("backbone")
    changed.model.backbone = stock
    return changed
