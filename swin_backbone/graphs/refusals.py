"""Why a model's steps cannot be recorded, as far as that is seen beforehand."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..ops.torch_internals.distributed_models import has_communication_hook
from ..ops.torch_internals.module_contents import why_watched


def why_not_recorded(
    model: nn.Module, called: Sequence[nn.Module] = (), gathered: bool = False
) -> str | None:
    """Why what a model computes cannot be recorded, or ``None``.

    Args:
        model: not wrapped for several processes.
        called: modules in it whose hooks are run as always, since their calls are not recorded.
        gathered: whether parameters that are spread over processes will be whole when it is called.
    """
    parameters = list(model.parameters())
    devices = {tensor.device for tensor in (*parameters, *model.buffers())}
    if len(devices) != 1:
        places = ", ".join(sorted(map(str, devices))) or "no device"
        return f"the model lies on {places}, not on one device"
    odd = next((type(p).__name__ for p in parameters if type(p) is not nn.Parameter), None)
    if odd is not None and not gathered:
        return f"parameters are of type {odd}, as sharded ones are"
    for name, module in model.named_modules():
        watched = None if module in called else why_watched(module)
        if watched is not None:
            return f"{name or 'the model'} {watched}, which a replay would not call"
    return None


def why_not_averaged(wrapper: DistributedDataParallel, has_hook_of_ours: bool) -> str | None:
    """Why gradients cannot be averaged in the place of this wrapper, or ``None``.

    Args:
        wrapper: of the model.
        has_hook_of_ours: whether its communication hook is one that graphs take the place of.
    """
    broadcasts = getattr(wrapper, "forward_sync_buffers", wrapper.broadcast_buffers)  # torch 2.14
    if broadcasts and any(True for _ in wrapper.module.buffers()):
        return "DistributedDataParallel has broadcast_buffers=True"
    if getattr(wrapper, "detect_anomalous_params", False):
        return "detect_anomalous_params looks at a pass that is not replayed"
    if has_communication_hook(wrapper) and not has_hook_of_ours:
        return "DistributedDataParallel has a communication hook"
    return None
