"""What torch's optimizers know of loss scaling."""

from __future__ import annotations

from torch.optim import Optimizer

#: Whether an optimizer's own step looks for infinities in its gradients.
_SCALES = "_step_supports_amp_scaling"


def leave_scaling_to_the_scaler(optimizer: Optimizer) -> None:
    """Have a loss scaler unscale gradients and look for infinities, as it does for optimizers that
    are not fused; where torch has no such mark, it does so by itself."""
    if hasattr(optimizer, _SCALES):
        setattr(optimizer, _SCALES, False)
