"""Fully sharded data parallelism: a Swin block at a time, and runs that can be resumed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from mmengine.device import get_device
from mmengine.optim import BaseOptimWrapper
from mmengine.registry import FUNCTIONS, STRATEGIES
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim import Optimizer

from ..model import SwinBlock, SwinBlockV2
from ..ops.torch_internals.optimizers import leave_scaling_to_the_scaler
from .mmengine_internals import strategy


@FUNCTIONS.register_module()
def wrap_swin_blocks(
    module: nn.Module, recurse: bool, nonwrapped_numel: int = 0, **_: object
) -> bool:
    """Policy for ``auto_wrap_policy``: wrap each block, of V1 and of V2, and look into all else.

    Args:
        module: the module in question.
        recurse: whether the question is to look into it, not to wrap it.
        nonwrapped_numel: parameters in it that are not wrapped yet; not needed.
    """
    return recurse or isinstance(module, (SwinBlock, SwinBlockV2))


def unfuse(optimizer: Optimizer) -> None:
    """Have an optimizer take its steps by one kernel an operation.

    Where gradients are unscaled before a step, to be clipped, FSDP's loss scaler tells of
    infinities in a tensor of one dimension, and PyTorch's fused optimizers take a tensor of none.
    """
    for settings in (optimizer.defaults, *optimizer.param_groups):
        if settings.get("fused"):
            settings["fused"] = False
    leave_scaling_to_the_scaler(optimizer)


def _clip_norm_of_all(
    model: FullyShardedDataParallel,
    parameters: Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
) -> Tensor:
    """What ``torch.nn.utils.clip_grad_norm_`` does to a model that is not sharded."""
    return model.clip_grad_norm_(max_norm, norm_type)


@STRATEGIES.register_module()
class ResumableFSDPStrategy(strategy("FSDPStrategy")):
    """mmengine's ``FSDPStrategy``, able to resume.

    mmengine hands the optimizer's state to PyTorch in an order of arguments that PyTorch gave up
    in 2.1, so that a run cannot be resumed. And on the CPU, PyTorch gathers all of a parameter's
    moments into one buffer, of which the last one gathered remains; each is gathered by itself
    here. Takes the arguments of ``FSDPStrategy``.
    """

    def build_optim_wrapper(self, optim_wrapper, model=None) -> BaseOptimWrapper:
        """As mmengine's; with loss scaling, without a fused optimizer, and with gradients clipped
        by the norm of all of them, where mmengine's takes that of the process's own shards."""
        wrapper = super().build_optim_wrapper(optim_wrapper, model)
        if getattr(wrapper, "clip_func", None) is nn.utils.clip_grad_norm_:
            wrapper.clip_func = partial(_clip_norm_of_all, model)
        scaler = getattr(wrapper, "loss_scaler", None)
        if scaler is not None and scaler.is_enabled():
            unfuse(wrapper.optimizer)
        return wrapper

    def optim_state_dict(self) -> dict:
        """The optimizer's state by parameter name, whole or sharded as the config says."""
        optimizer = self.optim_wrapper.optimizer
        if get_device() != "cpu":
            return FullyShardedDataParallel.optim_state_dict(self.model, optimizer)
        local = optimizer.state_dict()
        names = {name for moments in local["state"].values() for name in moments}
        whole: dict = {}
        for name in sorted(names):
            state = {key: {name: moments[name]} for key, moments in local["state"].items()}
            part = FullyShardedDataParallel.optim_state_dict(
                self.model, optimizer, {**local, "state": state}
            )
            if not whole:
                whole = part
            for key, moments in part.get("state", {}).items():  # the main process has it all
                whole["state"][key].update(moments)
        return whole

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Spread a whole or a sharded state of the optimizer over the processes, and load it."""
        optimizer = self.optim_wrapper.optimizer
        sharded = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=optimizer, optim_state_dict=state_dict
        )
        self.optim_wrapper.load_state_dict(sharded)
