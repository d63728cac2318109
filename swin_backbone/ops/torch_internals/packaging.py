"""What export takes of torch beside :mod:`torch.export`. Nothing public does the same, so a torch
that has it not is told of in one line."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from .choosing import find


def size_one_is_ordinary() -> AbstractContextManager:
    """Within, a trace takes a size of one for a size as others are.

    Raises:
        RuntimeError: if this torch cannot do so.
    """
    config = find("torch.fx.experimental._config")
    if not hasattr(config, "backed_size_oblivious"):
        raise RuntimeError(f"export needs torch 2.9 to 2.14, this is {torch.__version__}")
    return config.patch(backed_size_oblivious=True)


def compile_package(program: torch.export.ExportedProgram, path: str, options: dict) -> None:
    """Compile a program to a package of AOTInductor.

    Args:
        program: the program.
        path: where the package goes, ``.pt2``.
        options: Inductor's.

    Raises:
        RuntimeError: if this torch has no such packages.
    """
    _inductor("aoti_compile_and_package")(program, package_path=path, inductor_configs=options)


def load_package(path: str):
    """The model of a package of AOTInductor, to be called; ``get_metadata()`` has what was stored.

    Raises:
        RuntimeError: if this torch has no such packages.
    """
    return _inductor("aoti_load_package")(path)


def _inductor(name: str):
    function = find(f"torch._inductor.{name}")
    if function is None:
        raise RuntimeError(
            f"packages of AOTInductor need torch 2.6 to 2.14, this is {torch.__version__}; format "
            f"'torch-export' does without"
        )
    return function
