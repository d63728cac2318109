"""How every command of this folder ends: what a user can get wrong is one line and exit status 2.

What is a bug keeps its traceback. An error counts as the user's if it is

- an ``OSError``: a file, a folder, a disk, a port;
- a ``ValueError``, ``TypeError`` or ``ImportError`` that a ``raise`` statement of this project
  throws, so with words meant for users. One that Python itself raises in the project's code
  (``None + 1``, ``int("x")``) is a bug, and so is an error that was caused by such a one;
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
from pathlib import Path
from types import TracebackType

VARIABLE = "SWIN_BACKBONE_TRACEBACK"
STATUS = 2

TOOLS = Path(__file__).resolve().parent
#: Where the project's code lies; an installed package may lie elsewhere than its tools.
OUR_FOLDERS = (str(TOOLS), str(TOOLS.parent / "swin_backbone"))
_REGISTRY = f"{os.sep}mmengine{os.sep}registry{os.sep}"


class Parser(argparse.ArgumentParser):
    """An ``argparse`` parser whose errors are one line, as those of :func:`command` are.

    Args:
        prog: the command's file.
        options: of :class:`argparse.ArgumentParser`.
    """

    def __init__(self, prog: str | Path, **options):
        super().__init__(prog=Path(prog).name, **options)

    def error(self, message: str):
        """Leave with one line; ``--help`` has the usage."""
        self.exit(STATUS, _line(self.prog, f"{message} (--help shows the usage)"))


def command(main: Callable[[Sequence[str] | None], int | None]):
    """Let a command's ``main(argv=None)`` leave with a line where the user is at fault.

    The decorated function returns the exit status, and raises ``SystemExit`` as argparse does.
    """
    prog = Path(main.__code__.co_filename).name

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            return main(None if argv is None else [str(word) for word in argv]) or 0
        except Exception as error:
            if os.environ.get(VARIABLE, "") not in ("", "0") or not is_users_error(error):
                raise
            sys.stdout.flush()
            sys.stderr.write(_line(prog, _text(error)))
            raise SystemExit(STATUS) from error

    return run


def is_users_error(error: BaseException) -> bool:
    """Whether a command's user is at fault, and not the project; see the head of this module."""
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
    folders = set(OUR_FOLDERS)
    package = sys.modules.get("swin_backbone")
    if package is not None:
        folders.update(os.path.abspath(folder) for folder in package.__path__)
    return any(file.startswith(folder + os.sep) for folder in folders)


def _text(error: BaseException) -> str:
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])
    return str(error) or type(error).__name__


def _line(prog: str, message: str) -> str:
    return f"{prog}: error: {' '.join(message.split())}\n"
