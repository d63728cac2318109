"""Few groups of parameters, so that an optimizer updates many at once.

With options by parameter, mmengine's constructor makes a group of each parameter. An optimizer
goes through its groups one after the other, and its fused and foreach forms gain nothing: for a
model of 300 tensors the launching alone takes longer than the update.
"""

from __future__ import annotations

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MergedGroupsOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default constructor, parameters with the same settings sharing a group.

    The updates are the same. A run that began without it cannot be resumed with it, since
    checkpoints hold the optimizer's state by group.

    Args:
        optim_wrapper_cfg: config of the optimizer wrapper.
        paramwise_cfg: options by parameter, as mmengine's.
    """

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = "", **kwargs) -> None:
        """Append the parameter groups of ``module`` to ``params``, as mmengine calls it."""
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix == "":  # the outermost call: every group is there
            params[:] = merge_equal_groups(params)


def merge_equal_groups(groups: list[dict]) -> list[dict]:
    """The same parameters with the same settings, in as few groups as these allow."""
    merged: dict[str, dict] = {}
    for group in groups:
        settings = {key: value for key, value in group.items() if key != "params"}
        # By repr, as settings such as betas may be lists.
        same = merged.setdefault(repr(sorted(settings.items())), {"params": [], **settings})
        same["params"].extend(group["params"])
    return list(merged.values())
