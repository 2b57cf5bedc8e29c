"""What the tests of the scripts share."""

import signal

import pytest
import torch


@pytest.fixture(autouse=True)
def leave_the_process_as_it_was():
    """main() inside this process catches signals and asks for deterministic kernels."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    torch.use_deterministic_algorithms(False)
    for number, handler in handlers.items():
        signal.signal(number, handler)
