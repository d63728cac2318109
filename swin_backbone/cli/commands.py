"""How every command ends: what a user can get wrong is one line and exit status 2.

What is a bug keeps its traceback. An error counts as the user's if it is

- an ``OSError``: a file, a folder, a disk, a port;
- a ``ValueError``, ``TypeError`` or ``ImportError`` that a ``raise`` statement of this project
  throws, so with words meant for users. One that Python itself raises in the project's code
  (``None + 1``, ``int("x")``) is a bug, and so is an error that was caused by such a one;
- a ``ModuleNotFoundError`` for a package of one of the project's extras, which the line names;
- an error of mmengine's registry, which builds what a config names.

``SWIN_BACKBONE_TRACEBACK=1`` shows the traceback of each.
"""

from __future__ import annotations

import argparse
import dis
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from ..extras import extra_of, how_to_install
from ..version import __version__

VARIABLE = "SWIN_BACKBONE_TRACEBACK"
STATUS = 2

NAME = "swin-backbone"
FOLDER = Path(__file__).resolve().parent
PACKAGE = FOLDER.parent
#: Where the project's code lies; the last two beside the package, in a checkout.
OUR_FOLDERS = tuple(map(str, (PACKAGE, PACKAGE.parent / "benchmarks", PACKAGE.parent / "examples")))
_REGISTRY = f"{os.sep}mmengine{os.sep}registry{os.sep}"


def program_name(file: str | Path) -> str:
    """What messages call the command of a file: ``swin-backbone NAME``, or the file's own name."""
    path = Path(file)
    if path.suffix == ".py" and path.resolve().parent == FOLDER:
        return f"{NAME} {path.stem.replace('_', '-')}"
    return path.name


class Parser(argparse.ArgumentParser):
    """An ``argparse`` parser whose errors are one line, as those of :func:`command` are.

    Args:
        prog: the command's file, or its name.
        options: of :class:`argparse.ArgumentParser`.
    """

    def __init__(self, prog: str | Path, **options):
        super().__init__(prog=program_name(prog), **options)
        version = f"{NAME} {__version__}"
        self.add_argument(
            "--version", action="version", version=version, help="print the version, and exit"
        )

    def error(self, message: str):
        """Leave with one line; ``--help`` has the usage."""
        self.exit(STATUS, _line(self.prog, f"{message} (--help shows the usage)"))


@contextmanager
def one_line_errors(prog: str) -> Iterator[None]:
    """Around what a command does: leave with a line where the user is at fault.

    Raises:
        SystemExit: with 2, after the line is printed.
    """
    try:
        yield
    except Exception as error:
        if os.environ.get(VARIABLE, "") not in ("", "0") or not is_users_error(error):
            raise
        sys.stdout.flush()
        sys.stderr.write(_line(prog, _text(error)))
        raise SystemExit(STATUS) from error


def command(main: Callable[[Sequence[str] | None], int | None]):
    """Let a command's ``main(argv=None)`` leave with a line where the user is at fault.

    The decorated function returns the exit status, and raises ``SystemExit`` as argparse does.
    """
    prog = program_name(main.__code__.co_filename)

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        with one_line_errors(prog):
            return main(None if argv is None else [str(word) for word in argv]) or 0

    return run


def is_users_error(error: BaseException) -> bool:
    """Whether a command's user is at fault, and not the project; see the head of this module."""
    if isinstance(error, ModuleNotFoundError) and extra_of(error.name):
        return True
    chain = list(_causes(error))
    if any(_is_bug(one) for one in chain):
        return False
    if isinstance(error, OSError) or _REGISTRY in _place(chain[-1])[0]:
        return True
    file, is_raised = _place(error)
    known = isinstance(error, (ValueError, TypeError, ImportError))
    return known and is_raised and _is_ours(file)


def _is_bug(error: BaseException) -> bool:
    """Whether Python itself raised it in the project's code."""
    file, is_raised = _place(error)
    return _is_ours(file) and not is_raised and not isinstance(error, (OSError, ImportError))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what ``raise ... from`` names as its cause, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


def _place(error: BaseException) -> tuple[str, bool]:
    """The file that an error comes from, and whether a ``raise`` statement threw it."""
    innermost: TracebackType | None = error.__traceback__
    if innermost is None:
        return "", True
    while innermost.tb_next is not None:
        innermost = innermost.tb_next
    code = innermost.tb_frame.f_code
    opcode = dis.opname[code.co_code[innermost.tb_lasti]]
    return os.path.abspath(code.co_filename), opcode in ("RAISE_VARARGS", "RERAISE")


def _is_ours(file: str) -> bool:
    return any(file.startswith(folder + os.sep) for folder in OUR_FOLDERS)


def _text(error: BaseException) -> str:
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])
    hint = ""
    if isinstance(error, ModuleNotFoundError) and "pip install" not in str(error):
        extra = extra_of(error.name)
        hint = f": {how_to_install(extra)}" if extra else ""
    return f"{error}{hint}" or type(error).__name__


def _line(prog: str, message: str) -> str:
    return f"{prog}: error: {' '.join(message.split())}\n"
