"""Checks of what users configure: each error names the argument, what it got, what it takes.

:data:`KINDS` says what each argument takes by itself; the functions below it, what arguments take
together.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence

from ..checkpoints import TABLE_INTERPOLATIONS
from ..ops import BACKENDS, SMALL_MAP_RULES
from ..ops.argument_checks import (
    INT32_MAX,
    POSITIVE,
    RATE,
    Dict,
    Each,
    Either,
    Flag,
    Integer,
    Kind,
    OneOf,
    Optional,
    Pair,
    Text,
    is_sequence,
)
from .stage_builder import VERSIONS

#: embed_dims, depths and num_heads of the published architectures (Swin Transformer, section 3.3).
ARCHITECTURES = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}

_STAGES = Each(Integer(1), "integers >= 1, one a stage")
_SIZE = Either(Integer(1), Pair())
_WINDOWS = Each(_SIZE, "one integer >= 1 or two, for all stages or for each")
_LAYER = Dict("a dict with a 'type'")


def _only_entry(name: str, value: object) -> Mapping:
    """A dict, or the one in a list of them, as mmengine has it."""
    if is_sequence(value) and len(value) == 1:
        (value,) = value
    return Dict()(name, value)


#: What each argument of ``SwinBackbone`` takes.
KINDS: dict[str, Kind] = {
    "pretrain_img_size": Pair(),
    "in_channels": Integer(1),
    "embed_dims": Integer(1),
    "patch_size": Pair(),
    "window_size": Either(Pair(), _WINDOWS),
    "mlp_ratio": POSITIVE,
    "depths": _STAGES,
    "num_heads": _STAGES,
    "strides": Each(_SIZE, "integers >= 1, or pairs of them, one a stage"),
    "out_indices": Each(Integer(0), "ascending stage indices"),
    "qkv_bias": Flag(),
    "qk_scale": Optional(POSITIVE),
    "patch_norm": Flag(),
    "drop_rate": RATE,
    "attn_drop_rate": RATE,
    "drop_path_rate": RATE,
    "use_abs_pos_embed": Flag(),
    "act_cfg": _LAYER,
    "norm_cfg": _LAYER,
    "with_cp": Flag(),
    "pretrained": Optional(Text("a path or an address")),
    "frozen_stages": Integer(-1),
    "init_cfg": Optional(_only_entry),
    "arch": Optional(OneOf(tuple(ARCHITECTURES))),
    "backend": OneOf(("auto", *BACKENDS)),
    "mask_padding": Flag(),
    "packed": Flag(),
    "convert_weights": Flag(),
    "version": OneOf(VERSIONS),
    "pretrained_window_sizes": Optional(
        Each(
            Either(Integer(0), Pair(0)),
            "integers >= 0, or pairs of them, one a stage",
            form="have one entry a stage",
        )
    ),
    "extra_norm_every_n_blocks": Integer(0),
    "small_maps": OneOf(SMALL_MAP_RULES),
    "table_interpolation": OneOf(TABLE_INTERPOLATIONS),
    "output_norms": Flag(),
}


def checked(kinds: Mapping[str, Kind], keep: bool = False) -> Callable[[Callable], Callable]:
    """Decorate a function so that it gets what ``kinds`` make of its arguments, or raises.

    Args:
        kinds: by name of the argument; others pass as they are.
        keep: of a constructor: whether the object has them afterwards, as ``arguments``.
    """

    def decorate(function: Callable) -> Callable:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            for name, value in bound.arguments.items():
                if name in kinds:
                    bound.arguments[name] = kinds[name](name, value)
            if keep:
                own = {name: value for name, value in bound.arguments.items() if name in kinds}
                vars(bound.arguments["self"])["arguments"] = own
            return function(*bound.args, **bound.kwargs)

        return call

    return decorate


def resolve_architecture(
    arch: str | None, embed_dims: int, depths: Sequence[int], num_heads: Sequence[int]
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """embed_dims, depths and num_heads: those of ``arch``, or as given where it is ``None``."""
    given = (embed_dims, depths, num_heads)
    if arch is None:
        return given
    defaults, chosen = ARCHITECTURES["tiny"], ARCHITECTURES[arch]
    names = ("embed_dims", "depths", "num_heads")
    for name, value, default, wanted in zip(names, given, defaults, chosen, strict=True):
        if value not in (default, wanted):
            raise ValueError(f"arch={arch!r} sets {name}={wanted}; leave out {name}={value}")
    return chosen


def check_stages(embed_dims: int, depths: Sequence[int], num_heads: Sequence[int]) -> None:
    """Check that depths and heads belong together and divide the channels of each stage."""
    if len(depths) != len(num_heads):
        raise ValueError(
            f"depths and num_heads must have one entry a stage each, "
            f"got depths={tuple(depths)} and num_heads={tuple(num_heads)}"
        )
    if not depths:
        raise ValueError("depths must be integers >= 1, one a stage, got none")
    for stage, heads in enumerate(num_heads):
        channels = embed_dims * 2**stage
        if channels % heads:
            raise ValueError(
                f"num_heads must divide the channels of its stage: stage {stage} has {channels} "
                f"(embed_dims={embed_dims} doubled {stage} times), got num_heads={heads}"
            )


def check_out_indices(out_indices: Sequence[int], num_stages: int) -> tuple[int, ...]:
    """Check that the indices of the returned stages exist, ascend and do not repeat."""
    valid = all(0 <= i < num_stages for i in out_indices)
    if not out_indices or not valid or list(out_indices) != sorted(set(out_indices)):
        raise ValueError(
            f"out_indices must be ascending stage indices in [0, {num_stages - 1}] without "
            f"repetition, got {out_indices}"
        )
    return out_indices


def check_frozen_stages(frozen_stages: int, num_stages: int) -> None:
    """Check that there are as many stages as are to be frozen."""
    if not -1 <= frozen_stages <= num_stages:
        raise ValueError(f"frozen_stages must lie in [-1, {num_stages}], got {frozen_stages}")


def check_hidden_channels(mlp_ratio: float, embed_dims: int) -> None:
    """Check that MLPs have hidden channels, and not more than numbers count."""
    if not 1 <= mlp_ratio * embed_dims <= INT32_MAX:
        raise ValueError(
            f"mlp_ratio must give 1 to 2**31 - 1 hidden channels, got {mlp_ratio} with "
            f"embed_dims={embed_dims}"
        )


def check_position_grid(
    pretrain_img_size: tuple[int, int], patch_size: tuple[int, int], use_abs_pos_embed: bool
) -> tuple[int, int]:
    """Rows and columns of the absolute position embedding; there is one if it is used."""
    grid = tuple(size // patch for size, patch in zip(pretrain_img_size, patch_size, strict=True))
    if use_abs_pos_embed and min(grid) < 1:
        raise ValueError(
            f"pretrain_img_size must be at least patch_size={patch_size} with "
            f"use_abs_pos_embed=True, got {pretrain_img_size}"
        )
    return grid


def check_version_options(
    version: str,
    qk_scale: float | None,
    pretrained_window_sizes: Sequence | None,
    extra_norm_every_n_blocks: int,
) -> None:
    """Check that options which only one version of Swin has are given to that version."""
    if version == "v2" and qk_scale is not None:
        raise ValueError(
            f"version='v2' learns the factor on cosines; leave out qk_scale={qk_scale}"
        )
    if version == "v1" and (pretrained_window_sizes is not None or extra_norm_every_n_blocks):
        raise ValueError(
            f"pretrained_window_sizes and extra_norm_every_n_blocks are options of version='v2', "
            f"got {pretrained_window_sizes} and {extra_norm_every_n_blocks} with version='v1'"
        )


def resolve_window_sizes(
    window_size: tuple[int | tuple[int, int], ...], num_stages: int
) -> tuple[tuple[int, int], ...]:
    """Rows and columns of each stage's windows, from one size for all or one a stage."""
    name = "window_size"
    if len(window_size) <= 2 and all(isinstance(size, int) for size in window_size):
        return (Pair()(name, window_size),) * num_stages
    if len(window_size) != num_stages:
        raise ValueError(
            f"{name} must be one integer, rows and columns, or {num_stages} entries, one a stage, "
            f"got {window_size}"
        )
    return tuple(Pair()(name, size) for size in window_size)


def resolve_pretrained_windows(
    sizes: tuple[int | tuple[int, int], ...] | None, num_stages: int
) -> tuple[tuple[int, int], ...]:
    """Rows and columns of the window each stage was trained with, (0, 0) where not known.

    Raises:
        ValueError: if there is not one for each stage, or one has a zero beside another number.
    """
    if sizes is None:
        return ((0, 0),) * num_stages
    name = "pretrained_window_sizes"
    if len(sizes) != num_stages:
        raise ValueError(f"{name} must have {num_stages} entries, got {sizes}")
    return tuple((0, 0) if size in (0, (0, 0)) else Pair()(name, size) for size in sizes)


def check_strides(
    strides: tuple[int | tuple[int, int], ...], patch_size: tuple[int, int], num_stages: int
) -> list[tuple[int, int]]:
    """Rows and columns of each stride; the first must be that of the patches."""
    if len(strides) < num_stages:
        raise ValueError(f"strides must have {num_stages} entries, got {strides}")
    pairs = [Pair()("strides", stride) for stride in strides]
    if pairs[0] != patch_size:
        raise ValueError(
            f"strides[0] must equal patch_size (patches do not overlap), "
            f"got strides[0]={strides[0]} and patch_size={patch_size}"
        )
    return pairs
