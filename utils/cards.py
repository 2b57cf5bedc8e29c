"""Experiment cards: markdown that a person and the run write together.

A card has blocks that begin with <!-- docmarks:NAME --> and end with <!-- docmarks:end -->. A run rewrites the text
inside its blocks and never anything outside them.
"""

import getpass
import re
import subprocess
from datetime import date
from pathlib import Path

from utils.errors import DataError
from utils.files import replace_file

TEMPLATES = Path(__file__).resolve().parent.parent / "experiments" / "templates"
BLOCK = r"(<!-- docmarks:{name} -->\n).*?(<!-- docmarks:end -->)"


def start_card(path: Path, task: str, title: str, objective: str) -> None:
    """Copy the task's template to `path` with title, date, author and objective filled in."""
    template = TEMPLATES / f"{task}.md"
    if not template.is_file():
        raise DataError(f"{template}: the card template is missing; restore it from the repository")
    text = template.read_text(encoding="utf-8")
    filled = {"title": title, "date": date.today().isoformat(), "author": author(),
              "objective": objective or "*What is to be found out, and what would count as an answer.*"}
    for key, value in filled.items():
        text = text.replace("{{" + key + "}}", value)
    replace_file(path, text)


def update_card(path: Path, blocks: dict[str, str]) -> list[str]:
    """Rewrite the named blocks; returns the names of blocks that the card no longer has."""
    text = path.read_text(encoding="utf-8")
    missing = []
    for name, body in blocks.items():
        pattern = re.compile(BLOCK.format(name=re.escape(name)), re.DOTALL)
        if not pattern.search(text):
            missing.append(name)
        text = pattern.sub(lambda match: f"{match[1]}{body.rstrip()}\n{match[2]}", text, count=1)
    replace_file(path, text)
    return missing


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " :--- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def author() -> str:
    """git's user name where it is set, else the login name."""
    try:
        return _git("config", "user.name") or getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return "unknown"


def git_state() -> str:
    """'abc1234', 'abc1234 with uncommitted changes', or 'no git' outside a checkout."""
    commit = _git("rev-parse", "--short", "HEAD")
    if not commit:
        return "no git"
    return commit + (" with uncommitted changes" if _git("status", "--porcelain") else "")


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=TEMPLATES.parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
