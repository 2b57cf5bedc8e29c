"""Experiment cards: markdown that a person and the run write together.

A card has blocks that begin with <!-- docmarks:NAME --> and end with <!-- docmarks:end -->. A run rewrites the text
inside its blocks and never anything outside them: not a word, not a line ending, not a byte that is no UTF-8.
"""

import getpass
import os
import re
import subprocess
from datetime import date
from pathlib import Path
from typing import Any, Iterable, Mapping

from utils.errors import DataError
from utils.files import replace_file

TEMPLATES = Path(__file__).resolve().parent.parent / "experiments" / "templates"
# A block ends before the next one begins, so that words behind a marker that somebody deleted are not swallowed.
BLOCK = r"(<!-- docmarks:{name} -->\r?\n)(?:(?!<!-- docmarks:).)*(<!-- docmarks:end -->)"
TASK_MARK = re.compile(r"<!-- docmarks:card (\w+) -->")
PLANNED = "* **Status:** Planned"


def start_card(path: Path, task: str, title: str, objective: str) -> None:
    """Copy the task's template to `path` with title, date, author and objective filled in."""
    template = TEMPLATES / f"{task}.md"
    if not template.is_file():
        raise DataError(f"{template}: the card template is missing; restore it from the repository")
    text = template.read_text(encoding="utf-8")
    filled = {"title": title, "date": date.today().isoformat(), "author": author(),
              "objective": objective or "*What is to be found out, and what would count as an answer.*"}
    for key, value in filled.items():
        text = text.replace("{{" + key + "}}", value.replace("<!--", "&lt;!--"))
    replace_file(path, text)


def update_card(path: Path, blocks: dict[str, str]) -> list[str]:
    """Rewrite the named blocks; returns the names of blocks that the card no longer has."""
    text = _read(path)
    missing = []
    for name, body in blocks.items():
        pattern = _block(name)
        if not pattern.search(text):
            missing.append(name)
        body = body.rstrip().replace("<!--", "&lt;!--")  # a marker in a flag or a message must not end the block
        text = pattern.sub(lambda match: f"{match[1]}{body}\n{match[2]}", text, count=1)
    replace_file(path.resolve(), text.encode("utf-8", "surrogateescape"))
    return missing


def check_plan(path: Path, task: str, may_hold_run: bool) -> None:
    """Raises DataError where `path` is no card that a run of this task can fill.

    may_hold_run: the run goes on or replaces another one, so the card may be one that tells of a run already.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such card; python -m experiments.card new --task {task} --objective \"...\" "
                        f"--out {path} makes one")
    text = _read(path)
    made_for = TASK_MARK.search(text)
    if made_for and made_for[1] != task:
        raise DataError(f"{path}: is a card for {made_for[1]}, not for {task}")
    if not any(_block(name).search(text) for name in ("status", "configuration", "results")):
        raise DataError(f"{path}: has no block that a run fills (<!-- docmarks:results --> and so on); "
                        "python -m experiments.card new makes a card that has them")
    status = _block("status").search(text)
    if status and PLANNED not in status[0] and not may_hold_run:
        raise DataError(f"{path}: tells of a run already; go on with that by --resume auto and its --output-dir, or make "
                        "another card")


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "surrogateescape")


def _block(name: str) -> re.Pattern:
    return re.compile(BLOCK.format(name=re.escape(name)), re.DOTALL)


# what a run writes into the blocks -----------------------------------------------------------------------------------


def configuration_block(overrides: Mapping[str, Any], base: str, commands: Iterable[str], facts: Mapping[str, str]) -> str:
    """overrides: flags off their base by command-line name; base: what they differ from, in words; commands: one, and one more
    for each time that it was resumed by another."""
    changed = ["* **Key overrides:**", "  ```", *(f"  {name}: {value}" for name, value in overrides.items()), "  ```"]
    return "\n".join([
        f"* **Base:** {base}", *(changed if overrides else ["* **Key overrides:** none"]),
        "* **Full command:**", "  ```", *(f"  {command}" for command in commands), "  ```",
        *(f"* **{name}:** {value}" for name, value in facts.items())])


def results_block(rows: list[dict], best: str, lines: Iterable[str]) -> str:
    """The table of the best and the last epoch, time, throughput and memory from the rows of metrics.jsonl.

    best: the metric, without "val/", by which an epoch is the best. lines: what else is to be said, and the files.
    """
    if not rows:
        return "\n".join(["*No epoch has finished yet.*", *lines])
    top, last = max(rows, key=lambda row: row[f"val/{best}"]), rows[-1]
    names = [name for name in last if name.startswith(("train/", "val/")) and name != "train/lr"]
    table = markdown_table(["Metric", f"Best (epoch {top['epoch']})", f"Last (epoch {last['epoch']})"],
                           [[name, _shown(top.get(name)), _shown(last[name])] for name in names])
    parts = [table, "", f"* **Training time:** {_duration(last['seconds'])}, {last['step']} steps"]
    speeds = [row["perf/images_per_s"] for row in rows if row.get("perf/images_per_s")]
    if speeds:
        parts.append(f"* **Throughput:** {sum(speeds) / len(speeds):.1f} images a second, waiting for the loader included")
    on_gpu = any("perf/gpu_memory_gb" in row for row in rows)
    peaks = [row.get(f"perf/{'gpu_' if on_gpu else ''}memory_gb", 0) for row in rows]
    if max(peaks):
        shares = [row.get("perf/gpu_memory_share", 0) for row in rows]
        where = f" on the GPU ({100 * max(shares):.0f} % of it)" if on_gpu else ", process and workers"
        parts.append(f"* **Peak memory:** {max(peaks):.2f} GB{where}")
    return "\n".join([*parts, *lines])


def findings_block(findings: Iterable) -> str:
    """findings: those of utils.findings; each with its evidence, and what to try next as a box to tick."""
    lines = [f"* **{finding.title}:** {finding.evidence}\n  * **Try:** {finding.action}" for finding in findings]
    return "\n".join(lines) or "*Nothing stands out so far.*"


def link(target: Path, beside: Path, shown: str | None = None) -> str:
    """A markdown link from the card `beside` to `target`, relative, so that both may be moved together."""
    relative = os.path.relpath(target.resolve(), beside.resolve().parent)
    return f"[{shown or Path(relative).as_posix()}]({Path(relative).as_posix().replace(' ', '%20')})"


def _shown(value) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " :--- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows])


def author() -> str:
    """git's user name where it is set, else the login name."""
    try:
        return _git("config", "user.name") or getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return "unknown"


def git_state() -> str:
    """'abc1234', 'abc1234 with uncommitted changes', or 'no git' outside a checkout. Of files that git does not know those
    of Python count: a new plan, or data, changes nothing that a run does."""
    commit = _git("rev-parse", "--short", "HEAD")
    if not commit:
        return "no git"
    changed = (_git("status", "--porcelain", "--untracked-files=no")
               or _git("status", "--porcelain", "--untracked-files=all", "--", ":/*.py"))
    return commit + (" with uncommitted changes" if changed else "")


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=TEMPLATES.parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
