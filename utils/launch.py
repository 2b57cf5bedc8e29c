"""A command as several processes of this machine, as torchrun runs it, started by the command itself."""

import logging
import os
import sys
import uuid
from tempfile import TemporaryDirectory

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def run_processes(count: int, command: list[str]) -> int:
    """Run `python *command` as `count` processes that find each other. Returns the exit status: 0, or that of the first that
    failed, whose own message is on stderr; a signal is passed on to all of them."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // count, 1)))  # else each takes every core
    logging.disable(logging.ERROR)  # the processes speak for themselves
    try:
        with TemporaryDirectory() as folder:  # torch leaves one of its own otherwise
            config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=count, run_id=uuid.uuid4().hex, max_restarts=0,
                                  rdzv_backend="c10d", rdzv_endpoint="localhost:0",
                                  logs_specs=DefaultLogsSpecs(log_dir=folder))
            elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        return status if status > 0 else 128 - status
    except SignalException as error:
        return 128 + error.sigval
    return 0
