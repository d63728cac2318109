"""Models of timm: ``import swin_backbone.libraries.timm_models`` registers them.

    model = timm.create_model("swin_backbone_tiny", features_only=True, out_indices=(1, 2, 3))
    model = timm.create_model("swin_backbone_tiny", features_only=True, checkpoint="weights.pth")

There is one for each of :func:`swin_backbone.list_architectures`. Libraries that take timm's
features by name take these too: segmentation_models_pytorch has ``tu-swin_backbone_tiny``. Tested
with timm 1.0.31 and segmentation_models_pytorch 0.6.0.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..extras import from_extra
from ..model.arguments import KINDS
from ..model.create import create
from ..model.presets import list_architectures

with from_extra("benchmark"):
    from timm.models import FeatureInfo, register_model

PREFIX = "swin_backbone_"
#: What timm passes to every model, and has no meaning for this one.
IGNORED = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "num_classes", "img_size")


class SwinFeatures(nn.Module):
    """A backbone, and what timm's users ask of one with ``features_only=True``.

    Attributes:
        backbone: the :class:`swin_backbone.SwinBackbone`.
        feature_info: channels and strides of the maps.
    """

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone
        stages = [
            {
                "num_chs": info.channels,
                "reduction": info.stride[0],
                "module": f"stages.{info.stage}",
            }
            for info in backbone.features_info
        ]
        self.feature_info = FeatureInfo(stages, tuple(range(len(stages))))
        self.pretrained_cfg = self.default_cfg = {
            "input_size": (backbone.in_channels, 224, 224),
            "fixed_input_size": False,
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
        }

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, channels, H, W) to a map (B, C, H / stride, W / stride) for each of the stages."""
        return self.backbone(x)


def make_features(
    name: str,
    pretrained: bool = False,
    features_only: bool = False,
    in_chans: int = 3,
    out_indices: tuple[int, ...] = (0, 1, 2, 3),
    output_stride: int | None = None,
    checkpoint: str | None = None,
    **options: Any,
) -> SwinFeatures:
    """What ``timm.create_model`` returns.

    Args:
        name: of the architecture.
        pretrained: must be false: weights are named by ``checkpoint``.
        features_only: must be true: there is no classifier.
        in_chans: channels of the image.
        out_indices: stages whose maps are returned; negative ones count from the last.
        output_stride: must be 32, that of the last stage, or ``None``: windows have no dilation.
        checkpoint: path, address or name of weights, as :func:`swin_backbone.create` takes it.
        options: arguments of the backbone.

    Raises:
        ValueError: if a classifier, unnamed weights or another stride are asked for.
        TypeError: if an option is none of the backbone's.
    """
    if not features_only:
        raise ValueError(f"features_only must be True: {PREFIX}{name} has no classifier")
    if pretrained:
        raise ValueError("pretrained must be False; name weights: checkpoint='path or address'")
    if output_stride not in (None, 32):
        raise ValueError(f"output_stride must be 32 for a Swin Transformer, got {output_stride!r}")
    own = {key: value for key, value in options.items() if key not in IGNORED}
    unknown = own.keys() - KINDS.keys()
    if unknown:
        raise TypeError(f"{PREFIX}{name} takes no {', '.join(sorted(unknown))}")
    indices = sorted(index % 4 for index in out_indices)
    backbone = create(name, checkpoint, in_channels=in_chans, out_indices=indices, **own)
    return SwinFeatures(backbone).train()


def _register(name: str) -> None:
    def make(pretrained: bool = False, **options: Any) -> SwinFeatures:
        return make_features(name, pretrained, **options)

    make.__name__ = f"{PREFIX}{name}"
    globals()[make.__name__] = register_model(make)


for _name in list_architectures():
    _register(_name)
