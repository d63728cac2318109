"""A backbone of transformers, registered by ``import
swin_backbone.libraries.transformers_backbone``.

    backbone = AutoBackbone.from_pretrained("org/name", out_features=["stage2", "stage4"])
    backbone = AutoBackbone.from_config(AutoConfig.from_pretrained("folder"))  # without weights
    backbone = SwinBackboneModel.from_pretrained("folder")
    feature_maps = backbone(pixel_values).feature_maps

It reads what :meth:`swin_backbone.SwinBackbone.save_pretrained` writes, and is a
``backbone_config`` of transformers' models. Tested with transformers 5.24.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..extras import from_extra
from ..model.arguments import KINDS
from ..model.backbone import SwinBackbone
from ..model.hub import MODEL_TYPE, NOT_KEPT

with from_extra("benchmark"):
    from transformers import AutoBackbone, AutoConfig, PreTrainedConfig, PreTrainedModel
    from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
    from transformers.modeling_outputs import BackboneOutput

ARGUMENTS = [name for name in KINDS if name not in (*NOT_KEPT, "out_indices")]


class SwinBackboneConfig(BackboneConfigMixin, PreTrainedConfig):
    """Arguments of :class:`swin_backbone.SwinBackbone`, and the stages whose maps are returned.

    Args:
        out_features: names of stages, ``'stage1'`` to ``'stage4'``, or
        out_indices: their indices, from 0. All by default.
        arguments: of the backbone; those of other names are transformers' own.
    """

    model_type = MODEL_TYPE

    def __init__(
        self,
        out_features: list[str] | None = None,
        out_indices: list[int] | None = None,
        **arguments: Any,
    ):
        own = {name: arguments.pop(name) for name in ARGUMENTS if name in arguments}
        super().__init__(**arguments)
        for name, value in SwinBackbone(**own).arguments.items():
            if name in ARGUMENTS:
                setattr(self, name, value)
        self.stage_names = [f"stage{index + 1}" for index in range(len(self.depths))]
        if out_features is None and out_indices is None:
            out_features = self.stage_names
        self.set_output_features_output_indices(out_features, out_indices)


class SwinBackboneModel(BackboneMixin, PreTrainedModel):
    """:class:`swin_backbone.SwinBackbone` as transformers calls it."""

    config_class = SwinBackboneConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    has_attentions = False
    # Norms of maps that are not asked for.
    _keys_to_ignore_on_load_unexpected = (r"^(backbone\.)?norm\d+\.(weight|bias)$",)

    def __init__(self, config: SwinBackboneConfig):
        super().__init__(config)
        own = {name: getattr(config, name) for name in ARGUMENTS}
        if own["arch"] is not None:
            own = {k: v for k, v in own.items() if k not in ("embed_dims", "depths", "num_heads")}
        self.backbone = SwinBackbone(**own, out_indices=config.out_indices)
        self.num_features = self.backbone.num_features
        self.post_init()

    def forward(self, pixel_values: Tensor, **options: Any) -> BackboneOutput | tuple:
        """(B, 3, H, W) to ``feature_maps``, one (B, C, H / stride, W / stride) a stage."""
        maps = tuple(self.backbone(pixel_values))
        return (maps,) if options.get("return_dict") is False else BackboneOutput(feature_maps=maps)


AutoConfig.register(MODEL_TYPE, SwinBackboneConfig, exist_ok=True)
AutoBackbone.register(SwinBackboneConfig, SwinBackboneModel, exist_ok=True)
