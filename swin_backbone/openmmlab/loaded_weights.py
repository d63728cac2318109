"""What became of a whole model's tensors when a checkpoint was loaded: no part runs unnoticed with
values that nobody trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from ..checkpoints import CheckpointError
from ..checkpoints.checkpoint_report import is_finite, name_some
from ..model.sharding import own_part
from ..ops.torch_internals.class_names import unwrapped_name
from .mmengine_internals import is_resuming, loaded_from

#: Counts batches; batch norms of a fixed momentum, as all of OpenMMLab's, never read it.
_NOT_NEEDED = "num_batches_tracked"


class LoadedWeights(NamedTuple):
    """Outcome of one loading.

    Attributes:
        missing: the model's tensors that the checkpoint does not have.
        misfits: those of another shape, with both shapes.
        unexpected: the checkpoint's tensors that nothing takes.
        not_finite: the model's tensors that now hold NaN or, where learned, infinity.
        count: number of the model's tensors; 0 where a sharded model does not show them.
    """

    missing: list[str]
    misfits: list[str]
    unexpected: list[str]
    not_finite: list[str]
    count: int

    def __str__(self) -> str:
        parts = [
            f"{name}: {name_some(keys)}"
            for name, keys in (
                ("missing", self.missing),
                ("of another shape", self.misfits),
                ("not finite", self.not_finite),
                ("unexpected", self.unexpected),
            )
            if keys
        ]
        return "; ".join(parts) or f"all {self.count} tensors loaded"

    @property
    def loaded(self) -> int:
        """Number of the model's tensors that were loaded."""
        return self.count - len(self.missing) - len(self.misfits)


def fill(model: nn.Module, state_dict: Mapping[str, Tensor]) -> LoadedWeights:
    """Load what fits, and tell what does not.

    Args:
        model: a whole model; wrappers of one (DDP, test-time augmentation) are looked through.
        state_dict: its tensors, of our backbone also in the layouts that it knows.

    Raises:
        CheckpointError: if a backbone finds that its tensors do not fit.
    """
    model = _unwrap(model)
    keys = []
    handle = model.register_load_state_dict_post_hook(
        lambda _, found: keys.extend([list(found.missing_keys), list(found.unexpected_keys)])
    )
    misfits = []
    try:
        model.load_state_dict({k.removeprefix("module."): v for k, v in state_dict.items()}, False)
    except CheckpointError:
        raise
    except RuntimeError as error:
        if not keys:  # it did not come to an end
            raise
        misfits = [line.strip().rstrip(".") for line in str(error).splitlines()[1:]]
    finally:
        handle.remove()
    missing = [unwrapped_name(key) for key in keys[0]]
    own = model.state_dict()
    learned = {name for name, _ in model.named_parameters()}
    return LoadedWeights(
        [key for key in missing if not key.endswith(_NOT_NEEDED)],
        misfits,
        keys[1],
        [key for key, tensor in own.items() if not _is_sound(tensor, key in learned)],
        sum(not key.endswith(_NOT_NEEDED) for key in own),
    )


def load_weights(
    model: nn.Module, state_dict: Mapping[str, Tensor], source: str, allow_missing: bool = False
) -> LoadedWeights:
    """Load a checkpoint of a whole model, or say which tensors were not.

    Args:
        model: the model.
        state_dict: what the checkpoint has.
        source: the checkpoint's name, for messages.
        allow_missing: warn of missing and misfitting tensors, instead of raising an error.

    Raises:
        CheckpointError: if a tensor of the model is missing, has another shape, or is not finite.
    """
    found = fill(model, state_dict)
    if found.not_finite or (not allow_missing and (found.missing or found.misfits)):
        raise CheckpointError(
            f"checkpoint {source!r} is not of this model: {found.loaded} of {found.count} tensors "
            f"were loaded; {found}"
        )
    _report(found, source)
    return found


@HOOKS.register_module()
class LoadedWeightsHook(Hook):
    """Look after what a runner loads from a checkpoint.

    mmengine goes on with whatever fits, and writes a line into the log.

    Args:
        strict: whether missing and misfitting tensors are an error, or are reported only; resuming
            is strict in any case.

    Raises:
        CheckpointError: see :func:`load_weights`; and if not one tensor fits.
    """

    priority = "VERY_LOW"  # after the hook of averaged weights, which exchanges tensors

    def __init__(self, strict: bool = True):
        self.strict = strict

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Load the model's tensors; mmengine then does the same again, which changes nothing."""
        source = str(loaded_from(runner) or "to resume from")
        state_dict = checkpoint.get("state_dict", checkpoint)
        lenient = not self.strict and not is_resuming(runner)
        found = load_weights(runner.model, state_dict, source, allow_missing=lenient)
        # A model that is sharded over processes shows its tensors to the first of them alone.
        if found.count and not found.loaded:
            raise CheckpointError(f"checkpoint {source!r} has no tensor of this model; {found}")


def _report(found: LoadedWeights, source: str) -> None:
    incomplete = found.missing or found.misfits
    text = f"checkpoint {source!r}: {found}"
    if incomplete:
        text = (
            f"checkpoint {source!r}: ONLY {found.loaded} OF {found.count} TENSORS WERE LOADED, the "
            f"others keep the values that the model began with. {found}"
        )
    level = logging.WARNING if incomplete or found.unexpected else logging.INFO
    print_log(text, logger="current", level=level)


def _unwrap(model: nn.Module) -> nn.Module:
    while isinstance(model, BaseTTAModel) or (
        is_model_wrapper(model) and not isinstance(model, FullyShardedDataParallel)
    ):
        model = model.module
    return model


def _is_sound(tensor: Tensor, learned: bool) -> bool:
    """Whether there is no NaN, and in what is learned no infinity either (a mask may have some)."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        return True
    tensor = own_part(tensor)
    return is_finite(tensor) or (not learned and not bool(torch.isnan(tensor).any()))
