"""Look into debugging sessions (written by --debug).

    python -m experiments.debug diff 2026-11-20_10-00-00_debug 2026-11-21_15-30-00_debug
    python -m experiments.debug diff logs/debugging_sessions/A_debug logs/debugging_sessions/B_debug.tar.gz

diff shows what changed from A to B: flags, code, system, what was tried, metrics by epoch, warnings and errors.
A session is a folder, the archive that it became, or the name of either in logs/debugging_sessions/.
"""

import difflib
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from utils.args import new_parser
from utils.cards import markdown_table
from utils.debugging import SESSIONS
from utils.errors import DataError, exit_cleanly

# Lines that tell when and how busy, and not what.
PASSING = ("Memory:", "Disk:")
MOST_LINES = 60


@dataclass
class SessionRecord:
    """What one session's files say. events: the lines of debug.jsonl."""

    name: str
    config: dict
    events: list[dict]
    git: list[str]
    system: list[str]

    @property
    def hypothesis(self) -> str:
        return next((event["hypothesis"] for event in self.events if event.get("hypothesis")), "(none noted)")

    @property
    def ended(self) -> str:
        last = self.events[-1] if self.events else {}
        if last.get("event") != "end":
            return "still running, or killed"
        return "to the end" if last["message"] == "end" else last["message"]

    @property
    def metrics(self) -> list[dict]:
        return [event["metrics"] for event in self.events if "metrics" in event]

    @property
    def troubles(self) -> list[str]:
        return [f"{event['level']}: {event['message']}" for event in self.events if event.get("level") in (
            "WARNING", "ERROR", "CRITICAL")]


def read_session(path: Path) -> SessionRecord:
    """Raises DataError where there is no such session, or it lacks a file."""
    for place in (path, SESSIONS / path, SESSIONS / f"{path}.tar.gz", path.with_name(f"{path.name}.tar.gz")):
        if place.is_dir() or place.is_file():
            break
    else:
        raise DataError(f"{path}: no such session, neither here nor in {SESSIONS}")
    read = _read_folder if place.is_dir() else _read_archive
    texts = {name: read(place, name) for name in ("config_dump.yaml", "debug.jsonl", "git_status.txt", "system_info.txt")}
    try:
        events = [json.loads(line) for line in texts["debug.jsonl"].splitlines() if line.strip()]
        config = yaml.safe_load(texts["config_dump.yaml"])
    except (ValueError, yaml.YAMLError) as error:
        raise DataError(f"{place}: cannot be read ({' '.join(str(error).split())})") from None
    return SessionRecord(place.name, config or {}, events, texts["git_status.txt"].splitlines(),
                         [line for line in texts["system_info.txt"].splitlines() if not line.startswith(PASSING)])


def _read_folder(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{folder / name}: cannot be read ({error.strerror}); is this a session of --debug?") from None


def _read_archive(path: Path, name: str) -> str:
    """A member's text; nothing is unpacked onto the disk."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            return archive.extractfile(f"{path.name.removesuffix('.tar.gz')}/{name}").read().decode("utf-8")
    except (KeyError, AttributeError):
        raise DataError(f"{path}: holds no {name}; is this a session of --debug?") from None
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"{path}: is no whole archive ({error})") from None


def diff(first: SessionRecord, second: SessionRecord) -> str:
    """The report, section by section."""
    names = sorted(first.config.keys() | second.config.keys())
    flags = [[f"--{name.replace('_', '-')}", _shown(first.config, name), _shown(second.config, name)] for name in names
             if first.config.get(name, ...) != second.config.get(name, ...)]
    parts = [markdown_table(["", "A", "B"], [["Session", first.name, second.name],
                                             ["Hypothesis", first.hypothesis, second.hypothesis],
                                             ["Ended", first.ended, second.ended]]),
             "## Flags\n\n" + (markdown_table(["Flag", "A", "B"], flags) if flags else "The same.")]
    parts += [f"## {title}\n\n{_line_diff(a, b)}" for title, a, b in
              (("Code", first.git, second.git), ("System", first.system, second.system))]
    parts.append("## Metrics\n\n" + _metrics(first.metrics, second.metrics))
    parts.append("## Warnings and errors\n\n" + "\n".join(
        f"* {letter}: {line}" for letter, session in (("A", first), ("B", second))
        for line in session.troubles or ["none"]))
    return "\n\n".join(parts)


def _shown(config: dict, name: str) -> str:
    return str(config[name]) if name in config else "(no such flag)"


def _line_diff(first: list[str], second: list[str]) -> str:
    lines = [line for line in difflib.unified_diff(first, second, lineterm="", n=0)
             if not line.startswith(("---", "+++", "@@"))]
    if not lines:
        return "The same."
    left = f"\n... and {len(lines) - MOST_LINES} lines more" if len(lines) > MOST_LINES else ""
    return "```diff\n" + "\n".join(lines[:MOST_LINES]) + f"{left}\n```"


def _metrics(first: list[dict], second: list[dict]) -> str:
    """The last values side by side, then the epochs of the first validation metric."""
    if not first or not second:
        return f"A has {len(first)} rows of metrics, B {len(second)}."
    shared = [name for name, value in first[-1].items() if isinstance(value, (int, float)) and name in second[-1]
              and isinstance(second[-1][name], (int, float)) and not name.startswith("perf/")]
    rows = [[name, f"{first[-1][name]:.5g}", f"{second[-1][name]:.5g}", f"{second[-1][name] - first[-1][name]:+.3g}"]
            for name in shared]
    text = markdown_table(["Last row", "A", "B", "B - A"], rows)
    leading = next((name for name in shared if name.startswith("val/")), None)
    if leading:
        curves = [", ".join(f"{row[leading]:.4f}" for row in rows if leading in row) for rows in (first, second)]
        text += f"\n\n{leading} by epoch: A {curves[0]}; B {curves[1]}"
    return text


def main(argv=None):
    parser = new_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("diff", help="what changed from one session to another")
    command.add_argument("a", type=Path, metavar="A")
    command.add_argument("b", type=Path, metavar="B")
    args = parser.parse_args(argv)
    print(diff(read_session(args.a), read_session(args.b)))


if __name__ == "__main__":
    exit_cleanly(main)
