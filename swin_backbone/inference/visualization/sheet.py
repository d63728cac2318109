"""One picture of what a backbone sees in an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from ...model import AttentionCall
from ..preprocessing import Preprocessing
from .attention_maps import bias_maps, token_attention
from .feature_maps import norms, principal_colours, receptive_field
from .segmentation import BACKGROUND, INK


class Panel(NamedTuple):
    """One cell of the sheet.

    Attributes:
        caption: what it shows.
        picture: (H, W, 3) uint8, or ``None`` for a cell that stays empty.
    """

    caption: str
    picture: np.ndarray | None


def feature_sheet(
    model: nn.Module,
    preprocessing: Preprocessing,
    image: np.ndarray,
    pixel: tuple[int, int] | None = None,
    cell: int = 260,
) -> Image.Image:
    """Features, norms, receptive fields, attention and biases of one image, a column a stage.

    Args:
        model: a backbone in evaluation mode.
        preprocessing: its normalisation.
        image: (H, W, 3) uint8 RGB.
        pixel: row and column of the pixel whose token's attention is shown; the centre by default.
        cell: side of the square that each panel is fitted into, pixels.

    Raises:
        ValueError: if the pixel is not in the image.
    """
    height, width = image.shape[:2]
    row, column = pixel or (height // 2, width // 2)
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"pixel must lie in the image of {height}x{width}, got {pixel}")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    images = preprocessing.normalise(pixels.to(next(model.parameters()).device))
    with torch.no_grad():
        calls, before_norm, maps = record_stages(model, images)
    info = model.features_info
    titles = [f"stage {entry.stage} (1/{entry.stride[0]})" for entry in info]
    rows = [
        ("principal components", [_to_bytes(principal_colours(m[0].cpu())) for m in maps]),
        ("norms", [_heat(norms(before_norm[entry.stage][0])) for entry in info]),
        (
            "receptive field",
            [_heat(receptive_field(model, images, i) ** 0.25) for i in range(len(maps))],
        ),
    ]
    for name, block in (("regular window", 0), ("shifted window", 1)):
        panels = [
            _attention_panel(image, calls[entry.stage], block, (row, column), entry.stride)
            for entry in info
        ]
        rows.append((name, panels))
    biases = [_tile(bias_maps(calls[entry.stage][0])) for entry in info]
    rows.append(("position bias by head", biases))
    first = mark(image, (row, column))
    grid = [[Panel(f"{height}x{width}, the token's pixel", first)]]
    grid += [
        [Panel(f"{title}: {name}", p) for title, p in zip(titles, panels, strict=True)]
        for name, panels in rows
    ]
    return draw_grid(grid, cell)


def record_stages(
    model: nn.Module, images: Tensor
) -> tuple[dict[int, list[AttentionCall]], dict[int, Tensor], list[Tensor]]:
    """Run a backbone, and keep what happens inside.

    Returns:
        By stage, the calls of its first two attentions (one where it has one block); by stage, its
        map before the norm, (B, C, H, W); and the maps that the backbone returns.
    """
    inputs: dict[tuple[int, int], tuple] = {}
    before_norm: dict[int, Tensor] = {}
    handles = []
    for stage, module in enumerate(model.stages):
        handles.append(module.blocks[-1].register_forward_hook(_keep_output(before_norm, stage)))
        for index, block in enumerate(module.blocks[:2]):
            handles.append(block.register_forward_pre_hook(_keep_input(inputs, (stage, index))))
    packed, model.packed = model.packed, False  # the same maps, from tokens in their place
    try:
        maps = model(images)
    finally:
        model.packed = packed
        for handle in handles:
            handle.remove()
    calls: dict[int, list[AttentionCall]] = {}
    for (stage, index), (x, layout, *_) in inputs.items():
        block = model.stages[stage].blocks[index]
        with torch.no_grad():
            call = block.attn.attention_call(block.attention_input(x), layout)
        calls.setdefault(stage, []).append(call)
    return calls, before_norm, maps


def _keep_input(kept: dict, key: tuple[int, int]):
    def hook(_module, arguments):
        kept[key] = arguments

    return hook


def _keep_output(kept: dict, stage: int):
    def hook(_module, _arguments, output):
        kept[stage] = output.permute(0, 3, 1, 2)

    return hook


def _attention_panel(image, calls, block, pixel, stride) -> np.ndarray | None:
    """The image, bright where the token looks; ``None`` where the stage has no such block."""
    if block >= len(calls):
        return None
    token = (pixel[0] // stride[0], pixel[1] // stride[1])
    weights = token_attention(calls[block], token).mean(dim=0)
    weights = (weights / weights.max()).cpu().numpy()
    grown = weights.repeat(stride[0], axis=0).repeat(stride[1], axis=1)
    grown = grown[: image.shape[0], : image.shape[1], None]
    colours = matplotlib.colormaps["inferno"](grown[..., 0])[..., :3] * 255
    inside = (grown > 0) * 0.75
    return mark((image * 0.35 * (1 - inside) + colours * inside).astype(np.uint8), pixel)


def mark(image: np.ndarray, pixel: tuple[int, int]) -> np.ndarray:
    """``image`` with a ring around a pixel."""
    picture = Image.fromarray(image)
    row, column = pixel
    radius = max(image.shape[0] // 60, 3)
    box = (column - radius, row - radius, column + radius, row + radius)
    ImageDraw.Draw(picture).ellipse(box, outline=(0, 255, 160), width=max(radius // 3, 1))
    return np.asarray(picture)


def _heat(values: Tensor) -> np.ndarray:
    """(H, W) to colours, from its smallest to its largest value."""
    values = values.detach().float().cpu()
    values = (values - values.min()) / (values.max() - values.min()).clamp_min(1e-12)
    return (matplotlib.colormaps["viridis"](values.numpy())[..., :3] * 255).astype(np.uint8)


def _to_bytes(colours: Tensor) -> np.ndarray:
    return (colours.numpy() * 255).round().astype(np.uint8)


def _tile(maps: Tensor) -> np.ndarray:
    """(N, H, W) side by side in a near-square grid, each with colours of its own."""
    columns = int(np.ceil(len(maps) ** 0.5))
    gap, (height, width) = 1, maps.shape[1:]
    rows = -(-len(maps) // columns)
    canvas = np.full((rows * (height + gap), columns * (width + gap), 3), 255, np.uint8)
    for index, one in enumerate(maps):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = _heat(one)
    return canvas


def draw_grid(rows: Sequence[Sequence[Panel]], cell: int) -> Image.Image:
    """Panels in rows, each with its caption above."""
    gap, head = 8, 22
    columns = max(len(row) for row in rows)
    heights = [max(picture.size[1] for picture in _fitted(row, cell)) for row in rows]
    size = (columns * (cell + gap) + gap, sum(heights) + len(rows) * (head + gap) + gap)
    sheet = Image.new("RGB", size, BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, (panel, picture) in enumerate(zip(row, _fitted(row, cell), strict=True)):
            left = gap + column * (cell + gap)
            draw.text((left, top + 4), panel.caption, INK, font)
            sheet.paste(picture, (left, top + head))
        top += height + head + gap
    return sheet


def _fitted(row: Sequence[Panel], cell: int) -> Iterator[Image.Image]:
    """Each picture with its longer side as long as the cell."""
    for panel in row:
        if panel.picture is None:
            yield Image.new("RGB", (1, 1), BACKGROUND)
            continue
        picture = Image.fromarray(panel.picture)
        ratio = cell / max(picture.size)
        size = [max(1, round(length * ratio)) for length in picture.size]
        way = Image.Resampling.NEAREST if ratio > 1 else Image.Resampling.BILINEAR
        yield picture.resize(size, way)
