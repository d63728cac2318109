"""Starting a kernel that is compiled by the addresses of its tensors: Triton's internals, all here.

At every launch Triton searches again which of the variants that it has compiled fits the arguments,
and the host needs longer for that than the GPU for a small kernel. What a launch returns can be
started at once, in a way that Triton does not document and that :data:`TESTED` holds for. With
another Triton, or where the environment says ``SWIN_BACKBONE_DIRECT_LAUNCH=0``, every launch is a
plain one: the same kernel, the same bits, more of the host's time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import triton

from ..versions import release

#: ``0`` for plain launches.
VARIABLE = "SWIN_BACKBONE_DIRECT_LAUNCH"
#: First and last version of Triton whose own launch makes the call that is made here: so says the
#: source of 3.3.1, 3.4.0, 3.5.1, 3.6.0, 3.7.0 and 3.8.0. On a GPU it was run with 3.6.
TESTED = ((3, 3), (3, 8))
#: The version whose launchers can be gone past.
THIN = (3, 6)

#: Held by the thread in which Triton loads a kernel. Up to Triton 3.6 each launcher is a module of
#: C that is loaded under the same name as all others, and keeps its functions in what Python holds
#: by that name: of two threads that load at the same time, one can get the other's launcher.
LOADING = threading.RLock()

#: Starts a compiled kernel, given its grid, the tensors' addresses, and what follows them.
Start = Callable[[tuple[int, ...], list[int], tuple], None]


def why_plain() -> str | None:
    """Why launches are plain, or ``None`` if kernels are started directly.

    Raises:
        ValueError: if the environment says neither 0 nor 1.
    """
    mode = os.environ.get(VARIABLE, "1")
    if mode not in ("0", "1"):
        raise ValueError(f"{VARIABLE} must be 0 or 1, got {mode!r}")
    if mode == "0":
        return f"{VARIABLE}=0"
    if not TESTED[0] <= release(triton.__version__)[:2] <= TESTED[1]:
        first, last = (".".join(map(str, version)) for version in TESTED)
        return f"tested with Triton {first} to {last}, this is {triton.__version__}"
    return None


def build_launcher(compiled: object) -> None:
    """Have Triton build what starts a compiled kernel, for its cache of files: a C compiler runs,
    and threads can share that out while another holds :data:`LOADING`. What they load is thrown
    away. Where Triton builds nothing, this is quick.
    """
    if why_plain() is not None:  # built when it is loaded
        return
    make = getattr(triton.runtime.driver.active, "launcher_cls", None)
    source, metadata = (getattr(compiled, name, None) for name in ("src", "metadata"))
    if None not in (make, source, metadata):
        make(source, metadata)


def direct_start(compiled: object, device: int) -> Start | None:
    """How to start a compiled kernel on the current stream, without a further question.

    Args:
        compiled: what its launch returned.
        device: index of the GPU that it is loaded on.

    Returns:
        ``None`` where launches are to be plain, or ``compiled`` is not of the kind that is known.
    """
    if why_plain() is not None:
        return None
    parts = [getattr(compiled, name, None) for name in ("run", "function", "packed_metadata")]
    stream_of = current_stream()
    if None in parts or not callable(parts[0]) or stream_of is None:
        return None
    run, function, metadata = parts
    # Where Triton has nothing to tell its hooks, and no hooks, there is None.
    middle = (metadata, None, None, None)
    if _is_thin(run):  # past a function of Python, whose work there is none of here
        middle = (run.launch_cooperative_grid, run.launch_pdl, None, None, *middle)
        run = run.launch

    def start(grid: tuple[int, ...], pointers: list[int], constant_arguments: tuple) -> None:
        run(*grid, stream_of(device), function, *middle, *pointers, *constant_arguments)

    return start


def _is_thin(run: object) -> bool:
    """Whether a launcher is one that is known, and only gives the kernel no memory of its own."""
    if release(triton.__version__)[:2] != THIN:
        return False
    names = ("launch", "launch_cooperative_grid", "launch_pdl")
    sizes = [getattr(run, f"{kind}_scratch_size", None) for kind in ("global", "profile")]
    return sizes == [0, 0] and all(hasattr(run, name) for name in names)


def current_stream() -> Callable[[int], int] | None:
    """The stream of a device, by its index; ``None`` where Triton does not say."""
    try:
        return triton.runtime.driver.active.get_current_stream
    except (AttributeError, RuntimeError):  # RuntimeError: no driver is active
        return None
