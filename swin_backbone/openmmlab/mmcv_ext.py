"""Let OpenMMLab import, and detectors run, where mmcv has no compiled ops.

``mmcv.ops`` asks for its compiled extension ``mmcv._ext`` as soon as it is imported, and
``mmseg.models`` imports it, although UPerNet and FPN call no op of it. Wheels without the
extension (mmcv-lite, and onedl-mmcv as pip builds it by default) therefore cannot import
mmseg's models at all, or mmdet's.

We append a finder to ``sys.meta_path``. Python asks it only after every other finder said that
there is no ``mmcv._ext``, so a compiled mmcv is never touched, and one that is compiled but
broken still says why. Where it is asked, it serves a module in which every op exists: those
that detectors with a Swin reach are in :mod:`.served_ops`, and calling another raises
:class:`MissingOpError`. mmengine asks whether the module is there before it looks for
mmcv's layers in a model (``mmcv_full_available``); it is, and their classes are, so that works.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from .served_ops import SERVED

EXTENSION = "mmcv._ext"


class MissingOpError(NotImplementedError):
    """A compiled op of mmcv was called, and this mmcv has none."""


def _missing_op(name: str):
    def op(*args, **kwargs):
        raise MissingOpError(
            f"mmcv's compiled op {name!r} was called, but this mmcv was installed without "
            f"compiled ops. To get them: with torch and setuptools installed, run "
            f"'pip install --no-cache-dir --no-build-isolation --no-binary onedl-mmcv onedl-mmcv' "
            f"(classic line: --no-binary mmcv mmcv==2.1.0, setuptools<81)"
        )

    op.__name__ = op.__qualname__ = name
    return op


def _no_compiler() -> str:
    return "n/a (no compiled ops)"


class _Extension(ModuleType):
    """A module in which every op exists, and those of :mod:`.served_ops` work."""

    # Not ops: mmcv.utils.collect_env asks for these to describe the installation.
    get_compiler_version = staticmethod(_no_compiler)
    get_compiling_cuda_version = staticmethod(_no_compiler)

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return SERVED.get(name) or _missing_op(name)


class FallbackFinder(MetaPathFinder, Loader):
    """Finds ``mmcv._ext`` and nothing else."""

    def find_spec(self, fullname, path=None, target=None):
        return ModuleSpec(fullname, self, origin=__file__) if fullname == EXTENSION else None

    def create_module(self, spec):
        return _Extension(spec.name)

    def exec_module(self, module):
        pass  # nothing to run: the ops are made when they are looked up


def install_fallback() -> None:
    """Serve ``mmcv._ext`` from here, if nothing else does. Calling it again changes nothing."""
    if not any(isinstance(finder, FallbackFinder) for finder in sys.meta_path):
        sys.meta_path.append(FallbackFinder())
