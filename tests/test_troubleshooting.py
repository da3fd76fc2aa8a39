"""docs/troubleshooting.md explains the errors that the code has, in the code's words."""

from __future__ import annotations

import ast
import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fakesysfs"
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### `(.+)`$", PAGE, re.MULTILINE)

SHORTEST = 4
"""Letters of a piece of a message: a shorter one is found anywhere."""

EXPLAINED = 12
"""Letters of the longest piece of an error, from which on the page must have it."""

ERRORS = {
    "CannotMountError",
    "MachineError",
    "MountError",
    "NoMemoryError",
    "NoTerminalError",
    "NotFoundError",
    "RecordingError",
    "RuntimeError",
    "TimeoutError",
    "UsageError",
    "WaitsForeverError",
    "_WrongUseError",
}
"""What ends as a sentence that users read."""

PLACES = (
    "cli.py",
    "pytest_plugin.py",
    "fuse/*.py",
    "sandbox/*.py",
    "machine/*.py",
    "testing/*.py",
    "replay/cli.py",
    "see/*.py",
)

NOT_ON_THE_PAGE = {
    ": not TOML: not UTF-8 text": "the page has the heading `not TOML`",
}
"""Pieces of errors that need no heading, and why."""


def _texts(node: ast.AST) -> Iterator[str]:
    """The constant pieces of a string or f-string, and of others in it."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


@cache
def _code() -> frozenset[str]:
    """All pieces of strings in the package, and the host's words for an errno."""
    found = {os.strerror(number) for number in errno.errorcode}
    for file in PACKAGE.rglob("*.py"):
        found |= set(_texts(ast.parse(file.read_text(encoding="utf-8"))))
    return frozenset(found)


def _is_made_of(heading: str, pieces: frozenset[str]) -> bool:
    """Whether the heading is whole pieces with placeholders between them. It may end within a piece."""
    reached = {0}
    for start in range(len(heading)):
        if start not in reached:
            continue
        rest = heading[start:]
        if placeholder := re.match(r"'[A-Z]+'|[A-Z]+|\d+", rest):
            reached.add(start + placeholder.end())
        for piece in pieces:
            # a short piece is words by chance, if it is not a mark
            if rest.startswith(piece) and (len(piece) >= SHORTEST or not re.search(r"\w", piece)):
                reached.add(start + len(piece))
            elif len(rest) >= SHORTEST and piece.startswith(rest):
                return True
    return len(heading) in reached


def test_there_are_headings() -> None:
    assert len(HEADINGS) > 50
    assert len(set(HEADINGS)) == len(HEADINGS)


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_heading_is_what_the_code_prints(heading: str) -> None:
    """Words in capitals stand for what differs each time."""
    assert _is_made_of(heading, _code())


def test_a_heading_in_other_words_would_be_noticed() -> None:
    assert not _is_made_of("MNT: a fakesysfs was mounted here before", _code())
    assert not _is_made_of("unknown machine 'NAME' (choose between", _code())


def _errors() -> Iterator[tuple[str, str]]:
    """Where an error is made, and the longest piece of its text."""
    for place in PLACES:
        for file in sorted(PACKAGE.glob(place)):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                    if name in ERRORS and node.args:
                        piece = max(_texts(node.args[0]), key=len, default="")
                        yield f"{file.relative_to(ROOT)}:{node.lineno}", piece


def _parts(piece: str) -> Iterator[str]:
    """Without the code in it: headings are code themselves."""
    for part in piece.split("`"):
        if len(part) >= EXPLAINED:
            yield part.strip(" ;:,'(\n")


def test_every_error_is_explained() -> None:
    """Each error that is made with a sentence of its own has a heading, or a row of a table, with its words."""
    errors = list(_errors())
    assert len(errors) > 40
    missing = [
        f"{place}: {piece!r}"
        for place, piece in errors
        if len(piece) >= EXPLAINED and not any(part in PAGE for part in _parts(piece)) and piece not in NOT_ON_THE_PAGE
    ]
    assert not missing, "write what to do about these into docs/troubleshooting.md:\n" + "\n".join(missing)


PRINTED = {
    "mount /": "MNT: this would hide the whole system",
    "mount file": "MNT: Not a directory",
    "mount absent": "MNT: No such file or directory; make it with",
    "mount mnt --kernel 6.1": "unknown kernel 'NAME' (choose from",
    "mount mnt --machine nosuch": "unknown machine 'NAME' (choose from NAMES, oracle-..., or name a TOML file)",
    "umount mnt": "MNT: no fakesysfs is mounted here",
    "check empty.toml": "FILE: the file is empty; expected at least block_size and [[node]]",
    "check no.toml": "FILE: not TOML: REASON",
    "check size.toml": "FILE: KEY = VALUE: expected one of",
    "check key.toml": "FILE: KEY: unknown key, expected one of",
    "check node.toml": "FILE: KEY: missing",
    "check base.toml": "FILE: extends = VALUE: expected the name of a built-in machine",
    "run --rules none -- true": "--rules needs --udev: give both",
    "run --udev --host-network -- true": (
        "--udev needs the private network, where uevents are sent: leave out --host-network"
    ),
    "run --at mnt -- true": "MNT: no fakesysfs is mounted here;",
    "run --udev --rules file -- true": "FILE: udev reads only files that end in .rules",
    "run --udev --rules mnt -- true": "DIR: no file in this directory ends in .rules",
    "run --udev --rules absent -- true": "FILE: No such file or directory",
    "replay --kernel 6.1 RECORDINGS": "no recording of kernel 'NAME' (choose from",
}
"""Wrong commands, and the heading that has what they print."""

FILES = {
    "file": "",
    "empty.toml": "",
    "no.toml": "block_size",
    "size.toml": 'extends = "tiny"\n[memory_hotplug]\nonline_type = "on"\n',
    "key.toml": 'extends = "tiny"\nblocksize = 1\n',
    "node.toml": 'block_size = "128M"\n',
    "base.toml": 'extends = "nosuch"\n',
}


@pytest.mark.mount
@pytest.mark.parametrize("command", PRINTED)
def test_a_wrong_command_prints_a_heading(tmp_path: Path, command: str) -> None:
    if "udev" in command and not Path("/lib/systemd/systemd-udevd").exists():
        pytest.skip("systemd-udevd is not installed")
    (tmp_path / "mnt").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    arguments = command.replace("RECORDINGS", str(ROOT / "tests" / "sessions")).split()
    done = subprocess.run(
        [sys.executable, "-m", "fakesysfs", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in {1, 2}
    heading = PRINTED[command]
    assert heading in HEADINGS
    pattern = re.sub(r"(?<![\w/])(?!TOML)[A-Z]{2,}(?!\w)", ".+?", re.escape(heading)).replace(r"\.\.\.", ".*?")
    assert re.match(rf"fakesysfs(?: \w+)?: {pattern}", done.stderr), done.stderr
