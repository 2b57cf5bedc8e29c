"""--from-run: a new run with another run's flags, and what of them it changes; --resume: the same run with its own."""

import argparse
import json
from pathlib import Path
from typing import Any, Collection

from utils.cards import link
from utils.errors import DataError

# Where a run is written, what is said about it and how it is watched belong to that run alone.
OWN = {"output_dir", "resume", "overwrite", "notes", "card", "from_run", "test_only", "weights", "split", "debug",
       "hypothesis", "profile"}
# What a resumed run does not take over: what is asked of each start, what the machine may be another for, and what is done,
# since its weights are those of its checkpoint. utils.tracking.Run takes over its card and its parents.
NOT_RESUMED = OWN - {"notes", "hypothesis"} | {"device", "no_preflight", "init_from", "overfit"}


BATCH = {"batch_size", "accumulation_steps"}


def read_flags(run: Path, asked: str = "--from-run") -> dict[str, Any]:
    """args.json of a run folder. Raises DataError where there is none or it cannot be read."""
    if not run.is_dir():
        raise DataError(f"{asked} {run}: no such run folder")
    try:
        flags = json.loads((run / "args.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{asked} {run}: holds no args.json, so it is no run folder") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{asked} {run}: its args.json cannot be read ({error})") from None
    if not isinstance(flags, dict):
        raise DataError(f"{asked} {run}: its args.json holds no flags")
    return flags


def inherited(parser: argparse.ArgumentParser, run: Path, given: Collection[str] = ()) -> list[str]:
    """The words of a command line that repeat a run's flags, to stand before those that are given (by their `dest`).

    Raises DataError where the run had flags that this script has not, or was an overfit check.
    """
    flags, known = read_flags(run), _actions(parser)
    if unknown := [f"--{name.replace('_', '-')}" for name in flags if name not in known]:
        raise DataError(f"--from-run {run}: its args.json has flags that this script does not have: "
                        f"{', '.join(unknown[:6])}{', ...' if len(unknown) > 6 else ''}; was it another task or version? "
                        "Start from the command on its card")
    if flags.get("overfit"):
        raise DataError(f"--from-run {run}: was an overfit check, whose flags are not those of a training")
    return _command(parser, flags, OWN, given)


def resumed(parser: argparse.ArgumentParser, run: Path, given: Collection[str] = ()) -> list[str]:
    """As inherited, of a run that goes on; flags of its args.json that this script does not have are passed by."""
    return _command(parser, read_flags(run, "--resume"), NOT_RESUMED, given)


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {action.dest: action for action in parser._actions if action.dest != "help"}


def _command(parser: argparse.ArgumentParser, flags: dict[str, Any], left_out: set[str],
             given: Collection[str]) -> list[str]:
    # --find-batch-size replaces these two by others with the same product: half of either would be another batch.
    if flags.get("find_batch_size") and not BATCH.isdisjoint(given):
        left_out = left_out | BATCH
    words = []
    for name, action in _actions(parser).items():
        value = flags.get(name)
        if name not in left_out and value is not None and _plain(value) != _plain(action.default):
            words += _words(action, value)
    return words


def _words(action: argparse.Action, value) -> list[str]:
    flag = action.option_strings[0]
    if isinstance(action, argparse.BooleanOptionalAction):
        return [flag if value else f"--no-{flag.removeprefix('--')}"]
    if action.nargs == 0:
        return [flag] if value else []
    if action.nargs is not None:
        return [flag, *map(str, value)]
    if isinstance(value, dict):  # --oversample
        value = [f"{name}={number}" for name, number in value.items()]
    return [f"{flag}={','.join(map(str, value)) if isinstance(value, (list, tuple)) else value}"]


def start_flag(flags: dict) -> str:
    """The flag that starts a new run from the weights of another, of a script that has these flags."""
    return "--model" if "model" in flags else "--init-from"  # ultralytics' word


def base_of(args: argparse.Namespace, card: Path, defaults: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """(what the card's overrides differ from, in words; the flags of that): the parent's, or the script's defaults."""
    parent = getattr(args, "from_run", None)
    if parent is None:
        return "the defaults of the training script", defaults
    try:
        flags = defaults | read_flags(parent)
    except DataError:  # the parent was removed while this run was stopped
        return f"the defaults of the training script (the parent, {parent}, is gone)", defaults
    return f"the flags of its parent, {link(parent / 'card.md', card, parent.name)}", flags


def flags_off(base: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The flags whose value is not that of `base`, by their command-line name; without those of OWN."""
    return {"--" + name.replace("_", "-"): _plain(value) for name, value in sorted(vars(args).items())
            if name not in OWN and _plain(base.get(name)) != _plain(value)}


def _plain(value):
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
