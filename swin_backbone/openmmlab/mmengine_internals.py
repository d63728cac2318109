"""All that the package uses of mmengine and does not find in mmengine's documentation.

Tested with :data:`TESTED`. With another mmengine, each is used as long as it is there; where it is
not, a documented way takes its place, or an error or a warning says what cannot be done.
docs/reliability.md has the table.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps

import mmengine
import mmengine.runner  # registers the strategies
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer, print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import STRATEGIES, Registry
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as loading

from ..checkpoints import CheckpointError
from ..checkpoints.history_buffers import STATISTICS

#: Versions of mmengine (classic line) and of onedl-mmengine (maintained line).
TESTED = ("0.10.7", "0.10.12")
#: Prefixes of mmengine's catalogues, whose loaders look an address up and fetch it.
CATALOGUES = ("modelzoo://", "torchvision://", "open-mmlab://", "openmmlab://", "mmcls://")


def strategy(name: str) -> type:
    """A strategy of mmengine's, whose modules are private, by its registered name.

    Where there is none, a class that says so when it is made: nobody else needs it.
    """
    return STRATEGIES.get(name) or _missing_strategy(name)


def _missing_strategy(name: str) -> type:
    def refuse(self, *args, **kwargs):
        raise RuntimeError(
            f"mmengine {mmengine.__version__} has no {name}; tested with {_versions()}"
        )

    return type(f"No{name}", (), {"__init__": refuse})


def _versions() -> str:
    return " and ".join(TESTED)


def tell_of_children(registry: Registry, tell: Callable[[Registry], None]) -> None:
    """Have ``tell`` called with each child that a registry gets from now on.

    mmengine calls a method of the parent for each. Without that method, the children's constructor
    says whose they are.
    """
    add_child = getattr(registry, "_add_child", None)
    if add_child is None:
        _tell_when_made(registry, tell)
        return

    def add_and_tell(child: Registry) -> None:
        add_child(child)
        tell(child)

    registry._add_child = add_and_tell


def _tell_when_made(registry: Registry, tell: Callable[[Registry], None]) -> None:
    kind = type(registry)
    make = kind.__init__

    @wraps(make)
    def make_and_tell(child, *args, **kwargs) -> None:
        make(child, *args, **kwargs)
        if child in registry.children.values():
            tell(child)

    kind.__init__ = make_and_tell


def loaded_from(runner: object) -> str | None:
    """The checkpoint that a runner loads, where it was told of one; or what its config says."""
    return _told(runner, "load_from")


def is_resuming(runner: object) -> bool:
    """Whether a runner goes on with a run."""
    return bool(_told(runner, "resume"))


def _told(runner: object, name: str) -> object:
    """An argument of a runner, which it keeps under a private name."""
    config = getattr(runner, "cfg", None) or {}
    return getattr(runner, f"_{name}", config.get(name))


def history_statistics() -> frozenset[str]:
    """Names of the statistics that a history of mmengine's can give, users' own among them."""
    return frozenset(getattr(HistoryBuffer(), "_statistics_methods", None) or STATISTICS)


def may_clip_without_a_norm(wrapper: OptimWrapper) -> bool:
    """Whether what a wrapper clips gradients with may return ``None``, as a clip by value does, and
    mmengine then logs no norm. Wrappers with a way of their own, and other mmengines, get one."""
    own = getattr(OptimWrapper, "_clip_grad", None)
    return own is not None and getattr(type(wrapper), "_clip_grad", None) is own


def fetch_catalogues_with(load: Callable) -> None:
    """Have the loaders of mmengine's catalogues fetch with ``load``.

    They call one function of their module by its name. Where they do not, what they do is not
    known, and they are replaced by an error: a file from a server is not to be unpickled.
    """
    if hasattr(loading, "load_from_http"):
        loading.load_from_http = load
    else:
        CheckpointLoader.register_scheme(CATALOGUES, _refuse_catalogues, force=True)


def _refuse_catalogues(filename: str, map_location=None):
    raise CheckpointError(
        f"{filename} cannot be read safely: how mmengine {mmengine.__version__} fetches it is not "
        f"known (tested with {_versions()}); give the address of its file"
    )


#: What an own order of saving and removing checkpoints takes the place of.
SAVES_BY_STEP = hasattr(CheckpointHook, "_save_checkpoint_with_step")


def warn_of_order_of_saving() -> None:
    """Where mmengine saves checkpoints in another way, its own order of steps remains."""
    if not SAVES_BY_STEP:
        print_log(
            f"mmengine {mmengine.__version__} saves checkpoints in a way that is not known (tested "
            f"with {_versions()}): files are written whole, but a run that is killed while it "
            f"saves may have lost its pointer to the last one",
            "current",
            logging.WARNING,
        )
