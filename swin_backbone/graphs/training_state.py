"""What a training step may change, put back after steps that are none; parameters that stand in."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..ops.torch_internals.module_contents import buffers, children, hooks_of, parameters
from .gathered_parameters import ParameterCopies


@contextmanager
def unchanged(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put back a model's buffers and all random numbers' generators afterwards."""
    buffers = list(model.buffers())
    with torch.no_grad():
        kept = [buffer.clone() for buffer in buffers]
    host, own = host_generators(), _generator_of(device)
    try:
        yield
    finally:
        _restore_host(host)
        if own is not None:
            torch.cuda.set_rng_state(own, device)
        with torch.no_grad():
            # By ``data``: to a backward pass that waits, what is put back has not changed.
            for buffer, value in zip(buffers, kept, strict=True):
                buffer.data.copy_(value)


def modes_of_torch(kind: str) -> tuple:
    """What decides how a kind of device computes: autocast, its dtype, and inference mode."""
    autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return *autocast, torch.is_inference_mode_enabled()


def host_generators() -> tuple:
    """States of the generators of random numbers that run on the host."""
    numpy = sys.modules.get("numpy")
    numpys = None if numpy is None else numpy.random.get_state(legacy=False)
    return random.getstate(), torch.get_rng_state(), numpys


def _restore_host(states: tuple) -> None:
    random.setstate(states[0])
    torch.set_rng_state(states[1])
    if states[2] is not None:
        sys.modules["numpy"].random.set_state(states[2])


def _generator_of(device: torch.device) -> Tensor | None:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def who_drew(before: tuple, after: tuple, device: torch.device) -> str | None:
    """Which generator of the host has drawn numbers that ``device`` did not want, or ``None``."""
    if before[0] != after[0]:
        return "Python's random"
    if device.type != "cpu" and not torch.equal(before[1], after[1]):
        return "torch on the CPU"
    if before[2] is not None and repr(before[2]) != repr(after[2]):
        return "numpy"
    return None


class StandIns:
    """Parameters that share the memory of a model's and take their places for a while.

    Gradients then reach them, and neither the model's own nor what is hooked to these, such as the
    reducer of ``DistributedDataParallel``; and they are as young as the stream they are used on.

    Args:
        model: all of its parameters are plain.
        copies: whose memory they share instead, where that of the model's does not stay.

    Attributes:
        own: the model's parameters, each once.
        others: what stands in for each.
    """

    def __init__(self, model: nn.Module, copies: ParameterCopies | None = None):
        places = [
            (module, name, parameter)
            for module in model.modules()
            for name, parameter in module.named_parameters(recurse=False)
        ]
        self.own = list({id(p): p for _, _, p in places}.values())
        memory = [p.detach() if copies is None else copies.of(p) for p in self.own]
        self.others = [
            nn.Parameter(one, p.requires_grad) for one, p in zip(memory, self.own, strict=True)
        ]
        by_own = {id(p): other for p, other in zip(self.own, self.others, strict=True)}
        self._places = [(module, name, p, by_own[id(p)]) for module, name, p in places]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The stand-ins are the model's parameters meanwhile."""
        try:
            for module, name, _, other in self._places:
                setattr(module, name, other)
            yield
        finally:
            for module, name, own, _ in self._places:
                setattr(module, name, own)


class Signature:
    """What a recorded step takes for granted of a model: which modules and tensors it consists of,
    where these lie, which of them are trained, which modules are in training mode, and how many
    hooks wait for calls.

    Args:
        model: the model.
        with_modes: whether a module that is put in training or evaluation mode is a change.

    Attributes:
        with_places: whether a tensor that lies elsewhere is a change.
    """

    def __init__(self, model: nn.Module, with_modes: bool = True):
        self._model, self._with_modes = model, with_modes
        self.with_places = True
        self._look()
        self._known = self._read()

    def _look(self) -> None:
        self._modules = list(self._model.modules())
        self._hooks = [hooks for module in self._modules for hooks in hooks_of(module)]
        kinds = (children, parameters, buffers)
        all_parts = (own(module) for module in self._modules for own in kinds)
        #: Dictionaries, as modules have them: what is put into one later is seen.
        self._parts = [parts for parts in all_parts if parts]

    def _read(self) -> tuple:
        found = [one for parts in self._parts for one in parts.values()]
        tensors = [one for one in found if isinstance(one, Tensor)]
        self._found = found  # so that no other object gets the number of one of them
        return (
            [*map(id, found)],
            [tensor.data_ptr() for tensor in tensors] if self.with_places else (),
            [tensor.requires_grad for tensor in tensors],
            self.modes() if self._with_modes else (),
            sum(map(len, self._hooks)),
        )

    def modes(self) -> tuple[bool, ...]:
        """Of each module, whether it is in training mode."""
        return tuple([module.training for module in self._modules])

    def is_trained(self) -> bool:
        """Whether any parameter was trained when this was last asked for changes."""
        return any(self._known[2])

    def has_changed(self) -> bool:
        """Whether anything of it differs from when it was last asked for."""
        before, now = self._known, self._read()
        if before[0] != now[0]:
            self._look()
            now = self._read()
        self._known = now
        return before != now
