"""Where the host would wait for a device, counted on a CPU."""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from traceback import extract_stack

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

#: Numbers that are read, and results whose size is to be learnt.
READS = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::masked_select",
}
#: Tensors made of Python's numbers, whose copy to a device waits for what that has to do.
COPY = "aten::lift_fresh"
#: Lists of tensors that lie on the CPU, wherever a model is, are no waits.
LISTS = "tolist"
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class _Operators(TorchDispatchMode):
    def __init__(self, places):
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, called, types, args=(), kwargs=None):
        name = called._schema.name
        by_mask = name in INDEXING and any(
            one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1]
        )
        if name in READS or name == COPY or by_mask:
            self.places[f"{name} {_place()}"] += 1
        return called(*args, **(kwargs or {}))


class _Lists(TorchFunctionMode):
    def __init__(self, places):
        super().__init__()
        self.places = places

    def __torch_function__(self, called, types, args=(), kwargs=None):
        if called is torch.Tensor.tolist:
            self.places[f"{LISTS} {_place()}"] += 1
        return called(*args, **(kwargs or {}))


def _place() -> str:
    """The function outside of torch that is running."""
    for frame in reversed(extract_stack()):
        path = Path(frame.filename)
        if "torch" not in path.parts and path.name != "waits.py":
            return f"{path.name}:{frame.lineno} {frame.name}"
    return "?"


def places_of_waits(function) -> Counter:
    """How often the host would wait, by operator and place."""
    places: Counter = Counter()
    with ExitStack() as stack:
        stack.enter_context(_Operators(places))
        stack.enter_context(_Lists(places))
        function()
    return places


def waits(function, but: tuple[str, ...] = ()) -> int:
    """How often the host would wait, some operators left out."""
    places = places_of_waits(function)
    return sum(number for place, number in places.items() if not place.startswith(but))
