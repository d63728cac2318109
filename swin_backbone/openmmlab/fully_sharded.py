"""A strategy of mmengine's runner that trains with PyTorch's ``fully_shard`` (FSDP2)."""

from __future__ import annotations

import torch
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.model import BaseDataPreprocessor, BaseTTAModel, revert_sync_batchnorm
from mmengine.optim import BaseOptimWrapper, OptimWrapperDict
from mmengine.registry import STRATEGIES
from torch import nn

from ..model.sharding import (
    UNIT_MB,
    shard,
    spread_optimizer_state,
    step_on_own_parts,
    whole_optimizer_state,
    whole_state_dict,
    with_whole_norm,
)
from .mmengine_internals import strategy

DTYPES = {name: getattr(torch, name) for name in ("bfloat16", "float16", "float32")}


@STRATEGIES.register_module()
class FullyShardStrategy(strategy("DDPStrategy")):
    """Spread parameters, gradients and the optimizer's state over the processes, by
    :func:`swin_backbone.model.sharding.shard`.

        strategy = dict(type="FullyShardStrategy", param_dtype="bfloat16")

    Checkpoints are those of one process: the weights load anywhere, and a run goes on with another
    number of processes, with another strategy, or without any. Needs PyTorch 2.6.

    Args:
        unit_mb: MiB of parameters of blocks that are gathered together; ``None``: a whole backbone
            is, which ``AccelerateHook(graphs=True)`` replays as CUDA graphs then.
        param_dtype: in which the blocks' parameters travel and compute: ``'bfloat16'``,
            ``'float16'``, ``'float32'``, or ``None`` for their own.
        reduce_dtype: in which gradients are averaged; ``None``: in the parameters'.
        reshard_after_forward: whether blocks are given back between their forward and backward
            passes; without, there is less to send, and more to hold.
        options: of mmengine's ``DDPStrategy``, but for ``model_wrapper``.

    Raises:
        TypeError: if ``model_wrapper`` is given; there is no wrapper.
        ValueError: if a dtype is none of these.
    """

    def __init__(
        self,
        *,
        unit_mb: float | None = UNIT_MB,
        param_dtype: str | None = None,
        reduce_dtype: str | None = None,
        reshard_after_forward: bool = False,
        **options,
    ):
        if options.pop("model_wrapper", None) is not None:
            raise TypeError("FullyShardStrategy takes no model_wrapper: it wraps no model")
        self.unit_mb = unit_mb
        self.param_dtype = _dtype("param_dtype", param_dtype)
        self.reduce_dtype = _dtype("reduce_dtype", reduce_dtype)
        self.reshard_after_forward = reshard_after_forward
        super().__init__(**options)

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        device = torch.device(get_device())
        model = model.to(device)
        for module in model.modules():
            if isinstance(module, BaseDataPreprocessor):
                module.to(device)  # tells it where batches go
        model = self.convert_model(model)
        if device.type == "cpu":
            model = revert_sync_batchnorm(model)  # it synchronises GPUs only
        # Test-time augmentation never calls its own forward, but that of the model in it.
        inner = model.module if isinstance(model, BaseTTAModel) else model
        shard(
            inner,
            device.type,
            self.unit_mb,
            self.param_dtype,
            self.reduce_dtype,
            self.reshard_after_forward,
        )
        inner.__deepcopy__ = _refuse_copy
        return model

    def build_optim_wrapper(self, optim_wrapper, model=None) -> BaseOptimWrapper:
        """As mmengine's; gradients are clipped by the norm of all processes', and Adam and AdamW
        step on this process's parts."""
        wrapper = super().build_optim_wrapper(optim_wrapper, model)
        if isinstance(wrapper, OptimWrapperDict):
            raise TypeError("FullyShardStrategy takes one optimizer, got an OptimWrapperDict")
        clip = getattr(wrapper, "clip_func", None)
        if clip is not None:
            wrapper.clip_func = with_whole_norm(clip)
        step_on_own_parts(wrapper.optimizer)
        return wrapper

    def model_state_dict(self) -> dict:
        """Whole tensors in the main process, nothing in the others, all of which have to call."""
        return whole_state_dict(self.model, keep=is_main_process())

    def optim_state_dict(self) -> dict:
        """As a process that had the whole model would save it; in the main process, as above."""
        return whole_optimizer_state(self.optim_wrapper, keep=is_main_process())

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load a whole state, which any strategy here and any number of processes has saved.

        Raises:
            ValueError: if it is of another number of parameters.
        """
        optimizer = self.optim_wrapper.optimizer
        self.optim_wrapper.load_state_dict(spread_optimizer_state(optimizer, state_dict))

    def save_checkpoint(
        self, filename: str, *, save_optimizer: bool = True, **options: object
    ) -> None:
        """As mmengine's: the main process writes the file, and the others give it their parts."""
        if not is_main_process():  # for whom mmengine's does nothing
            self.model_state_dict()
            if save_optimizer and hasattr(self, "optim_wrapper"):
                self.optim_state_dict()
        super().save_checkpoint(filename, save_optimizer=save_optimizer, **options)


def _dtype(name: str, given: str | None) -> torch.dtype | None:
    if given is None:
        return None
    if given not in DTYPES:
        raise ValueError(f"{name} must be {', '.join(DTYPES)} or None, got {given!r}")
    return DTYPES[given]


def _refuse_copy(memo: dict) -> None:
    raise TypeError(
        "a model that fully_shard has spread over processes cannot be copied, which averages of "
        "weights (EMAHook) begin with: train with --with ddp for them"
    )
