"""How far tensors are from exact ones, and when that is as near as it has to be."""

import math

import torch

#: Of a tensor with fewer numbers, two errors of one size may be far apart by chance: then errors
#: are compared over several draws.
ENOUGH_NUMBERS = 100
#: Norm that a tensor has at least: what is zero but for rounding has no relative error.
LEAST_NORM = 1e-3


def relative_error(actual, exact):
    """Norm of the difference over that of ``exact``, in float64."""
    return ((actual.double() - exact.double()).norm() / exact.double().norm()).item()


def pooled_errors(actual, exact, least_norm=LEAST_NORM):
    """Relative error of each tensor over all draws, as if it were one tensor.

    A draw in which the exact values nearly cancel, so that rounding outweighs them, then counts by
    its size.

    Args:
        actual, exact: for each draw, the same number of tensors.
        least_norm: of the exact values of a tensor.
    """
    draws = [
        [((a.double() - b.double()).norm(), b.double().norm()) for a, b in zip(*pair, strict=True)]
        for pair in zip(actual, exact, strict=True)
    ]
    return [
        _norm(difference for difference, _ in tensor) / max(_norm(n for _, n in tensor), least_norm)
        for tensor in zip(*draws, strict=True)
    ]


def _norm(parts):
    return math.hypot(*(part.item() for part in parts))


def draws_for(numbers):
    """How many draws of ``numbers`` numbers are enough to compare errors."""
    return math.ceil(ENOUGH_NUMBERS / numbers)


def assert_small(errors, bound):
    """Each at most ``bound``. Python's ``max`` would pass over a NaN."""
    errors = list(errors)
    assert all(error <= bound for error in errors), errors


def assert_as_good(kernels, reference, dtype):
    """Within 1.5 times the reference's own error in that dtype; 1e-5 is enough in float32, as sums
    over some hundred rounded terms give.

    Args:
        kernels, reference: relative errors of the same tensors.
    """
    enough = 1e-5 if dtype == torch.float32 else 0
    pairs = zip(kernels, reference, strict=True)
    assert all(a <= max(1.5 * b + 1e-6, enough) for a, b in pairs), (kernels, reference)
