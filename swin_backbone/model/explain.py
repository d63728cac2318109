"""What runs in each layer of a model, and why not something faster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..ops import dispatch
from ..ops.argument_checks import show as show_value
from .backbone import SwinBackbone
from .block import SwinBlock
from .block_v2 import SwinBlockV2
from .patch_embed import PatchEmbed
from .patch_merging import PatchMerging, PatchMergingV2
from .stage import SwinStage

#: Modules whose operations are told apart.
LAYERS = (PatchEmbed, SwinStage, SwinBlock, SwinBlockV2, PatchMerging, PatchMergingV2)


class Explanation(NamedTuple):
    """What runs for one operation of one layer.

    Attributes:
        layer: name of the module in the model.
        operation: what is computed.
        way: what computes it.
        refused: faster ways, each with the reason why it does not.
    """

    layer: str
    operation: str
    way: str
    refused: tuple[tuple[str, str], ...]


def explain(
    model: nn.Module, images: Tensor | None = None, *, show: bool = True
) -> list[Explanation]:
    """Run the backbones of a model once, and say layer by layer what ran and why not faster.

    They run as the model is now: its mode, dtype and device, the caller's autocast and gradients.
    Nothing of the model changes, nor do the random numbers that follow. A model under
    ``torch.compile`` is explained as it would run without.

    Args:
        model: a :class:`SwinBackbone`, or a model with some.
        images: (B, channels, H, W), what the backbones get; ``None`` for one of 224 x 224.
        show: whether to print the table.

    Returns:
        One entry for each operation of each layer, in the order in which they run.

    Raises:
        TypeError: if ``model`` is no module, or ``images`` are no tensor.
        ValueError: if there is no :class:`SwinBackbone` in the model, or it cannot take the images.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {show_value(model)}")
    backbones = {n: m for n, m in model.named_modules() if isinstance(m, SwinBackbone)}
    if not backbones:
        raise ValueError(f"model must be or have a SwinBackbone, got a {type(model).__name__}")
    rows: list[Explanation] = []
    for name, backbone in backbones.items():
        with _untouched(backbone), _recording(backbone, name, rows):
            backbone(_example(backbone) if images is None else images)
    if show:
        print(as_table(rows))
    return rows


def as_table(rows: Iterable[Explanation]) -> str:
    """Lines of text; neighbouring blocks with the same answers are one line."""
    lines = [("layer", "operation", "runs on", "why not faster")]
    for layers, cells in _together(rows):
        lines.append((layers, *cells))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return "\n".join(
        "  ".join(
            f"{cell:{width}}" for cell, width in zip(line, [*widths, 0], strict=True)
        ).rstrip()
        for line in lines
    )


def _together(rows: Iterable[Explanation]) -> Iterator[tuple[str, tuple[str, str, str]]]:
    by_layer: dict[str, list[tuple[str, str, str]]] = {}
    for row in rows:
        reasons = "; ".join(f"{way}: {reason}" for way, reason in row.refused)
        by_layer.setdefault(row.layer, []).append((row.operation, row.way, reasons))
    groups: list[tuple[list[str], list]] = []
    for layer, cells in by_layer.items():
        if groups and groups[-1][1] == cells and _are_siblings(groups[-1][0][-1], layer):
            groups[-1][0].append(layer)
        else:
            groups.append(([layer], cells))
    for layers, cells in groups:
        last = layers[-1].rpartition(".")[2]
        name = layers[0] if len(layers) == 1 else f"{layers[0]} to {last}"
        for cell in cells:
            yield name, cell
            name = ""


def _are_siblings(first: str, second: str) -> bool:
    return first.rpartition(".")[0] == second.rpartition(".")[0] != ""


def _example(backbone: SwinBackbone) -> Tensor:
    weight = next(backbone.parameters())
    return weight.new_zeros(1, backbone.in_channels, 224, 224)


@contextmanager
def _untouched(backbone: nn.Module) -> Iterator[None]:
    """Buffers, which norms update in training, and random numbers stay as they are."""
    buffers = [(buffer, buffer.clone()) for buffer in backbone.buffers()]
    devices = {p.device.index for p in backbone.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices)):
        yield
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)


@contextmanager
def _recording(backbone: nn.Module, prefix: str, rows: list[Explanation]) -> Iterator[None]:
    """Within, decisions become rows under the names of the layers that run."""
    running = [prefix]
    inside = f"{prefix}." if prefix else ""
    # Their own norms are the backbone's, which they only run.
    stages = {f"{inside}stages.{i}": f"{inside}norm{i}" for i in range(len(backbone.stages))}

    def enter(name: str):
        def hook(module: nn.Module, _arguments: tuple) -> None:
            running.append(name)
            reason = why_not_fused(module)
            if reason is not None:
                rows.append(Explanation(name, "block", "its modules", (("fused", reason),)))

        return hook

    def leave(_module: nn.Module, _arguments: tuple, _result: object) -> None:
        running.pop()

    def record(decision: dispatch.Decision) -> None:
        layer = running[-1]
        if layer in stages and decision.operation == "layer norm":
            layer = stages[layer]
        row = Explanation(layer, *decision)
        if row not in rows[-4:]:  # of many images of variable length, each decides alike
            rows.append(row)

    with ExitStack() as stack:
        for name, module in backbone.named_modules(prefix=prefix):
            if isinstance(module, LAYERS):
                stack.callback(module.register_forward_pre_hook(enter(name)).remove)
                stack.callback(module.register_forward_hook(leave).remove)
        stack.enter_context(dispatch.listening(record))
        yield


def why_not_fused(module: nn.Module) -> str | None:
    """Why a block calls its modules rather than fused branches, or ``None`` if it does not."""
    return module.why_by_modules() if isinstance(module, (SwinBlock, SwinBlockV2)) else None
