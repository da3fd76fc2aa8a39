"""Blocks of code in the pages, and how the commands in them are run.

A reader who follows a page types what its blocks say, from top to bottom. So does `script_of`:

- A `console` block has commands (`$ `, continued with `> `) and what they print, where `...` stands for anything.
- An `sh` block has commands that print what they like, and succeed.
- A block of any language with `title="NAME"` is the content of a file.
- `<!-- not run: REASON -->` before a block: it is not run. The reader sees no comment, so the text says so, too.
- `<!-- run by: FILE -->`: a test of its own runs the blocks from here to the end of the page.
- `<!-- first: COMMAND -->`, `<!-- last: COMMAND -->`: what the page takes for granted, such as a mount.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = frozenset({"console", "sh"})
"""The languages whose blocks are commands."""

_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)(?P<info>[^`\n]*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL
)
_COMMENT = re.compile(r"<!-- (not run|run by|first|last): (.*?) -->", re.DOTALL)
_END = "-- end of a command --"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    title: str | None
    """Name of the file whose content it is."""
    not_run: str | None
    """Why its commands are not run."""
    run_by: str | None
    """The test that runs them instead."""

    @property
    def is_command(self) -> bool:
        return self.language in COMMANDS and self.title is None


@dataclass(frozen=True)
class Step:
    """One command, and what it must print (None: anything)."""

    line: int
    command: str
    expected: list[str] | None
    succeeds: bool = False
    """Its exit status must be 0."""


def blocks_of(page: Path) -> Iterator[Block]:
    """All fenced blocks, in order."""
    text = page.read_text(encoding="utf-8")
    run_by, end = None, 0
    for found in _BLOCK.finditer(text):
        not_run = None
        for comment in _COMMENT.finditer(text, end, found.start()):
            if comment[1] == "run by":
                run_by = comment[2]
            elif comment[1] == "not run" and not text[comment.end() : found.start()].strip():
                not_run = " ".join(comment[2].split())
        end = found.end()
        title = re.search(r'title="([^"]+)"', found["info"])
        yield Block(
            page,
            text.count("\n", 0, found.start()) + 1,
            found["language"],
            textwrap.dedent(found["text"]),
            title[1] if title else None,
            not_run,
            run_by,
        )


def around(page: Path, when: str) -> list[str]:
    """The commands of `first` or `last` comments."""
    found = _COMMENT.finditer(page.read_text(encoding="utf-8"))
    return [" ".join(comment[2].split()) for comment in found if comment[1] == when]


def steps_of(page: Path) -> list[Step]:
    """What a reader does who follows the page."""
    steps = [Step(0, command, [], succeeds=True) for command in around(page, "first")]
    for block in blocks_of(page):
        if block.not_run or block.run_by:
            continue
        if block.title is not None:
            quoted = shlex.quote(block.text)
            steps.append(Step(block.line, f"printf %s {quoted} >{shlex.quote(block.title)}", [], succeeds=True))
        elif block.language == "sh":
            steps.append(Step(block.line, block.text, None, succeeds=True))
        elif block.language == "console":
            steps += _console(block)
    return steps + [Step(0, command, [], succeeds=True) for command in around(page, "last")]


def _console(block: Block) -> Iterator[Step]:
    if not block.text.startswith("$ "):
        raise ValueError(f"{block.page.name}, line {block.line}: a console block begins with a command, after `$ `")
    command, line = "", 0
    expected: list[str] = []
    for number, text in enumerate([*block.text.splitlines(), "$ "], block.line + 1):
        if text.startswith("$ "):
            if command:
                yield Step(line, command, expected)
            command, expected, line = text.removeprefix("$ "), [], number
        elif text.startswith("> ") and not expected:
            command += f"\n{text.removeprefix('> ')}"
        else:
            expected.append(text)


def script_of(steps: list[Step]) -> str:
    """One bash script for all of them: later commands see what earlier ones set."""
    return "".join(f"{step.command}\nprintf '\\n%s %d\\n' {shlex.quote(_END)} $?\n" for step in steps)


def run(steps: list[Step], where: Path, timeout: float) -> list[str]:
    """Run the commands of a page in the directory `where`. Returns what differs from the page, in words."""
    environment = {
        name: value
        for name, value in os.environ.items()
        # pytest prints more where CI is set
        if not name.startswith(("FAKESYSFS_", "PYTEST_", "COV_", "COVERAGE_")) and name != "CI"
    }
    # a reader's pytest has none of the plugins that our tests have, whose imports take seconds
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "fakesysfs.pytest_plugin"}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{environment['PATH']}:/usr/sbin:/sbin", "LC_ALL": "C"}
    done = subprocess.run(
        ["bash", "-c", script_of(steps)],
        cwd=where,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    printed = re.split(rf"\n?^{re.escape(_END)} (\d+)\n", done.stdout, flags=re.MULTILINE)
    differences = []
    for index, step in enumerate(steps):
        output, status = [*printed[2 * index : 2 * index + 2], "", "of a command that was not reached"][:2]
        if step.succeeds and status != "0":
            differences.append(f"line {step.line}: $ {step.command}\nstatus {status}\n{output}")
        elif step.expected is not None and not matches(step.expected, output):
            expected = "\n".join(step.expected)
            differences.append(f"line {step.line}: $ {step.command}\nthe page says:\n{expected}\nit printed:\n{output}")
    return differences


def matches(expected: list[str], output: str) -> bool:
    """Whether a command printed what the page says. Process ids and pytest's durations differ each time."""
    pattern = r".*?".join(re.escape(_normal(part)) for part in "\n".join(expected).split("..."))
    return re.fullmatch(pattern, _normal(output.rstrip("\n")), re.DOTALL) is not None


def _normal(text: str) -> str:
    text = re.sub(r"^bash: line \d+: ", "bash: ", text, flags=re.MULTILINE)
    text = re.sub(r"\bin \d+\.\d+s\b", "in SECONDS", text)
    return re.sub(r"^\d+ (?=[\w(-]+\)? /)", "PID ", text, flags=re.MULTILINE)
