"""Operations in which several processes act at once: races, and the scene around `pinned`."""

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
"""Path -> outcomes that KERNEL.md allows to a writer whatever the others do (sections 2, 4, 7.3-7)."""

_CONTENDED = frozenset({"EBUSY"})
"""And to one who asks for another online type than a competitor of the same attribute."""


def race_differences(target: Target, operation: Operation) -> list[str]:
    """Let the writers of a race run; outcomes and values that neither were recorded nor stand in KERNEL.md's probes."""
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
"""Path -> the words that it reads, which are others than those written (KERNEL.md 2)."""


def _states(writers: list[RaceWriter]) -> set[str]:
    """The words that the raced attribute may read: its own, or those written to it."""
    own = next((words for pattern, words in _READS if pattern.search(writers[0].path)), None)
    if own is not None:
        return set(own)
    words = {
        data.decode("latin-1").strip() for other in writers if other.path == writers[0].path for data in other.data
    }
    return {"unplugged" if word == "unplug" else word for word in words}


# The scene around `pinned` ----------------------------------------------------------------------------------------

_STUCK_ALARM = 4.0
_RESULT = re.compile(r"(-?\d+) (\d+) ")
_POLICY = "/sys/devices/system/memory/auto_online_blocks"
_BLOCK_EVENT = re.compile(r"online@(/devices/system/memory/memory\d+)$")


@dataclass(slots=True)
class PinnedScene:
    """An `offline` that hangs on a pinned page, and what others do meanwhile (FORMAT.md, 7.2/07).

    The lines say what came of it, not which files it was kobj: the stuck block is where pins land (machine.json), the
    lowest online Movable block of the pinned node; the other one is in the uevents.
    """

    pinned: Operation
    results: dict[str, Outcome] = field(default_factory=dict)
    seen: dict[str, list[str]] = field(default_factory=dict)
    stuck: Outcome | None = None

    def act(self, target: Target, node: int | None) -> None:
        """Play the scene."""
        block = _lowest_movable(target, node)
        others = [found[1] for event in self.pinned["uevents"] if (found := _BLOCK_EVENT.match(event[0]))]
        if block is None or len(others) != 1:
            raise NotSupportedError("a pinned scene without a pinned block or without one other block")
        self._look(target, block)
        process = target.spawn(f"{block}/state", b"offline", _STUCK_ALARM)
        self._look(target, block)
        other = target.spawn(f"/sys{others[0]}/state", b"online\n", 1.0)
        self.results["auto_online_blocks"] = target.write_file(_POLICY, b"offline\n", 1)
        self._end(target, other, process)
        self._look(target, block)

    def _end(self, target: Target, other: Process, process: Process) -> None:
        if not target.wait(process) or not target.wait(other):
            raise BlockedError("the pinned scene does not end")
        self.stuck = process.outcome()
        self.results["concurrent write"] = other.outcome()

    def _look(self, target: Target, block: str) -> None:
        for key, name in (("state_seen", "state"), ("vz_seen", "valid_zones")):
            self.seen.setdefault(key, []).append(target.read_text(f"{block}/{name}").strip())

    def compare_raw(self, operation: Operation) -> list[str]:
        """One of the others' lines: result `RETURN ERRNO  SECONDS`."""
        got = next((result for label, result in self.results.items() if operation["label"].startswith(label)), None)
        if got is None:
            raise NotSupportedError(f"raw operation without calls: {operation['label']}")
        return _result_difference(operation["label"], operation["result"], got)

    def compare_pinned(self, operation: Operation) -> list[str]:
        """The stuck write itself, and what the readers saw in turn."""
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


def scene_end(operations: list[Operation], index: int) -> int | None:
    """The index of the `pinned` line that ends a line's scene: `raw` lines without calls lead to it."""
    while index < len(operations) and operations[index]["op"] == "raw" and not operations[index].get("calls"):
        index += 1
    return index if index < len(operations) and operations[index]["op"] == "pinned" else None
