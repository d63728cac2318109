"""Ours and the peers, each built with the same architecture to return the same four maps."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from swin_backbone import SwinBackbone, graph_backbone
from swin_backbone.inference.export import ModelCard, load, trace, write_program
from swin_backbone.ops import BACKENDS

from .cases import DROP_PATH_RATE, Architecture


class Implementation(NamedTuple):
    """One way to compute the backbone.

    Attributes:
        name: what ``--implementations`` takes.
        package: the distribution whose version is reported.
        build: a module from architecture and image size (rows, columns); (B, 3, H, W) to four
            maps (B, C, h, w). Raises ``ImportError`` where the package is missing.
        note: how its work differs from ours.
    """

    name: str
    package: str
    build: Callable[[Architecture, tuple[int, int]], nn.Module]
    note: str = ""

    @property
    def is_ours(self) -> bool:
        return self.package == "swin-backbone"

    @property
    def has_own_graphs(self) -> bool:
        """Whether a call replays graphs by itself, CUDA's or onnxruntime's."""
        return self.name in ("ours:graphs", "ours:onnxruntime")

    def version(self) -> str | None:
        """Version of the installed package, classic and maintained OpenMMLab lines alike."""
        for package in (self.package, f"onedl-{self.package}"):
            try:
                return f"{package} {metadata.version(package)}"
            except metadata.PackageNotFoundError:
                continue
        return None


def _ours(backend: str) -> Implementation:
    def build(arch: Architecture, size: tuple[int, int]) -> nn.Module:
        return SwinBackbone(**_in_mmseg_arguments(arch), backend=backend, version=arch.version)

    name = "ours" if backend == "auto" else f"ours:{backend}"
    return Implementation(name, "swin-backbone", build)


def _ours_by_graphs(arch: Architecture, size: tuple[int, int]) -> nn.Module:
    """Ours by CUDA graphs, in training too; a call that is not replayed is an error."""

    def say(message: str, level: int) -> None:
        if level >= logging.WARNING:
            raise RuntimeError(message)

    model = _ours("auto").build(arch, size)
    graph_backbone(model, say=say)
    return model


class _OnnxFile(nn.Module):
    """A backbone that onnxruntime computes, from the file that ours exports."""

    def __init__(self, backbone: SwinBackbone):
        super().__init__()
        self.backbone = backbone.eval()
        info = backbone.features_info
        strides, channels = zip(*((one.stride, one.channels) for one in info), strict=True)
        card = ModelCard("", "backbone", (0.0,) * 3, (1.0,) * 3, "RGB", strides, channels)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "backbone.onnx"
            self.run = load(write_program(trace(backbone), card, path, "onnx"))

    def forward(self, x: Tensor) -> list[Tensor]:
        if self.training or x.is_cuda or torch.is_autocast_enabled(x.device.type):
            raise ValueError("the exported file is for predictions in float32 on a CPU")
        return self.run(x)


def _ours_by_onnxruntime(arch: Architecture, size: tuple[int, int]) -> nn.Module:
    return _OnnxFile(_ours("auto").build(arch, size))


def _in_mmseg_arguments(arch: Architecture) -> dict:
    return {
        "embed_dims": arch.embed_dims,
        "depths": arch.depths,
        "num_heads": arch.num_heads,
        "window_size": arch.window,
        "drop_path_rate": DROP_PATH_RATE,
    }


def _only_v1(package: str, arch: Architecture) -> None:
    if arch.version != "v1":
        raise ValueError(f"{package} has no Swin {arch.version.upper()}")


def _build_mmseg(arch: Architecture, size: tuple[int, int]) -> nn.Module:
    _only_v1("mmseg", arch)
    from mmseg.models.backbones import SwinTransformer

    return SwinTransformer(**_in_mmseg_arguments(arch))


def _build_mmdet(arch: Architecture, size: tuple[int, int]) -> nn.Module:
    _only_v1("mmdet", arch)
    from mmdet.models.backbones import SwinTransformer

    return SwinTransformer(**_in_mmseg_arguments(arch))


def _timm(name: str, fused: bool, note: str) -> Implementation:
    def build(arch: Architecture, size: tuple[int, int]) -> nn.Module:
        import timm
        from timm.layers import set_fused_attn

        # Read when modules are made. Swin's fused attention counts as experimental.
        set_fused_attn(fused, experimental=fused)
        names = {"v1": "swin_tiny_patch4_window7_224", "v2": "swinv2_tiny_window8_256"}
        try:
            model = timm.create_model(
                names[arch.version],
                features_only=True,
                out_indices=(0, 1, 2, 3),
                img_size=size,
                embed_dim=arch.embed_dims,
                depths=arch.depths,
                num_heads=arch.num_heads,
                window_size=arch.window,
                always_partition=True,  # keep the window where a map is smaller
                drop_path_rate=DROP_PATH_RATE,
            )
        finally:
            set_fused_attn(True)
        if fused and not any(getattr(module, "fused_attn", False) for module in model.modules()):
            raise ValueError(f"timm has no fused attention for Swin {arch.version.upper()}")
        return _ChannelsFirst(model)

    return Implementation(name, "timm", build, f"{note}; no output norms; masks stored for a size")


class _ChannelsFirst(nn.Module):
    """Maps (B, h, w, C) as views of the shape (B, C, h, w), as everyone returns them."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> list[Tensor]:
        return [m.permute(0, 3, 1, 2) for m in self.backbone(x)]


def _build_torchvision(arch: Architecture, size: tuple[int, int]) -> nn.Module:
    from torchvision.models import swin_transformer

    layers = {"block": swin_transformer.SwinTransformerBlock}
    if arch.version == "v2":
        layers = {
            "block": swin_transformer.SwinTransformerBlockV2,
            "downsample_layer": swin_transformer.PatchMergingV2,
        }
    model = swin_transformer.SwinTransformer(
        patch_size=[4, 4],
        embed_dim=arch.embed_dims,
        depths=list(arch.depths),
        num_heads=list(arch.num_heads),
        window_size=[arch.window, arch.window],
        stochastic_depth_prob=DROP_PATH_RATE,
        **layers,
    )
    return _ChannelsFirst(_StageMaps(model.features))


class _StageMaps(nn.Module):
    """The map after each stage of torchvision's classifier."""

    def __init__(self, features: nn.Sequential):
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index % 2:  # embedding or merging, then blocks
                maps.append(x)
        return maps


def _build_transformers(arch: Architecture, size: tuple[int, int]) -> nn.Module:
    import transformers

    prefix = {"v1": "Swin", "v2": "Swinv2"}[arch.version]
    config = getattr(transformers, f"{prefix}Config")(
        image_size=size,  # V2's windows and shifts follow from it
        embed_dim=arch.embed_dims,
        depths=list(arch.depths),
        num_heads=list(arch.num_heads),
        window_size=arch.window,
        drop_path_rate=DROP_PATH_RATE,
        out_features=[f"stage{index}" for index in range(1, 5)],
    )
    return _FeatureMaps(getattr(transformers, f"{prefix}Backbone")(config))


class _FeatureMaps(nn.Module):
    """The maps out of the output object of ``transformers``."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.backbone(x).feature_maps


_PEERS = (
    Implementation("mmseg", "mmsegmentation", _build_mmseg),
    Implementation("mmdet", "mmdetection", _build_mmdet),
    _timm("timm", fused=False, note="its default attention"),
    _timm("timm-fused", fused=True, note="its fused (SDPA) attention"),
    Implementation("torchvision", "torchvision", _build_torchvision, "no output norms"),
    Implementation(
        "transformers", "transformers", _build_transformers, "one more norm, of the last map"
    ),
)

#: Every implementation by name: ours, by graphs, exported and with each backend, then the peers.
IMPLEMENTATIONS: dict[str, Implementation] = {
    implementation.name: implementation
    for implementation in (
        _ours("auto"),
        Implementation("ours:graphs", "swin-backbone", _ours_by_graphs, "graph_backbone"),
        Implementation(
            "ours:onnxruntime", "swin-backbone", _ours_by_onnxruntime, "the exported file"
        ),
        *map(_ours, BACKENDS),
        *_PEERS,
    )
}
#: What is compared unless asked otherwise.
DEFAULT_IMPLEMENTATIONS = ("ours", *(peer.name for peer in _PEERS))
