"""The sessions of hotplug-v3: each line that differs from the posted code's recording says why, and no other does.

No kernel keeps the promises of the series, so these sessions are written from its text. A line is
either one of the recorded session of the same name on `hotplug-v3-as-posted`, in its order, or it
has a `because`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from fakesysfs.replay.recording import Operation, Session, find, load

TESTS = Path(__file__).resolve().parent
SESSIONS = sorted((TESTS / "sessions" / "hotplug-v3").glob("*.jsonl"))
RECORDED = TESTS / "recordings" / "sessions"
KERNEL = (TESTS.parent / "docs" / "KERNEL.md").read_text(encoding="utf-8")

NO_ANSWER = frozenset({"because", "i", "ms", "sec", "backtrace", "page_dump"})
"""What is not an answer of the kernel, or may differ (tests/recordings/FORMAT.md)."""

_ROWS = {line.split("|")[1].replace("`", "").strip() for line in KERNEL.splitlines() if line.startswith("| ")}
_SECTIONS = set(re.findall(r"^## ([\d.-]+)\. ", KERNEL, re.MULTILINE))
_SERIES = re.compile(r"\b(?:patch \d|cover letter|ABI text|seed)\b.*'[^']{10,}'")
"""A sentence of the series, with the mail that has it."""
_PREPARATION = re.compile(r"new session: preparation\b|(?:operation|section) of [\w.-]+/[\w.-]+$|new section: ")
"""An operation that the recorded session lacks, so that nothing can differ."""


_FOLLOWS = re.compile(r"follows from i=(\d+)\b")
"""The line follows from an earlier one, which differs."""


def lines(path: Path) -> list[Operation]:
    """The operations of a session."""
    session = load(path)
    assert isinstance(session, Session)
    return session.operations


def answer(operation: Operation) -> str:
    """All of a line that is compared."""
    return repr(sorted((key, value) for key, value in operation.items() if key not in NO_ANSWER))


def unmatched(own: list[Operation], recorded: list[Operation]) -> Iterator[tuple[list[Operation], list[Operation]]]:
    """Aligns the lines without `because` with the recorded ones.

    Yields the own and the recorded lines of each place where they do not fit together.
    """
    plain = [operation for operation in own if "because" not in operation and operation["op"] != "note"]
    recorded = [operation for operation in recorded if operation["op"] != "note"]
    matcher = SequenceMatcher(None, [*map(answer, plain)], [*map(answer, recorded)], autojunk=False)
    position = {operation["i"]: number for number, operation in enumerate(own)}
    begin = 0
    for kind, left, right, left_recorded, right_recorded in matcher.get_opcodes():
        if kind == "equal":
            continue
        begin = position[plain[left - 1]["i"]] + 1 if left else 0
        end = position[plain[right]["i"]] if right < len(plain) else len(own)
        yield own[begin:end], recorded[left_recorded:right_recorded]


def wrong_lines(own: list[Operation], recorded: list[Operation]) -> list[str]:
    """The lines that differ from the recorded session without `because`, and those that say `because` without need.

    A read that follows from an operation that was not recorded may read what another one read.
    """
    found = []
    for differing, instead in unmatched(own, recorded):
        expected = [*map(answer, instead)]
        for operation in differing:
            if operation["op"] == "note":
                continue
            if "because" not in operation:
                found.append(f"i={operation['i']}: differs without because")
            elif answer(operation) in expected and not _FOLLOWS.match(operation["because"]):
                found.append(f"i={operation['i']}: because without difference")
    return found


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.stem)
def test_a_line_says_because_if_and_only_if_it_differs_from_the_recorded_code(path: Path) -> None:
    recorded = RECORDED / "hotplug-v3-as-posted" / path.name
    if recorded.exists():
        assert wrong_lines(lines(path), lines(recorded)) == []
        return
    plain = [operation for operation in lines(path) if "because" not in operation]
    assert [operation["i"] for operation in plain if answer(operation) not in recorded_answers()] == []


@functools.cache
def recorded_answers() -> frozenset[str]:
    """The lines of all recordings."""
    return frozenset(answer(operation) for path in find([RECORDED]) for operation in lines(path))


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.stem)
def test_each_because_names_a_sentence_of_the_series_or_a_rule_of_the_kernels(path: Path) -> None:
    reasons = {operation["i"]: operation for operation in lines(path) if "because" in operation}
    assert [f"i={number}: {line['because']}" for number, line in reasons.items() if not has_source(line, reasons)] == []


def has_source(operation: Operation, reasons: dict[int, Operation]) -> bool:
    """Whether a `because` names what it follows from, and that exists."""
    why: str = operation["because"]
    rows = re.findall(r"\brow '([^']+)'", why)
    sections = re.findall(r"KERNEL\.md (\d)\b", why) + re.findall(r"(?<![\w.])(7\.3-\d+)\b", why)
    earlier = _FOLLOWS.match(why)
    if not set(rows) <= _ROWS or not set(sections) <= _SECTIONS:
        return False
    if earlier is not None:  # 0 is the header, which says what all lines are derived from
        return int(earlier[1]) < operation["i"] and (earlier[1] == "0" or int(earlier[1]) in reasons)
    sessions = re.findall(r"(?:operation|section) of ([\w.-]+/[\w.-]+)", why)
    if not all((RECORDED / f"{name}.jsonl").exists() for name in sessions):
        return False
    return bool(rows or sections or _SERIES.search(why) or _PREPARATION.match(why))


READ = {"op": "read", "path": "/sys/a", "off": None}


@pytest.mark.parametrize(
    ("own", "wrong"),
    [
        ([{**READ, "data": "1"}], []),
        ([{**READ, "data": "2"}], ["i=1: differs without because"]),
        ([{**READ, "data": "2", "because": "x"}], []),
        ([{**READ, "data": "1", "because": "x"}], ["i=1: because without difference"]),
        ([{**READ, "data": "1"}, {**READ, "data": "1"}], ["i=2: differs without because"]),
        ([{**READ, "data": "1"}, {**READ, "data": "1", "because": "x"}], []),
    ],
)
def test_a_wrong_because_is_found(own: list[Operation], wrong: list[str]) -> None:
    recorded = [{**READ, "i": 1, "data": "1"}]
    numbered = [{**line, "i": number} for number, line in enumerate(own, 1)]
    assert wrong_lines(numbered, recorded) == wrong


@pytest.mark.parametrize("why", ["", "so it is", "row 'no such row'", "7.3-99: x", "follows from i=3", "patch 8"])
def test_a_because_without_a_source_is_found(why: str) -> None:
    assert not has_source({"i": 2, "because": why}, {3: {}})
