"""SIGTERM and SIGINT are requests: the step is finished, the run saved, and the exit status says which signal it was."""

import multiprocessing
import os
import signal
import threading

LOOK_EVERY = 2.0  # seconds between looks at whether the parent is there

class StopRequest:
    """Remembers the first signal; a second one of the same kind acts at once, as it would without us."""

    def __init__(self):
        self.number: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame) -> None:
        self.number = number
        signal.signal(number, signal.SIG_DFL)

    @property
    def exit_status(self) -> int:
        """143 after SIGTERM, 130 after SIGINT."""
        return 128 + (self.number or signal.SIGTERM)


def obey_parent_alone() -> None:
    """For the processes that a run starts: a SIGTERM to all of its processes, as of `timeout` or a batch system, is for the
    run to answer, which needs them to finish its step; one that it sends itself ends them, and so does its own end."""
    if hasattr(signal, "sigtimedwait"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_for, args=(multiprocessing.parent_process().pid,), daemon=True).start()


def _end_for(parent: int) -> None:
    """torch's own watch over the parent never comes to its turn in a worker that waits to hand over a batch: the pipe that
    nobody reads any more is open in the worker too."""
    started_by = os.getppid()
    while os.getppid() == started_by:
        received = signal.sigtimedwait({signal.SIGTERM}, LOOK_EVERY)
        if received and received.si_pid == parent:
            break
    os._exit(0)
