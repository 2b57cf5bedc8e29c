"""Errors a user can cause, said in one line, and the end of a script that keeps its promise of exit status 2."""

import atexit
import errno
import io
import os
import sys
from contextlib import suppress
from pathlib import Path


class DataError(Exception):
    """Bad data or bad usage. The message is one line: what, why, and the way out."""


class ManyDevices(DataError):
    """--device names several and there is one process yet; `count` are wanted. A script starts them."""

    def __init__(self, message: str, count: int):
        super().__init__(message)
        self.count = count


class NonFiniteLoss(Exception):
    """Too many steps whose loss or gradient was not finite."""


# What a machine, or a process beside this one, runs out of, as torch says it, and the way out.
SHORTAGES = (
    (("Too many open files", "received 0 items of ancdata"),
     "too many open files: raise the limit (ulimit -n 65536), or take fewer loader processes with --num-workers"),
    (("killed by signal: Bus error", "shared memory object", "/dev/shm", "unable to write to file </torch", "shm_open"),
     "the loader's workers have no shared memory left: take fewer with --num-workers (0 needs none), or give the container "
     "more (docker run --shm-size 8g)"),
    (("gloo/transport", "remote process exited"),  # as gloo and NCCL say it
     "another process of this run has ended; its own message says why, and --resume auto goes on"),
    (("killed by signal: Killed",),
     "a loader's worker was killed, most likely since the machine ran out of memory: take fewer with --num-workers"),
    (("CUDA out of memory", "CUDA error: out of memory"),
     "the GPU's memory has run out: use a smaller --batch-size (with more --accumulation-steps), image size or model, or "
     "--use-amp; --find-batch-size tries what fits"))


def explain(error: BaseException) -> str | None:
    """One line with the way out, where the machine has run out of something; None where it is another error."""
    if not isinstance(error, (RuntimeError, OSError)):
        return None
    said = f"{error} {error.__cause__}"  # how a worker was lost is in the cause
    return next((line for signs, line in SHORTAGES if any(sign in said for sign in signs)), None)


class _Outlet(io.FileIO):
    """Standard output or error whose reader may go away: what is written then goes nowhere, and the work goes on."""

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            gone = error.errno in (errno.EPIPE, errno.EIO)  # the next program of a pipe, or the terminal
            if not gone and self.fileno() == 1:
                raise DataError(f"standard output: cannot be written ({error.strerror})") from None
            return len(data)


def _open_outlets() -> None:
    """Put _Outlets behind sys.stdout and sys.stderr, and let them show as \\uXXXX what their encoding does not have. Where
    Python is not to buffer (-u, as torchrun has it) they write whole lines: processes that share them do not mix theirs."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):  # somebody has taken it over: a test, a notebook
            continue
        if stream is None:  # closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
            continue
        outlet = _Outlet(stream.fileno(), "w", closefd=False)
        with suppress(OSError):
            stream.flush()
        setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(outlet), stream.encoding, "backslashreplace",
                                            line_buffering=stream.line_buffering or stream.write_through))


def exit_cleanly(main, in_parallel: bool = False):
    """Run main() and leave with its return value; errors a user can cause become one line on stderr. main() goes on where
    nobody reads what it prints; a full disk under standard output is an error.

    in_parallel: where --device names several devices, this command is run again as a process for each.
    Exit status 2 for bad data and bad usage, 3 for a loss that was not finite, 130 after Ctrl-C; 1, with the traceback, for an
    error that nobody foresaw.
    """
    _open_outlets()
    try:
        try:
            status = main()
        finally:
            sys.stdout.flush()  # behind this a full disk would be a traceback
    except (DataError, NonFiniteLoss) as error:
        if in_parallel and isinstance(error, ManyDevices):
            from utils.launch import run_processes  # torch's launcher takes a while to import
            sys.exit(run_processes(error.count, sys.argv))
        message = str(error)
        if "Original Traceback" in message:  # raised in a loader worker: torch hands over the whole traceback as text
            message = message.rsplit("DataError: ", 1)[-1]
        print("error: " + " ".join(message.split()), file=sys.stderr)
        status = 3 if isinstance(error, NonFiniteLoss) else 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except Exception as error:
        line = explain(error)
        if line:
            print(f"error: {line}", file=sys.stderr)
        elif _is_one_of_several():
            sys.excepthook(*sys.exc_info())
        else:
            raise
        status = 2 if line else 1
    _leave(status or 0)


def _is_one_of_several() -> bool:
    return "WORLD_SIZE" in os.environ


def _leave(status: int) -> None:
    """End this process; as one of several at once, without taking Python down: a thread of torch's that still holds a tensor
    of their talk wants Python's lock to let go of it, is ended instead, and that aborts the whole process (status 134)."""
    if _is_one_of_several():
        atexit._run_exitfuncs()  # the loader's workers end
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


class BadSamples:
    """Collects samples that cannot be used, each with its reason.

    settle() raises DataError when their share is over `max_fraction` (0 to 1) or when nothing is left; a smaller share
    is printed and left out.
    """

    shown = 5

    def __init__(self, max_fraction: float):
        self.max_fraction = max_fraction
        self.reasons: list[str] = []

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, path: Path | str, reason: str) -> None:
        self.reasons.append(f"{path}: {reason}")

    def settle(self, total: int, named: bool = False) -> None:
        """total: samples looked at, the bad ones included. named: each has been printed, so that a warning only counts."""
        if not self.reasons:
            return
        listed = "; ".join(self.reasons[: self.shown])
        if len(self.reasons) > self.shown:
            listed += f"; and {len(self.reasons) - self.shown} more"
        share = len(self.reasons) / max(total, 1)
        if share > self.max_fraction or len(self.reasons) >= total:
            raise DataError(f"{listed} ({len(self.reasons)} of {total} samples are bad: mend them, or raise "
                            f"--max-bad-fraction above {self.max_fraction:g})")
        print(f"warning: {len(self.reasons)} of {total} samples are left out" + (f": {listed}" if not named else ""),
              file=sys.stderr)
