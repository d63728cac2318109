"""Spread a model's parameters over processes with PyTorch's ``fully_shard`` (FSDP2): blocks a few
at a time, tensors that come in and go out whole.

    shard(model)  # in every process, before the optimizer is made
    step_on_own_parts(optimizer)  # less for the host to do in each step
    state = whole_state_dict(model)  # as of the model that was not sharded
    model.load_state_dict(state)  # of any layout that the model reads

Needs PyTorch 2.6, where ``fully_shard`` became public.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from ..ops.torch_internals.module_contents import before_loading
from ..ops.torch_internals.optimizers import step_on_parts
from .backbone import SwinBackbone

#: MiB of parameters that are gathered together: see docs/distributed.md for why.
UNIT_MB = 25


def shard(
    model: nn.Module,
    device_type: str | None = None,
    unit_mb: float | None = UNIT_MB,
    param_dtype: torch.dtype | None = None,
    reduce_dtype: torch.dtype | None = None,
    reshard_after_forward: bool = False,
) -> nn.Module:
    """Spread a model's parameters over all processes, in place.

    Blocks of a :class:`SwinBackbone` are gathered in units of neighbours, each while the one before
    it computes, in both passes. All other parameters are one unit, which is gathered first and
    freed last. So heads and necks may call each other as they like, as long as the model's own
    ``forward`` is called, and not a part's.

    Args:
        model: whole, the same in every process, on the device that it is to run on.
        device_type: of that device, ``'cuda'`` or ``'cpu'``; ``None``: of its parameters.
        unit_mb: MiB of parameters of a unit; a block that has more is one by itself. ``None``: a
            backbone, with all that is no block, is one unit, which
            :func:`swin_backbone.graph_backbone` takes; nothing hides its messages then.
        param_dtype: in which the blocks' parameters travel and compute; ``None`` for their own.
            Sharded parameters and the optimizer keep theirs, and so does what is in no unit: batch
            norms compute in float32.
        reduce_dtype: in which gradients are averaged; ``None`` for ``param_dtype``, or their own.
        reshard_after_forward: whether blocks are given back after their forward pass, and gathered
            again for the backward pass. Without, which is not PyTorch's default, they stay until
            then, whole, in ``param_dtype``: Swin-L's take 0.4 GB in bfloat16, less is sent, and the
            host has less to do.

    Returns:
        ``model``, whose parameters are now ``DTensor``.

    Raises:
        ImportError: if PyTorch has no public ``fully_shard``.
        TypeError: if ``reshard_after_forward`` is no ``bool``; PyTorch's numbers are of processes.
        ValueError: if processes have not been joined, ``unit_mb`` is not above 0, or a parameter
            has no axis to spread it along.
    """
    fsdp = _fsdp()
    _check(model, unit_mb, reshard_after_forward)
    device_type = device_type or next(model.parameters()).device.type
    mesh = torch.distributed.init_device_mesh(device_type, (torch.distributed.get_world_size(),))
    for parameter in model.parameters():  # channels-last weights of convolutions are not taken
        parameter.data = parameter.data.contiguous()
    # What a block gets besides maps is not to be cast, and autocast sees to the maps.
    policy = fsdp.MixedPrecisionPolicy(
        param_dtype=param_dtype, reduce_dtype=reduce_dtype, cast_forward_inputs=False
    )
    running: list[nn.Module] = []
    for blocks, runs in units(model, unit_mb):
        fsdp.fully_shard(
            blocks, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard_after_forward
        )
        running += [blocks[0]] if runs else []
        if param_dtype is not None and isinstance(blocks[0], SwinBackbone):
            _compute_in(param_dtype, blocks[0])
    rest = fsdp.MixedPrecisionPolicy(reduce_dtype=reduce_dtype, cast_forward_inputs=False)
    fsdp.fully_shard(model, mesh=mesh, mp_policy=rest)
    for module, following in zip([model, *running], running, strict=False):
        module.set_modules_to_forward_prefetch([following])
    for module in model.modules():
        if any(_is_sharded(p) for p in module.parameters(recurse=False)):
            before_loading(module, _spread_whole_tensors)
    return model


def _compute_in(dtype: torch.dtype, backbone: nn.Module) -> None:
    """Have a backbone whose parameters are all gathered in ``dtype`` take images and return maps in
    their own outside of autocast, as one does of which only blocks are."""
    own = next(backbone.parameters()).dtype

    def before(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        given = {name: _cast(value, own, dtype) for name, value in kwargs.items()}
        return tuple(_cast(value, own, dtype) for value in args), given

    backbone.register_forward_pre_hook(before, with_kwargs=True)
    backbone.register_forward_hook(lambda _, args, maps: [_cast(one, dtype, own) for one in maps])


def _cast(value: object, dtype: torch.dtype, to: torch.dtype) -> object:
    """Tensors of ``dtype`` cast outside of autocast, with the sizes that images bring along; all
    else as it is, for the backbone to judge."""
    if not isinstance(value, Tensor) or value.dtype != dtype:
        return value
    if torch.is_autocast_enabled(value.device.type):
        return value
    cast = value.to(to)
    if hasattr(value, "valid_sizes"):
        cast.valid_sizes = value.valid_sizes
    return cast


def _fsdp():
    try:
        from torch.distributed import fsdp
    except ImportError:  # a torch that was built without
        fsdp = None
    if not hasattr(fsdp, "fully_shard"):
        raise ImportError(f"fully_shard needs PyTorch 2.6 or newer, this is {torch.__version__}")
    if not torch.distributed.is_initialized():
        raise ValueError(
            "parameters are spread over processes, and none have been joined: start with a "
            "launcher, as tools/dist_train.sh CONFIG 1 does for one GPU"
        )
    return fsdp


def _check(model: nn.Module, unit_mb: float | None, reshard_after_forward: bool) -> None:
    if not isinstance(reshard_after_forward, bool):
        raise TypeError(
            f"reshard_after_forward must be True or False, got {reshard_after_forward!r}"
        )
    is_number = isinstance(unit_mb, int | float) and not isinstance(unit_mb, bool)
    if unit_mb is not None and not (is_number and unit_mb > 0):
        raise ValueError(f"unit_mb must be a number above 0, or None, got {unit_mb!r}")
    if unit_mb is None and isinstance(model, SwinBackbone):
        raise ValueError(
            "unit_mb=None makes a backbone one unit of a model, got the backbone alone"
        )
    single = [name for name, parameter in model.named_parameters() if parameter.dim() == 0]
    if single:
        raise ValueError(
            f"fully_shard spreads parameters along their first axis, and {', '.join(single[:3])} "
            f"has none: train this model with DDP"
        )


def units(
    model: nn.Module, unit_mb: float | None = UNIT_MB
) -> Iterator[tuple[list[nn.Module], bool]]:
    """Blocks that are gathered together, neighbours in the order in which they run.

    A unit is full when it has ``unit_mb`` MiB of parameters, so that few of them are started, and
    small ones do not wait for the latency of a message each. With ``None`` it is a whole backbone.

    Returns:
        Blocks, and whether they run; stages past the last that a backbone returns do not.
    """
    for backbone in model.modules():
        if isinstance(backbone, SwinBackbone) and unit_mb is None:
            yield [backbone], True
        elif isinstance(backbone, SwinBackbone):
            stages = list(backbone.stages)
            for part in (stages[: backbone.num_run_stages], stages[backbone.num_run_stages :]):
                runs = part[:1] == stages[:1]
                blocks = [block for stage in part for block in stage.blocks]
                yield from ((unit, runs) for unit in _filled(blocks, unit_mb * 2**20))


def _filled(blocks: Iterable[nn.Module], size: float) -> Iterator[list[nn.Module]]:
    unit: list[nn.Module] = []
    held = 0
    for block in blocks:
        unit.append(block)
        held += sum(p.numel() * p.element_size() for p in block.parameters())
        if held >= size:
            yield unit
            unit, held = [], 0
    if unit:
        yield unit


def _is_sharded(tensor: object) -> bool:
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is spread over processes, gathered, in each of them; others as they are."""
    return tensor.full_tensor() if _is_sharded(tensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this process has of a tensor that is spread over processes; others as they are."""
    return tensor.to_local() if _is_sharded(tensor) else tensor


def spread_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same in each process, as ``like`` is spread, if that is and fits."""
    if not _is_sharded(like) or _is_sharded(tensor) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    # All have read the same, so that each process takes its part without a message.
    mesh, tensor = like.device_mesh, tensor.detach().to(like.device)
    copies = DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return copies.redistribute(mesh, like.placements)


def _spread_whole_tensors(module: nn.Module, state_dict: dict, prefix: str, *_: object) -> None:
    """Before a module loads its tensors: spread those that are whole."""
    for name, parameter in module.named_parameters(recurse=False):
        tensor = state_dict.get(prefix + name)
        if isinstance(tensor, Tensor):
            state_dict[prefix + name] = spread_like(tensor, parameter)


def whole_state_dict(model: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """A copy, on the CPU, of the state dict that the model would have had it not been sharded.

    All processes have to call it, as they gather one tensor after the other.

    Args:
        model: sharded or not.
        keep: whether this process wants the tensors; without, the dictionary is empty.
    """
    return _gathered(model.state_dict(), keep)


def whole_optimizer_state(optimizer: torch.optim.Optimizer, keep: bool = True) -> dict:
    """A copy, on the CPU, of the state dict that the optimizer would have had the model not been
    sharded: that of one process, and of any number.

    All processes have to call it. ``keep`` is as in :func:`whole_state_dict`.
    """
    return _gathered(optimizer.state_dict(), keep)


def _gathered(entries: dict, keep: bool) -> dict:
    """A dictionary of dictionaries, with its tensors whole and on the CPU."""
    found = type(entries)()
    for key, value in entries.items():
        if isinstance(value, dict):
            found[key] = _gathered(value, keep)
        elif isinstance(value, Tensor):
            gathered = whole(value.detach())
            if keep:
                found[key] = gathered.to("cpu", copy=True)
        elif keep:
            found[key] = value
    return found


def spread_optimizer_state(optimizer: torch.optim.Optimizer, state_dict: dict) -> dict:
    """A whole state of an optimizer, of this process's run or of another number of processes, with
    moments spread as this optimizer's parameters are.

    Raises:
        ValueError: if it is of another number of parameters.
    """
    saved = [index for group in state_dict["param_groups"] for index in group["params"]]
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if len(saved) != len(own):
        raise ValueError(f"the optimizer's state is of {len(saved)} parameters, not of {len(own)}")
    like = dict(zip(saved, own, strict=True))
    state = {
        index: {
            name: spread_like(value, like[index]) if isinstance(value, Tensor) else value
            for name, value in moments.items()
        }
        for index, moments in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def step_on_own_parts(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Have ``Adam`` or ``AdamW`` step on this process's parts as on plain tensors, which takes the
    host a third of the time; other optimizers are left as they are.

    What a step computes and what the optimizer saves stay the same.

    Returns:
        ``optimizer``.
    """
    step_on_parts(optimizer, own_part)
    return optimizer


def with_whole_norm(clip: Callable) -> Callable:
    """A function that clips gradients, whose norm is that of all processes, as a plain tensor."""

    def clip_and_tell(*args, **kwargs):
        norm = clip(*args, **kwargs)
        return None if norm is None else whole(norm)

    return clip_and_tell
