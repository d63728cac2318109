"""Which way computes an operation: whether it can run these tensors, and if not, why.

An operation has ways, the best first; each way has one function here that gives the reason why not,
or ``None``. The last way of an operation takes everything. What was decided goes to the debug log,
and to whoever listens (:func:`listening`), which is how :func:`swin_backbone.explain` knows.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib import util
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from . import triton
from .argument_checks import check_choice
from .layer_parameters import compute_dtype
from .symbolic_shapes import has_symbols
from .torch_internals.exporting import is_exporting
from .tracing import counts_flops, in_functorch, why_plain_operators

if TYPE_CHECKING:
    from .reference.window_steps import AttentionInputs
    from .residual_branches import Windows

logger = logging.getLogger(__name__)

#: What kernels compute in.
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
#: Tokens of a window, and channels of a head. Partial sums of a window's pairs take four bytes
#: each, for every head.
MAX_TOKENS, MAX_HEAD_DIM = 1024, 128
#: Offsets within an image are 32 bit integers.
MAX_ELEMENTS = 2**31 - 1
#: Channels of a row up to which a program of a norm's kernel can hold it.
MAX_CHANNELS = 8192
#: Bytes of a patch projection's weights, with sides rounded up to powers of two, that the kernels
#: hold on a card like the H100, and on one with less shared memory.
MAX_PATCH_BYTES, MAX_PATCH_BYTES_IN_LITTLE_ROOM = 256 * 64 * 2, 128 * 64 * 2
#: Images of a batch that kernels of resizing take: the most programs along an axis of their grid.
MAX_IMAGES = 65535

#: Channels of a head that attends to points, up to which a program holds a row of them.
MAX_POINT_CHANNELS = 1024

#: Boxes whose overlaps, a bit for each pair, take half a gigabyte.
MAX_BOXES = 65536

#: Bins of a row of a region that a program holds.
MAX_BINS = 64

#: Order in which ``backend='auto'`` tries the ways of attention, by type of device.
PREFERENCE = {"cuda": ("triton", "sdpa", "reference")}
PREFERENCE_ELSEWHERE = ("cpu", "sdpa", "reference")
#: The same where only plain operators will do. A trace is to serve every size, and PyTorch chooses
#: a kernel of ``sdpa`` by size; not every one of these has every derivative.
PREFERENCE_PLAIN = ("reference",)

# Found out once: torch.compile cannot trace the questions, and Triton too reads its variable once.
HAS_TRITON = util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

_EXPORTED = "an exported model runs where there may be no Triton"
_NO_MATRIX_UNITS = "float32 without tf32 has no matrix units: torch's own matmul is as fast"


class Decision(NamedTuple):
    """What was decided for one call of an operation.

    Attributes:
        operation: its name.
        way: what runs.
        refused: the better ways, each with the reason why it does not run.
    """

    operation: str
    way: str
    refused: tuple[tuple[str, str], ...]


listeners: list[Callable[[Decision], None]] = []


@contextmanager
def listening(listener: Callable[[Decision], None]) -> Iterator[None]:
    """Within, ``listener`` gets every decision."""
    listeners.append(listener)
    try:
        yield
    finally:
        listeners.remove(listener)


def _decide(operation: str, way: str, refused: list[tuple[str, str]]) -> str:
    # Logging is a side effect that torch.compile cannot trace.
    if not torch.compiler.is_compiling():
        if logger.isEnabledFor(logging.DEBUG):
            reasons = "; ".join(f"{name}: {reason}" for name, reason in refused)
            logger.debug("%s by %r; refused: %s", operation, way, reasons or "none")
        for listener in listeners:
            listener(Decision(operation, way, tuple(refused)))
    return way


def _first(
    operation: str, ways: tuple[tuple[str, Callable[..., str | None]], ...], *arguments
) -> str:
    """The first of ``ways`` that takes the arguments."""
    refused: list[tuple[str, str]] = []
    for way, why_not in ways:
        reason = why_not(*arguments)
        if reason is None:
            return _decide(operation, way, refused)
        refused.append((way, reason))
    raise AssertionError(f"no way of {operation} takes everything: {refused}")


def _never(*arguments) -> None:
    """Of a way that takes everything."""


# Attention within windows


def attention(inputs: AttentionInputs, backend: str = "auto") -> str:
    """The way of :func:`swin_backbone.ops.shifted_window_attention`: a name in ``BACKENDS``.

    Whichever was asked for, ``'reference'`` runs where operations are counted, so that the count is
    the same.

    Raises:
        ValueError: if the backend is unknown, or was asked for by name and cannot run the inputs.
    """
    check_backend_name(backend)
    if not torch.compiler.is_compiling() and counts_flops():
        return _decide("attention", "reference", [])
    if backend != "auto":
        reason = ATTENTION[backend](inputs)
        if reason is not None:
            raise ValueError(f"backend={backend!r} cannot run these tensors: {reason}")
        return _decide("attention", backend, [])
    ways = tuple([(name, ATTENTION[name]) for name in _preference(inputs.qkv)])
    return _first("attention", ways, inputs)


def check_backend_name(backend: str) -> None:
    """Raise unless ``backend`` is ``'auto'`` or a known backend."""
    check_choice("backend", backend, ("auto", *ATTENTION))


def _preference(qkv: Tensor) -> tuple[str, ...]:
    if is_exporting() or (has_symbols(qkv) and not qkv.is_cuda):
        return PREFERENCE_PLAIN
    if not torch.compiler.is_compiling() and in_functorch():
        return PREFERENCE_PLAIN
    return PREFERENCE.get(qkv.device.type, PREFERENCE_ELSEWHERE)


def _attention_by_triton(inputs: AttentionInputs) -> str | None:
    return _why_not_qkv(inputs.qkv, inputs.num_heads, inputs.grid.window_size)


def _attention_on_cpu(inputs: AttentionInputs) -> str | None:
    if inputs.valid_sizes is not None:
        return "does not take valid_sizes"
    return why_not_cpu(inputs.qkv)


#: By the name of a way of attention: why it cannot run some inputs, or ``None`` if it can.
ATTENTION: dict[str, Callable[[AttentionInputs], str | None]] = {
    "reference": _never,
    "sdpa": _never,
    "cpu": _attention_on_cpu,
    "triton": _attention_by_triton,
}


def variable_length_attention(
    qkv: Tensor, num_heads: int, window_size: tuple[int, int], backend: str
) -> str:
    """The way of attention on tokens (T, 3 * C) of many images: ``'triton'``, one launch for all,
    or ``'one by one'``, each image by the way that :func:`attention` chooses for it."""
    return _first(
        "variable-length attention", _VARIABLE_LENGTH, qkv, num_heads, window_size, backend
    )


def _variable_length_by_triton(qkv, num_heads, window_size, backend) -> str | None:
    if backend not in ("auto", "triton"):
        return f"backend={backend!r} was asked for"
    if not qkv.is_cuda and backend == "auto":
        return "no CUDA device"
    return _EXPORTED if is_exporting() else _why_not_qkv(qkv, num_heads, window_size)


_VARIABLE_LENGTH = (("triton", _variable_length_by_triton), ("one by one", _never))


# The two residual branches of a block


def residual_branch(
    operation: str, x: Tensor, backend: str, windows: Windows | None = None, hidden: int = 0
) -> str:
    """The way of a residual branch of a V1 block: ``'triton'``, its fused kernels; ``'cpu'``, fused
    with oneDNN; or ``'torch'``, the composition that defines it.

    Args:
        operation: ``'attention branch'`` or ``'MLP branch'``.
        x: (B, H, W, C) or (T, C).
        backend: what the user asked for.
        windows: of an attention branch.
        hidden: channels of an MLP's hidden layer.
    """
    return _first(operation, _BRANCH, x, backend, windows, hidden)


def post_norm_branch(
    operation: str, x: Tensor, backend: str, windows: Windows | None = None, hidden: int = 0
) -> str:
    """The way of a residual branch of a V2 block: ``'triton'``, its fused kernels, or ``'torch'``,
    the composition that defines it. Arguments as of :func:`residual_branch`."""
    return _first(operation, _POST_NORM_BRANCH, x, backend, windows, hidden)


def why_not_fused(
    x: Tensor, backend: str, windows: Windows | None = None, hidden: int = 0
) -> str | None:
    """Why the fused kernels do not run a residual branch, or ``None`` if they do; arguments are
    those of :func:`residual_branch`."""
    if backend not in ("auto", "triton"):
        return f"backend={backend!r} was asked for"
    if not x.is_cuda and backend == "auto":
        return "no CUDA device"
    if is_exporting():
        return _EXPORTED
    reason = why_not_triton(x)
    if reason is not None:
        return reason
    # The rest is the same for maps of the same kind, and is found out once for each.
    answer = _why_not_kind if torch.compiler.is_compiling() else _remembered_why_not_kind
    dtype, image = compute_dtype(x), x.shape[1:]
    exact = x.is_cuda and dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
    return answer(x.dtype, dtype, exact, image[-1], image.numel(), windows, hidden)


def _why_not_kind(
    map_dtype: torch.dtype,
    dtype: torch.dtype,
    exact: bool,
    channels: int,
    elements: int,
    windows: Windows | None,
    hidden: int,
) -> str | None:
    """Of images of ``elements``, whose compute dtype is ``dtype``."""
    if dtype not in DTYPES or map_dtype not in DTYPES:
        return f"computes in {_names(DTYPES)}, got {dtype}"
    if exact:
        return _NO_MATRIX_UNITS
    rest = channels - (1 << (channels.bit_length() - 1))
    if channels < 32 or (rest and (rest < 16 or rest & (rest - 1))):
        return f"channels must be a sum of two powers of two >= 16, got {channels}"
    if channels > 256 and channels % 64:
        return f"more than 256 channels must be a multiple of 64, got {channels}"
    if hidden % 128:
        return f"hidden channels must be a multiple of 128, got {hidden}"
    if windows is None:
        return None
    if 3 * elements > MAX_ELEMENTS:
        return f"an image has at most {MAX_ELEMENTS} elements of qkv, got {3 * elements}"
    return _why_not_windows(windows.window_size, channels // windows.num_heads)


_remembered_why_not_kind = lru_cache(maxsize=1024)(_why_not_kind)


def _branch_on_cpu(x: Tensor, backend: str, windows: Windows | None, hidden: int) -> str | None:
    if backend not in ("auto", "cpu"):
        return f"backend={backend!r} was asked for"
    return why_not_cpu(x)


_BRANCH = (("triton", why_not_fused), ("cpu", _branch_on_cpu), ("torch", _never))


_POST_NORM_BRANCH = (("triton", why_not_fused), ("torch", _never))


# Norms, patch embedding, patch merging


def layer_norm(x: Tensor, channels: int) -> str:
    """The way of a layer norm over rows of ``channels``: ``'triton'`` or ``'torch'``."""
    return _first("layer norm", NORM, x, channels)


def norm_by_triton(x: Tensor, channels: int) -> str | None:
    if not x.is_cuda:
        return "no CUDA device"
    if is_exporting():
        return _EXPORTED
    if x.dtype not in DTYPES:
        return f"computes in {_names(DTYPES)}, got {x.dtype}"
    if channels > MAX_CHANNELS:
        return f"a row has at most {MAX_CHANNELS} channels, got {channels}"
    return why_not_triton(x)


NORM = (("triton", norm_by_triton), ("torch", _never))


def patch_embedding(image: Tensor, weight: Tensor) -> str:
    """The way of patches, projection and norm: ``'triton'``, one kernel, or ``'torch'``.

    Args:
        image: (B, channels, H, W).
        weight: (C, channels, rows of a patch, columns of a patch).
    """
    return _first("patch embedding", _PATCHES, image, weight)


def _patches_by_triton(image: Tensor, weight: Tensor) -> str | None:
    channels = weight.shape[0]
    reason = norm_by_triton(image, channels)
    if reason is not None:
        return reason
    dtype = compute_dtype(image)
    # Beside the weights stands the bias, hence one pixel more.
    sides = 2 ** (channels - 1).bit_length(), 2 ** weight[0].numel().bit_length()
    size = sides[0] * sides[1] * dtype.itemsize
    most = MAX_PATCH_BYTES if triton.tuning.has_room() else MAX_PATCH_BYTES_IN_LITTLE_ROOM
    if size > most:
        return f"weights have at most {most} bytes on this card, got {size}"
    if weight.dtype != dtype and not torch.is_autocast_enabled(image.device.type):
        return f"image and weights have one dtype without autocast, got {dtype}, {weight.dtype}"
    if image.is_cuda and dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32:
        return _NO_MATRIX_UNITS
    return None


_PATCHES = (("triton", _patches_by_triton), ("torch", _never))


def patch_merging(x: Tensor, channels: int) -> str:
    """The way of merging, norm and projection of ``channels``: ``'triton'``, ``'cpu'`` (oneDNN) or
    ``'torch'``."""
    return _first("patch merging", MERGING, x, channels)


def _merging_on_cpu(x: Tensor, channels: int) -> str | None:
    return why_not_cpu(x)


MERGING = (("triton", norm_by_triton), ("cpu", _merging_on_cpu), ("torch", _never))


# Resizing of scores and maps


def resize(x: Tensor, pixels: int) -> str:
    """The way of :func:`swin_backbone.ops.resize_bilinear` to maps of ``pixels``: ``'torch'`` where
    PyTorch's own backward pass gathers, too; ``'triton'``; or ``'matmul'``."""
    return _first("bilinear resizing", _RESIZE, x, pixels)


def _resize_by_torch(x: Tensor, pixels: int) -> str | None:
    return "its backward pass adds up atomically on a GPU" if x.is_cuda and len(x) else None


def _resize_by_triton(x: Tensor, pixels: int) -> str | None:
    if x.shape[:2].numel() > 4 * MAX_IMAGES or pixels > MAX_ELEMENTS:
        return f"takes {4 * MAX_IMAGES} maps of {MAX_ELEMENTS} pixels, got {tuple(x.shape)}"
    return why_not_maps(x)


_RESIZE = (("torch", _resize_by_torch), ("triton", _resize_by_triton), ("matmul", _never))


def resized_scores(logits: Tensor) -> str:
    """The way of losses and class maps from scores (B, K, h, w): ``'triton'`` or ``'tiled'``."""
    return _first("losses and class maps", _SCORES, logits)


def _scores_by_triton(logits: Tensor) -> str | None:
    return why_not_maps(logits) if logits.is_cuda else "no CUDA device"


_SCORES = (("triton", _scores_by_triton), ("tiled", _never))


def why_not_maps(x: Tensor) -> str | None:
    """Why kernels cannot read maps (B, C, h, w), or ``None`` if they can."""
    reason = why_not_triton(x)
    if reason is not None:
        return reason
    if x.dtype not in DTYPES:
        return f"computes in {_names(DTYPES)}, got {x.dtype}"
    if x.shape[1:].numel() > MAX_ELEMENTS or len(x) > MAX_IMAGES:
        shape = tuple(x.shape)
        return f"a batch has at most {MAX_IMAGES} images of {MAX_ELEMENTS} elements, got {shape}"
    return None if len(x) else "there are no images"


# Bytes of images


def photometric(images: Tensor) -> str:
    """The way of :func:`swin_backbone.ops.distort_images`: ``'triton'`` or ``'torch'``."""
    return _first("photometric distortion", _PHOTOMETRIC, images)


def _photometric_by_triton(images: Tensor) -> str | None:
    if not images.is_cuda:
        return "no CUDA device"
    if images.shape[1:].numel() > MAX_ELEMENTS or len(images) > MAX_IMAGES:
        shape = tuple(images.shape)
        return f"a batch has at most {MAX_IMAGES} images of {MAX_ELEMENTS} elements, got {shape}"
    if not images.numel():
        return "there are no pixels"
    return why_not_triton(images)


_PHOTOMETRIC = (("triton", _photometric_by_triton), ("torch", _never))


# Attention to points


def deformable_attention(value: Tensor, locations: Tensor, weights: Tensor) -> str:
    """The way of :func:`swin_backbone.ops.multi_scale_deformable_attention`: ``'triton'``,
    ``'torch'``, or ``'reference'`` where more than first derivatives may be wanted."""
    return _first("deformable attention", _POINTS, value, locations, weights)


def _points_by_triton(value: Tensor, locations: Tensor, weights: Tensor) -> str | None:
    if not value.is_cuda:
        return "no CUDA device"
    return _EXPORTED if is_exporting() else why_not_points(value, locations, weights)


def why_not_points(value: Tensor, locations: Tensor, weights: Tensor) -> str | None:
    """Why kernels cannot attend to points, or ``None`` if they can."""
    reason = why_not_triton(value)
    if reason is not None:
        return reason
    for tensor in (value, locations, weights):
        if tensor.dtype not in DTYPES:
            return f"computes in {_names(DTYPES)}, got {tensor.dtype}"
        if tensor.shape[1:].numel() > MAX_ELEMENTS or len(tensor) > MAX_IMAGES:
            shape = tuple(tensor.shape)
            return f"a batch has at most {MAX_IMAGES} images of {MAX_ELEMENTS} elements: {shape}"
    if value.shape[-1] > MAX_POINT_CHANNELS:
        return f"heads have at most {MAX_POINT_CHANNELS} channels, got {value.shape[-1]}"
    if len(value) * value.shape[1:3].numel() > MAX_ELEMENTS:
        return f"a batch has at most {MAX_ELEMENTS} keys of heads, got {tuple(value.shape)}"
    return None


def _points_by_sampling(value: Tensor, locations: Tensor, weights: Tensor) -> str | None:
    if not torch.compiler.is_compiling() and in_functorch():
        return "PyTorch's sampling has no derivatives but the first"
    return None


_POINTS = (
    ("triton", _points_by_triton),
    ("torch", _points_by_sampling),
    ("reference", _never),
)


# Boxes


def suppression(boxes: Tensor) -> str:
    """The way of :func:`swin_backbone.ops.non_maximum_suppression`: ``'triton'`` or
    ``'reference'``."""
    return _first("non-maximum suppression", _SUPPRESSION, boxes)


def why_not_boxes(boxes: Tensor) -> str | None:
    """Why kernels cannot suppress boxes (N, 4), or ``None`` if they can."""
    if boxes.dtype not in DTYPES:
        return f"computes in {_names(DTYPES)}, got {boxes.dtype}"
    if len(boxes) > MAX_BOXES:
        return f"takes at most {MAX_BOXES} boxes, got {len(boxes)}"
    return why_not_triton(boxes)


def _boxes_by_triton(boxes: Tensor) -> str | None:
    if not boxes.is_cuda:
        return "no CUDA device"
    return _EXPORTED if is_exporting() else why_not_boxes(boxes)


_SUPPRESSION = (("triton", _boxes_by_triton), ("reference", _never))


def roi_align(maps: Sequence[Tensor], rois: Tensor, size: tuple[int, int]) -> str:
    """The way of :func:`swin_backbone.ops.roi_align`: ``'triton'`` or ``'reference'``."""
    return _first("RoI align", _REGIONS, maps, rois, size)


def why_not_regions(maps: Sequence[Tensor], rois: Tensor, size: tuple[int, int]) -> str | None:
    """Why kernels cannot pool regions (K, 5) of maps, or ``None`` if they can."""
    if torch.compiler.is_compiling():
        return "a function of many maps is no operator of torch"
    for x in maps:
        reason = why_not_triton(x)
        if reason is not None:
            return reason
        if x.dtype not in DTYPES:
            return f"computes in {_names(DTYPES)}, got {x.dtype}"
        if x.shape[1:].numel() > MAX_ELEMENTS or len(x) > MAX_IMAGES:
            shape = tuple(x.shape)
            return f"a batch has at most {MAX_IMAGES} images of {MAX_ELEMENTS} elements: {shape}"
    if size[1] > MAX_BINS:
        return f"a row has at most {MAX_BINS} bins, got {size[1]}"
    return None


def _regions_by_triton(maps: Sequence[Tensor], rois: Tensor, size: tuple[int, int]) -> str | None:
    if not rois.is_cuda:
        return "no CUDA device"
    if is_exporting():
        return _EXPORTED
    return why_not_regions(maps, rois, size)


_REGIONS = (("triton", _regions_by_triton), ("reference", _never))


# What several have in common


def why_not_triton(x: Tensor) -> str | None:
    """Why no Triton kernel can run where ``x`` lies, or ``None`` if they can."""
    if not HAS_TRITON:
        return "triton is not installed"
    if not (x.is_cuda or INTERPRETED):
        return f"needs a CUDA device (or TRITON_INTERPRET=1), got {x.device.type}"
    return None if torch.compiler.is_compiling() else why_plain_operators(x)


def why_not_cpu(x: Tensor) -> str | None:
    """Why ``x`` is not computed with by what is fused by hand for CPUs, or ``None`` if it is.

    Compilers fuse plain operators better; exporters, counters of operations and transforms know
    only plain ones.
    """
    if x.device.type != "cpu":
        return f"needs the CPU, got {x.device.type}"
    return "is being compiled" if torch.compiler.is_compiling() else why_plain_operators(x)


def _why_not_qkv(qkv: Tensor, num_heads: int, window_size: tuple[int, int]) -> str | None:
    """Why the kernels cannot run queries, keys and values (..., 3 * C), or ``None``."""
    reason = why_not_triton(qkv)
    if reason is not None:
        return reason
    if qkv.dtype not in DTYPES:
        return f"computes in {_names(DTYPES)}, got {qkv.dtype}"
    if qkv.shape[1:].numel() > MAX_ELEMENTS:
        return f"an image has at most {MAX_ELEMENTS} elements of qkv, got {qkv.shape[1:].numel()}"
    head_dim = qkv.shape[-1] // (3 * num_heads)
    return _why_not_windows(window_size, head_dim)


def _why_not_windows(window_size: tuple[int, int], head_dim: int) -> str | None:
    """Why kernels do not take windows of ``window_size`` tokens, or ``None`` if they do."""
    tokens = window_size[0] * window_size[1]
    if tokens > MAX_TOKENS:
        return f"windows have at most {MAX_TOKENS} tokens, got {tokens}"
    if head_dim > MAX_HEAD_DIM:
        return f"heads have at most {MAX_HEAD_DIM} channels, got {head_dim}"
    return None


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(map(str, dtypes))
