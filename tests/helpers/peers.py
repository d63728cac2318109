"""Other libraries' own Swin classes, small and with random weights."""

import importlib
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

SMALL = {"embed_dims": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}


class Peer(NamedTuple):
    """How one library makes a backbone, and what it returns.

    Attributes:
        make: version, image size, pretrained windows (V2) and sizes as in ``SMALL`` -> module.
        maps: module, images -> maps of every stage (B, C, H, W).
        versions: of Swin that it has.
        normed: versions whose maps come out of output norms, as ours do.
        small_maps: the rule for small maps that is its own, by version.
        layout: how our reports call its layout, by version.
    """

    make: Callable
    maps: Callable
    versions: tuple[str, ...]
    normed: tuple[str, ...]
    small_maps: dict[str, str]
    layout: dict[str, str]


def _make_openmmlab(package):
    def make(version, image_size, pretrained, *, embed_dims, depths, num_heads, window_size):
        pytest.importorskip(package, reason=f"{package} is not installed")
        backbones = importlib.import_module(f"{package}.models.backbones")
        return backbones.SwinTransformer(
            embed_dims=embed_dims, depths=depths, num_heads=num_heads, window_size=window_size,
            strides=(4, *(2,) * (len(depths) - 1)), out_indices=range(len(depths)),
        )  # fmt: skip

    return make


def import_mmpretrain():
    """mmpretrain's backbones: beside the environment, since mmseg would import all of it."""
    # Its vision-language models need an older transformers.
    multimodal = "mmpretrain.models.multimodal"
    sys.modules.setdefault(multimodal, types.ModuleType(multimodal))
    return import_from_beside("mmpretrain.models.backbones")


def import_peft():
    """peft: beside the environment, since transformers, and mmengine by it, would import it in
    every process of every test, for two seconds."""
    return import_from_beside("peft")


def import_from_beside(name):
    """A module of the environment or, if it has none, of what lies beside it: scikit-learn, which
    each process that imports mmdet would import for a second, and others. Skips if none has it;
    one that is there and cannot be imported is an error."""
    folder = str(Path(sys.prefix) / "peers")
    sys.path.append(folder)
    try:
        top = name.split(".")[0]
        if top not in sys.modules and importlib.util.find_spec(top) is None:
            pytest.skip(f"{top} is not installed (into {folder})", allow_module_level=True)
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


def import_mmpose():
    """mmpose's Swin, beside the environment too. The packages around it, which want what is
    compiled, are names alone."""
    folder = str(Path(sys.prefix) / "peers")
    spec = importlib.machinery.PathFinder.find_spec("mmpose", [*sys.path, folder])
    if spec is None:
        pytest.skip(f"mmpose is not installed (into {folder})")
    (root,) = spec.submodule_search_locations
    for parts in ((), ("models",), ("models", "backbones")):
        package = types.ModuleType(".".join(("mmpose", *parts)))
        package.__path__ = [str(Path(root, *parts))]
        sys.modules.setdefault(package.__name__, package)
    return importlib.import_module("mmpose.models.backbones.swin")


def _make_mmpretrain(
    version,
    image_size,
    pretrained,
    *,
    embed_dims,
    depths,
    num_heads,
    window_size,
    extra_norm_every_n_blocks=2,
):
    backbones = import_mmpretrain()
    arch = {"embed_dims": embed_dims, "depths": list(depths), "num_heads": list(num_heads)}
    common = {"img_size": image_size, "out_indices": range(len(depths))}
    if version == "v1":
        return backbones.SwinTransformer(arch, window_size=window_size, **common)
    arch["extra_norm_every_n_blocks"] = extra_norm_every_n_blocks
    return backbones.SwinTransformerV2(
        arch, window_size=window_size, pretrained_window_sizes=pretrained, **common
    )


def _make_timm(version, image_size, pretrained, *, embed_dims, depths, num_heads, window_size):
    pytest.importorskip("timm", reason="timm is not installed")
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    common = {
        "img_size": image_size, "embed_dim": embed_dims, "depths": depths, "num_heads": num_heads,
        "window_size": window_size, "num_classes": 0,
    }  # fmt: skip
    if version == "v1":
        return SwinTransformer(**common)
    return SwinTransformerV2(**common, pretrained_window_sizes=pretrained)


def _make_torchvision(
    version, image_size, pretrained, *, embed_dims, depths, num_heads, window_size
):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from torchvision.models import swin_transformer as swin

    v2 = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
    model = swin.SwinTransformer(
        [4, 4], embed_dims, list(depths), list(num_heads), [window_size] * 2,
        **(v2 if version == "v2" else {}),
    )  # fmt: skip
    model.head = nn.Identity()
    return model


def _torchvision_maps(model, images):
    maps = []
    for index, layer in enumerate(model.features):
        images = layer(images)
        if index % 2:
            maps.append(images.permute(0, 3, 1, 2))
    return maps


def transformers_config(
    version, image_size, pretrained, *, embed_dims, depths, num_heads, window_size
):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    common = {
        "image_size": image_size, "embed_dim": embed_dims, "depths": list(depths),
        "num_heads": list(num_heads), "window_size": window_size,
        "out_features": [f"stage{index + 1}" for index in range(len(depths))],
    }  # fmt: skip
    if version == "v1":
        return transformers.SwinConfig(**common)
    return transformers.Swinv2Config(**common, pretrained_window_sizes=list(pretrained))


def _make_transformers(version, *arguments, **sizes):
    config = transformers_config(version, *arguments, **sizes)
    import transformers

    backbone = transformers.SwinBackbone if version == "v1" else transformers.Swinv2Backbone
    return backbone(config)


def _same(value):
    return {"v1": value, "v2": value}


def _call(model, images):
    return list(model(images))


_OPENMMLAB = {"versions": ("v1",), "normed": ("v1",), "small_maps": {"v1": "shift"}}
_OPENMMLAB |= {"maps": _call, "layout": {"v1": "mmseg/mmdet"}}

PEERS = {
    "mmseg": Peer(make=_make_openmmlab("mmseg"), **_OPENMMLAB),
    "mmdet": Peer(make=_make_openmmlab("mmdet"), **_OPENMMLAB),
    "mmpretrain": Peer(
        make=_make_mmpretrain,
        maps=_call,
        versions=("v1", "v2"),
        normed=("v1", "v2"),
        small_maps=_same("shrink_square"),
        layout={"v1": "mmseg/mmdet", "v2": "mmpretrain"},
    ),
    "timm": Peer(
        make=_make_timm,
        maps=lambda model, images: model.forward_intermediates(images, intermediates_only=True),
        versions=("v1", "v2"),
        normed=(),
        small_maps=_same("shrink"),
        layout=_same("timm"),
    ),
    "torchvision": Peer(
        make=_make_torchvision,
        maps=_torchvision_maps,
        versions=("v1", "v2"),
        normed=(),
        small_maps=_same("no_shift"),
        layout=_same("torchvision"),
    ),
    "transformers": Peer(
        make=_make_transformers,
        maps=lambda model, images: list(model(images).feature_maps),
        versions=("v1", "v2"),
        normed=("v1",),
        small_maps={"v1": "shift", "v2": "shrink_square"},
        layout=_same("transformers"),
    ),
}

PAIRS = [(name, version) for name, peer in PEERS.items() for version in peer.versions]


def make_theirs(name, version, image_size=64, pretrained=None, **sizes):
    """Their backbone with random weights, in evaluation mode."""
    sizes = {**SMALL, **sizes}
    pretrained = pretrained or (0,) * len(sizes["depths"])
    theirs = PEERS[name].make(version, image_size, pretrained, **sizes)
    theirs.eval()  # some return None
    randomise(theirs)
    return theirs


def randomise(model):
    """Weights that keep signals alive, and biases, norms and tables that matter."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))


def ours_like(name, version, pretrained=None, **options):
    """A ``SwinBackbone`` of the same architecture, whose maps are theirs."""
    from swin_backbone import SwinBackbone

    options = {**SMALL, **options}
    stages = len(options["depths"])
    options.setdefault("out_indices", tuple(range(stages)))
    options.setdefault("strides", (4, *(2,) * (stages - 1)))
    if version == "v2":
        options["pretrained_window_sizes"] = pretrained or (0,) * stages
        options["extra_norm_every_n_blocks"] = 2 if name == "mmpretrain" else 0
    return SwinBackbone(version=version, **options).eval()


def without_output_norms(model):
    """Let a backbone return what its stages give."""
    for index in model.out_indices:
        setattr(model, f"norm{index}", nn.Identity())
    return model
