"""What a run can be resumed with, and what it says where that is not what it was started with."""

from pathlib import Path

from utils.errors import DataError
from utils.lineage import start_flag

# Flags that may differ between the two halves of a run without a word.
RUN_FLAGS = ("resume", "output_dir", "overwrite", "num_workers", "device", "log_every", "save_every_steps", "notes",
             "no_preflight", "test_only", "weights", "init_from", "max_bad_steps", "card", "from_run",
             "debug", "hypothesis", "profile", "cache_targets", "cache_limit")

# What the network's settings are called, where that is not their flag.
SAID = {"characters": "characters (they come from --charset and the training labels)", "names": "classes (data.yaml)"}


def changed_flags(folder: Path, checkpoint: dict, config: dict, own: dict, world: int) -> str:
    """What changed since the run was stopped, as "--lr 0.1 -> 0.2, ...", or "". own: the flags as plain values.

    Raises DataError where it was another network, an overfit check, or is within an epoch that another number of
    processes or other batches could not finish.
    """
    found, stored, progress = checkpoint.get("config", {}), checkpoint["args"], checkpoint["progress"]
    if other := [SAID.get(name, name) for name, value in config.items() if found.get(name, value) != value]:
        raise DataError(f"{folder}: its run was trained with another {', '.join(other)}; {start_flag(own)} starts a "
                        "new run from its weights, and this one goes on where that is not asked for")
    changed = {name: (stored[name], own[name]) for name in own
               if name in stored and stored[name] != own[name] and name not in RUN_FLAGS}
    if stored.get("overfit") != own["overfit"]:
        raise DataError(f"{folder}: its run was an overfit check, which is not resumed; start anew with "
                        "--overwrite or in another --output-dir")
    if progress["batch"] and progress.get("world", 1) != world:
        raise DataError(f"{folder}: the run was saved within an epoch by {progress.get('world', 1)} processes, and can "
                        "only be resumed by as many")
    if progress["batch"] and {"batch_size", "limit_batches", "seed"} & set(changed):
        raise DataError(f"{folder}: the run was saved within an epoch, and can only be resumed with the same "
                        f"--batch-size ({stored['batch_size']}), --limit-batches and --seed")
    return ", ".join(f"--{name.replace('_', '-')} {old} -> {new}" for name, (old, new) in sorted(changed.items()))
