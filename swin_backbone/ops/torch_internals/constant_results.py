"""Methods that torch.compile asks once for each graph."""

from __future__ import annotations

from collections.abc import Callable


def constant_in_a_graph(method: Callable) -> Callable:
    """As :func:`torch.compiler.assume_constant_result`, which imports the whole compiler, seconds
    of it, for a mark. A torch that reads another mark compiles what the method does instead."""
    method._dynamo_marked_constant = True
    return method
