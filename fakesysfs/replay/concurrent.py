"""Operations in which several processes act at the same time: races, and the stuck offline of `pinned`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from fakesysfs.replay import probes
from fakesysfs.replay.recording import Operation
from fakesysfs.replay.report import difference
from fakesysfs.replay.target import (
    BlockedError,
    NotSupportedError,
    Outcome,
    Process,
    RaceWriter,
    Target,
    errno_number,
)

# Races -------------------------------------------------------------------------------------------------------------

_ALLOWED = (
    (re.compile(r"/memory\d+/(state|online)$"), frozenset({"ok", "EINVAL", "ENODEV", "open ENOENT"})),
    (re.compile(r"/drivers/[^/]+/bind$"), frozenset({"ok", "EBUSY", "ENODEV"})),
    (re.compile(r"/drivers/[^/]+/unbind$"), frozenset({"ok", "ENODEV"})),
    (re.compile(r"/drivers/[^/]+/(new_id|remove_id)$|/auto_online_blocks$"), frozenset({"ok"})),
    (re.compile(r"/dax\d+\.\d+/(state|hotplug)$"), frozenset({"ok"})),
)
"""Path -> the outcomes that KERNEL.md allows a writer whatever the others do (sections 2, 4, 7.3-7)."""

_CONTENDED = frozenset({"EBUSY"})
"""Allowed too where another writer asks the same attribute for another online type."""


def race_differences(target: Target, operation: Operation) -> list[str]:
    """Let the writers of a race run. Differences: outcomes and values neither recorded nor allowed by KERNEL.md."""
    writers = [
        RaceWriter(name, path, [text.encode("latin-1") for text in data]) for name, path, data in operation["writers"]
    ]
    result = target.race(writers, writers[0].path)
    recorded = {(name, data, outcome) for name, data, outcome, _ in operation["stats"]}
    allowed = set(recorded)
    for writer in writers:
        for data in writer.data:
            outcomes = _allowed_outcomes(writer, data, writers)
            allowed |= {(writer.name, data.decode("latin-1"), outcome) for outcome in outcomes}
    got = {(name, data.decode("latin-1"), outcome) for name, data, outcome in result.outcomes}
    values = {value.decode("latin-1").rstrip("\n") for value in result.values}
    return difference("outcomes never recorded", [], sorted(got - allowed)) + difference(
        "values never recorded", [], sorted(values - set(operation["reads"]) - _states(writers))
    )


def _allowed_outcomes(writer: RaceWriter, data: bytes, writers: list[RaceWriter]) -> frozenset[str]:
    outcomes = next((outcomes for pattern, outcomes in _ALLOWED if pattern.search(writer.path)), frozenset())
    online = {
        word for other in writers if other.path == writer.path for word in other.data if word.startswith(b"online")
    }
    contended = data in online and len(online) > 1 and "/dax" in writer.path
    return outcomes | _CONTENDED if contended else outcomes


_READS = ((re.compile(r"/memory\d+/state$"), ("online", "offline", "going-offline")),)
"""Path -> the words that it reads, where they differ from those written (KERNEL.md 2)."""


def _states(writers: list[RaceWriter]) -> set[str]:
    """The words that the raced attribute may read: those of _READS, or those written to it."""
    own = next((words for pattern, words in _READS if pattern.search(writers[0].path)), None)
    if own is not None:
        return set(own)
    words = {
        data.decode("latin-1").strip() for other in writers if other.path == writers[0].path for data in other.data
    }
    return {"unplugged" if word == "unplug" else word for word in words}


# The stuck offline of `pinned` ------------------------------------------------------------------------------------

_STUCK_ALARM = 4.0
_RESULT = re.compile(r"(-?\d+) (\d+) ")
_POLICY = "/sys/devices/system/memory/auto_online_blocks"
_BLOCK_EVENT = re.compile(r"online@(/devices/system/memory/memory\d+)$")


@dataclass(slots=True)
class StuckOffline:
    """A write of `offline` that waits for a pinned page, and what others do meanwhile (FORMAT.md, 7.2/07).

    Several lines record it: `raw` lines without calls, then `pinned`. They have the results but not
    all paths. The stuck block is where pins land (machine.json): the lowest online Movable block of
    the pinned node. The uevents name the other block.
    """

    pinned: Operation
    results: dict[str, Outcome] = field(default_factory=dict)
    seen: dict[str, list[str]] = field(default_factory=dict)
    stuck: Outcome | None = None

    def replay(self, target: Target, node: int | None) -> None:
        """Do all of it. `node` is the pinned node."""
        block = _lowest_movable(target, node)
        others = [found[1] for event in self.pinned["uevents"] if (found := _BLOCK_EVENT.match(event[0]))]
        if block is None or len(others) != 1:
            raise NotSupportedError("a `pinned` operation needs a pinned block and one other block")
        self._note_values(target, block)
        process = target.spawn(f"{block}/state", b"offline", _STUCK_ALARM)
        self._note_values(target, block)
        other = target.spawn(f"/sys{others[0]}/state", b"online\n", 1.0)
        self.results["auto_online_blocks"] = target.write_file(_POLICY, b"offline\n", 1)
        self._wait(target, other, process)
        self._note_values(target, block)

    def _wait(self, target: Target, other: Process, process: Process) -> None:
        if not target.wait(process) or not target.wait(other):
            raise BlockedError("the writes of a `pinned` operation do not return")
        self.stuck = process.outcome()
        self.results["concurrent write"] = other.outcome()

    def _note_values(self, target: Target, block: str) -> None:
        for key, name in (("state_seen", "state"), ("vz_seen", "valid_zones")):
            self.seen.setdefault(key, []).append(target.read_text(f"{block}/{name}").strip())

    def compare_raw(self, operation: Operation) -> list[str]:
        """Differences of a `raw` line. Its result is `RETURN ERRNO  SECONDS`."""
        got = next((result for label, result in self.results.items() if operation["label"].startswith(label)), None)
        if got is None:
            raise NotSupportedError(f"raw operation without calls: {operation['label']}")
        return _result_difference(operation["label"], operation["result"], got)

    def compare_pinned(self, operation: Operation) -> list[str]:
        """Differences of the `pinned` line: the stuck write, and what the readers saw in turn."""
        assert self.stuck is not None
        differences = _result_difference("stuck write", operation["result"], self.stuck)
        for key, values in self.seen.items():
            differences += difference(key, [value for value, _ in operation[key]], values)
        return differences


def _result_difference(what: str, recorded: str, got: Outcome) -> list[str]:
    found = _RESULT.match(recorded)
    assert found is not None
    expected: tuple[Any, int] = (int(found[1]), int(found[2]))
    return difference(what, expected, (-1 if got.ret is None else got.ret, errno_number(got.errno or 0)))


def _lowest_movable(target: Target, node: int | None) -> str | None:
    for number, values in sorted(probes.blocks(target).items(), key=lambda item: int(item[0])):
        if values[0] == "online" and values[2] == "Movable" and values[3] == f"node{node}":
            return f"/sys/devices/system/memory/memory{number}"
    return None


def pinned_index(operations: list[Operation], index: int) -> int | None:
    """The index of the `pinned` line that a line belongs to, or None. `raw` lines without calls precede it."""
    while index < len(operations) and operations[index]["op"] == "raw" and not operations[index].get("calls"):
        index += 1
    return index if index < len(operations) and operations[index]["op"] == "pinned" else None
