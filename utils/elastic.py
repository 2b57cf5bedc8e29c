"""What torchrun tells a process that it starts again; without torch, so that flags can be read without it."""

import os


def restart_count() -> int:
    """How often torchrun has started this process's group again after it lost a rank."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
