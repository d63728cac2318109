"""What is measured: one architecture at one size, batch, precision and mode."""

from __future__ import annotations

import contextlib
import re
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
VERSIONS = ("v1", "v2")
DROP_PATH_RATE = 0.2
#: What ``--cases all`` measures: every version, window and size that backbones are judged by, and
#: the latency of one image.
ALL = (
    "v1-tiny-w7-b32", "v1-tiny-w12-b32", "v2-tiny-w8-b32", "v2-tiny-w16-b32", "v1-base-w7-b16",
    "v1-large-w12-b8", "v1-tiny-w7-b8-800x1344", "v1-tiny-w7-b1-latency",
)  # fmt: skip


class Architecture(NamedTuple):
    """Channels of stage 0, blocks and heads of each stage, side of a window, version of Swin."""

    embed_dims: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window: int = 7
    version: str = "v1"


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
        window: side of a window, in tokens.
        version: ``'v1'`` or ``'v2'``.
    """

    arch: str
    size: tuple[int, int]
    batch: int
    dtype: str
    mode: str
    device: str
    window: int = 7
    version: str = "v1"

    @property
    def model(self) -> str:
        """Version, architecture and window."""
        return f"{self.version.upper()}-{self.arch[0].upper()}, window {self.window}"

    @property
    def title(self) -> str:
        rows, columns = self.size
        return f"{self.model}, {rows}x{columns}, batch {self.batch}, {self.dtype}, {self.mode}"

    @property
    def architecture(self) -> Architecture:
        """The published architecture of the name, with the case's windows and version."""
        return Architecture(*ARCHITECTURES[self.arch], self.window, self.version)

    def images(self) -> torch.Tensor:
        """Random normalised images (batch, 3, rows, columns)."""
        return torch.randn(self.batch, 3, *self.size, device=self.device)

    def map_shapes(self) -> list[tuple[int, ...]]:
        """Shapes that the four maps must have."""
        channels = self.architecture.embed_dims
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


_NAME = re.compile(
    rf"(?P<version>{'|'.join(VERSIONS)})-(?P<arch>{'|'.join(ARCHITECTURES)})-w(?P<window>[1-9]\d*)"
    r"(-b(?P<batch>[1-9]\d*))?(-(?P<rows>[1-9]\d*)x(?P<columns>[1-9]\d*))?"
    rf"(-(?P<mode>{'|'.join(MODES)}))?"
)


def named_cases(name: str, dtype: str, device: str) -> list[Case]:
    """Cases of a name such as ``v1-tiny-w7``, ``v2-tiny-w16-b8``, ``v1-base-w7-800x1344-latency``.

    Without a batch there are 32 images on a GPU and 1 on the CPU; without a size they have 512x512
    pixels; without a mode there are two cases, forward and training.

    Raises:
        ValueError: for another form.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"must be such as v1-tiny-w7, v2-tiny-w16-b8 or v1-base-w7-b1-800x1344-latency, with "
            f"versions {', '.join(VERSIONS)}, architectures {', '.join(ARCHITECTURES)} and modes "
            f"{', '.join(MODES)}, got {name!r}"
        )
    batch = int(match["batch"] or (32 if device == "cuda" else 1))
    size = (int(match["rows"] or 512), int(match["columns"] or 512))
    modes = (match["mode"],) if match["mode"] else ("forward", "train")
    window, version = int(match["window"]), match["version"]
    return [
        Case(match["arch"], size, batch, dtype, mode, device, window, version) for mode in modes
    ]


@contextlib.contextmanager
def matmul_precision(dtype: str):
    """Let float32 products use TensorFloat-32 for ``'tf32'``, and not otherwise."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
