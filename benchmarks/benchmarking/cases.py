"""What is measured: one architecture at one size, batch, precision and mode."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import NamedTuple

import torch

from swin_backbone.model.arguments import ARCHITECTURES

#: Number format by name. ``tf32`` is float32 with matrix products in TensorFloat-32.
DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
MODES = ("forward", "train", "latency")
WINDOW = 7
DROP_PATH_RATE = 0.2


class Architecture(NamedTuple):
    """Channels of stage 0, and blocks and heads of each stage."""

    embed_dims: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]

    @classmethod
    def named(cls, name: str) -> Architecture:
        """A published architecture, ``'tiny'`` to ``'large'``."""
        return cls(*ARCHITECTURES[name])


@dataclass(frozen=True)
class Case:
    """One thing to compare implementations at.

    Args:
        arch: name of the architecture.
        size: rows and columns of the images, in pixels.
        batch: images at a time.
        dtype: a name in :data:`DTYPES`; half precisions run under autocast.
        mode: ``'forward'`` (evaluation mode, no gradients), ``'train'`` (zero the gradients,
            forward, mean of the maps, backward) or ``'latency'`` (forward, meant for one image).
        device: ``'cuda'`` or ``'cpu'``.
    """

    arch: str
    size: tuple[int, int]
    batch: int
    dtype: str
    mode: str
    device: str

    @property
    def title(self) -> str:
        rows, columns = self.size
        return (
            f"Swin-{self.arch[0].upper()} {rows}x{columns}, batch {self.batch}, {self.dtype}, "
            f"{self.mode}"
        )

    def images(self) -> torch.Tensor:
        """Random normalised images (batch, 3, rows, columns)."""
        return torch.randn(self.batch, 3, *self.size, device=self.device)

    def map_shapes(self) -> list[tuple[int, ...]]:
        """Shapes that the four maps must have."""
        channels = Architecture.named(self.arch).embed_dims
        shapes = []
        for stage in range(4):
            stride = 4 * 2**stage
            rows, columns = (-(-pixels // stride) for pixels in self.size)
            shapes.append((self.batch, channels * 2**stage, rows, columns))
        return shapes

    def autocast(self, cache_enabled: bool = True) -> contextlib.AbstractContextManager:
        """Autocast of the half precisions; nothing for float32."""
        dtype = DTYPES[self.dtype]
        if dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device, dtype, cache_enabled=cache_enabled)


@contextlib.contextmanager
def matmul_precision(dtype: str):
    """Let float32 products use TensorFloat-32 for ``'tf32'``, and not otherwise."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
