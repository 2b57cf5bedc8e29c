"""SIGTERM and SIGINT are requests: the step is finished, the run saved, and the exit status says which signal it was."""

import signal


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
