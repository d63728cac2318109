"""A time limit that holds, whatever runs: compilation under ``torch.compile`` takes minutes."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from swin_backbone.inference.timing import Deadline

#: Seconds after which it is raised again: Python ignores what is raised while an object goes away.
AGAIN = 2.0


class TimeIsUp(BaseException):
    """Raised where the program is when a deadline passes. No error: who takes errors for an answer,
    as compilers do, is not to take this for one."""


@contextlib.contextmanager
def interrupted_at(deadline: Deadline) -> Iterator[None]:
    """Raise :class:`TimeIsUp` within when ``deadline`` passes, as soon as Python runs again.

    It takes a signal, so that nothing happens outside of the main thread or without ``SIGALRM``.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if deadline.limit is None or not in_main or not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(*_):
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(deadline.limit - deadline.elapsed, 1e-3), AGAIN)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
