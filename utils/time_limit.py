"""A limit to what a block of code may take, kept between its steps."""

import signal
import threading
from contextlib import contextmanager
from typing import Iterator


class TookTooLong(Exception):
    """The block did not end in time."""


@contextmanager
def time_limit(seconds: float, flag: str) -> Iterator[None]:
    """Raise TookTooLong in the block once it has taken longer. flag: what the message names to raise the limit.

    It is raised between two steps of Python's: a single call into a library is not broken off. Only the main thread of
    a Unix process can be interrupted; elsewhere there is no limit.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer") or seconds <= 0:
        yield
        return

    def ring(*_):
        raise TookTooLong(f"took longer than {seconds:g} s; way out: a higher {flag}")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
