"""Checks of what users configure: each error names the argument, what it got, what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

#: embed_dims, depths and num_heads of the published architectures (Swin Transformer, section 3.3).
ARCHITECTURES = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}


def resolve_architecture(
    arch: str | None, embed_dims: int, depths: Sequence[int], num_heads: Sequence[int]
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """embed_dims, depths and num_heads: those of ``arch``, or as given where it is ``None``."""
    given = (embed_dims, tuple(depths), tuple(num_heads))
    if arch is None:
        return given
    if arch not in ARCHITECTURES:
        known = ", ".join(map(repr, ARCHITECTURES))
        raise ValueError(f"arch must be one of {known} or None, got {arch!r}")
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
    if not depths or min(depths) < 1:
        raise ValueError(f"depths must be integers >= 1, got {tuple(depths)}")
    for stage, heads in enumerate(num_heads):
        channels = embed_dims * 2**stage
        if heads < 1 or channels % heads:
            raise ValueError(
                f"num_heads must divide the channels of its stage: stage {stage} has {channels} "
                f"(embed_dims={embed_dims} doubled {stage} times), got num_heads={heads}"
            )


def check_out_indices(out_indices: Sequence[int], num_stages: int) -> tuple[int, ...]:
    """Check that the indices of the returned stages exist, ascend and do not repeat."""
    out_indices = tuple(out_indices)
    valid = all(isinstance(i, Integral) and 0 <= i < num_stages for i in out_indices)
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


def check_rate(name: str, value: float) -> None:
    """Check a probability of dropping."""
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} must lie in [0, 1), got {value}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Check that a value is one of a few names."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


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
    if not isinstance(extra_norm_every_n_blocks, Integral):
        raise TypeError(
            f"extra_norm_every_n_blocks must be an integer, got {extra_norm_every_n_blocks!r}"
        )
    if extra_norm_every_n_blocks < 0:
        raise ValueError(f"extra_norm_every_n_blocks must be >= 0, got {extra_norm_every_n_blocks}")
    if version == "v1" and (pretrained_window_sizes is not None or extra_norm_every_n_blocks):
        raise ValueError(
            f"pretrained_window_sizes and extra_norm_every_n_blocks are options of version='v2', "
            f"got {pretrained_window_sizes} and {extra_norm_every_n_blocks} with version='v1'"
        )


def resolve_window_sizes(
    window_size: int | Sequence[int] | Sequence[Sequence[int]], num_stages: int
) -> tuple[tuple[int, int], ...]:
    """Rows and columns of each stage's windows, from one size for all or one a stage."""
    name = "window_size"
    per_stage = (
        isinstance(window_size, Sequence)
        and not isinstance(window_size, str)
        and (len(window_size) > 2 or any(isinstance(size, Sequence) for size in window_size))
    )
    if not per_stage:
        return (to_pair(name, window_size),) * num_stages
    if len(window_size) != num_stages:
        raise ValueError(
            f"{name} must be one integer, rows and columns, or {num_stages} entries, one a stage, "
            f"got {tuple(window_size)}"
        )
    return tuple(to_pair(name, size) for size in window_size)


def resolve_pretrained_windows(
    sizes: Sequence[int | Sequence[int]] | None, num_stages: int
) -> tuple[tuple[int, int], ...]:
    """Rows and columns of the window each stage was trained with, (0, 0) where not known.

    Raises:
        TypeError: if ``sizes`` is no sequence of integers or pairs.
        ValueError: if there is not one for each stage, or a number is negative.
    """
    if sizes is None:
        return ((0, 0),) * num_stages
    name = "pretrained_window_sizes"
    if isinstance(sizes, str) or not isinstance(sizes, Sequence):
        raise TypeError(f"{name} must have one entry a stage, got {sizes!r}")
    if len(sizes) != num_stages:
        raise ValueError(f"{name} must have {num_stages} entries, got {tuple(sizes)}")
    return tuple((0, 0) if size in (0, (0, 0), [0, 0]) else to_pair(name, size) for size in sizes)


def check_strides(
    strides: Sequence[int], patch_size: tuple[int, int], num_stages: int
) -> list[tuple[int, int]]:
    """Rows and columns of each stride; the first must be that of the patches."""
    if len(strides) < num_stages:
        raise ValueError(f"strides must have {num_stages} entries, got {tuple(strides)}")
    pairs = [to_pair("strides", stride) for stride in strides]
    if pairs[0] != patch_size:
        raise ValueError(
            f"strides[0] must equal patch_size (patches do not overlap), "
            f"got strides[0]={strides[0]} and patch_size={patch_size}"
        )
    return pairs


def to_pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """Rows and columns from one positive integer or two.

    Raises:
        TypeError: if ``value`` is neither.
        ValueError: if a number is below 1, or there are not one or two of them.
    """
    values = (value,) if isinstance(value, Integral) else value
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{name} must be an integer or two, got {value!r}")
    if not all(isinstance(v, Integral) for v in values):
        raise TypeError(f"{name} must be an integer or two, got {value!r}")
    if len(values) not in (1, 2) or min(values) < 1:
        raise ValueError(f"{name} must be one integer >= 1 or two, got {value!r}")
    return int(values[0]), int(values[-1])
