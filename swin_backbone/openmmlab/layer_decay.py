"""Layer-wise learning-rate decay."""

from __future__ import annotations

import logging
import re

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from .parameter_groups import merge_equal_groups


def layer_index(name: str, depths: tuple[int, ...]) -> int:
    """Depth of a backbone parameter, counted in layers from the image.

    Args:
        name: name of the parameter within the backbone.
        depths: blocks per stage.

    Returns:
        0 for the embeddings, 1 to ``sum(depths)`` for the blocks (a patch merging and a
        stage's output norm count with the last block of their stage).
    """
    block = re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", name)
    if block:
        stage, index = map(int, block.groups())
        return sum(depths[:stage]) + index + 1
    stage_end = re.match(r"stages\.(\d+)\.downsample\.|norm(\d+)\.", name)
    if stage_end:
        stage = int(stage_end.group(1) or stage_end.group(2))
        return sum(depths[: stage + 1])
    return 0


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SwinLayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Give each layer of a backbone its own learning rate, smaller the nearer to the image.

    A layer at depth ``d`` of ``n`` blocks gets ``lr * layer_decay_rate ** (n + 1 - d)``, heads
    the whole ``lr`` (as in SimMIM's fine-tuning of Swin, https://arxiv.org/abs/2111.09886).
    All other options of ``paramwise_cfg`` (``custom_keys``, ``norm_decay_mult``, ...) work as in
    mmengine's default constructor, and multiply with it. Parameters that end up with the same
    settings share a group.

    Args:
        optim_wrapper_cfg: config of the optimizer wrapper.
        paramwise_cfg: with ``layer_decay_rate``, in (0, 1], and the default's options.

    Raises:
        ValueError: if the rate is missing or out of range, the optimizer has no ``lr``, or the
            model has no Swin backbone.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        rate = self.paramwise_cfg.get("layer_decay_rate")
        if not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise ValueError(f"paramwise_cfg.layer_decay_rate must lie in (0, 1], got {rate!r}")
        if self.base_lr is None:
            raise ValueError("layer-wise decay scales optimizer.lr, and the config gives none")

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = "", **kwargs) -> None:
        """Append the parameter groups of ``module`` to ``params``, as mmengine calls it."""
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix == "":  # the outermost call: every group is there
            scales = self._scales(module)
            for group in params:
                group["lr"] = group.get("lr", self.base_lr) * scales[id(group["params"][0])]
            params[:] = merge_equal_groups(params)
            print_log(f"layer-wise decay: {len(params)} groups", "current", logging.INFO)

    def _scales(self, model: nn.Module) -> dict[int, float]:
        rate = self.paramwise_cfg["layer_decay_rate"]
        scales = {id(parameter): 1.0 for parameter in model.parameters()}
        backbones = [module for module in model.modules() if _is_swin(module)]
        if not backbones:
            raise ValueError("layer-wise decay needs a SwinBackbone, and the model has none")
        for backbone in backbones:
            layers = sum(backbone.depths) + 1
            for name, parameter in backbone.named_parameters():
                scales[id(parameter)] = rate ** (layers - layer_index(name, backbone.depths))
        return scales


def _is_swin(module: nn.Module) -> bool:
    from ..model.backbone import SwinBackbone  # here, since importing it registers it

    return isinstance(module, SwinBackbone)
