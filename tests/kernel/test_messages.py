"""The log and the uevents: bounded, honest about what was dropped, and ranges that read as single events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fakesysfs.kernel.printk import ERR, INFO, Printk
from fakesysfs.kernel.uevent import Uevents


def test_messages_are_numbered_from_0_and_timed() -> None:
    clock = iter([0.5, 1.5])
    log = Printk(lambda: next(clock))
    log(INFO, "one")
    log(ERR, "two")
    assert [tuple(record) for record in log.since(0)] == [(0, 0.5, INFO, "one"), (1, 1.5, ERR, "two")]
    assert [record.text for record in log.since(1)] == ["two"]
    assert log.since(2) == []
    assert log.since(99) == []


def test_the_log_keeps_the_last_messages_and_counts_the_others() -> None:
    log = Printk(capacity=3)
    for number in range(5):
        log(INFO, str(number))
    assert [record.text for record in log.since(0)] == ["2", "3", "4"]
    assert (log.dropped, log.sequence) == (2, 5)


def test_who_waits_for_messages_or_events_is_woken_once() -> None:
    calls: list[str] = []
    log, uevents = Printk(), Uevents()
    log.arrived.add(lambda: calls.append("message"))
    uevents.arrived.add(lambda: calls.append("event"))
    log(INFO, "x")
    log(INFO, "x")
    uevents.send("add", "/devices/x", "x")
    uevents.send("add", "/devices/x", "x")
    assert calls == ["message", "event"]


def test_an_event_has_the_kernels_lines() -> None:
    """KERNEL.md 2: ACTION, DEVPATH, SUBSYSTEM, then what the device adds."""
    uevents = Uevents()
    uevents.send("bind", "/devices/dax0.0", "dax", ("MAJOR=254", "MINOR=0"))
    assert uevents.since(0) == [
        ["bind@/devices/dax0.0", "ACTION=bind", "DEVPATH=/devices/dax0.0", "SUBSYSTEM=dax", "MAJOR=254", "MINOR=0"]
    ]


def test_a_range_is_one_record_and_reads_as_events_of_single_devices() -> None:
    uevents = Uevents()
    uevents.send("add", "/m/memory", "memory", (), 8, 11)
    uevents.send("add", "/m/memory", "memory", (), 12, 12)
    uevents.send("online", "/m/memory", "memory", (), 8, 8)
    assert len(uevents.records()) == 2
    heads = [(number, lines[0]) for number, lines in uevents.numbered()]
    assert heads == [
        (1, "add@/m/memory8"), (2, "add@/m/memory9"), (3, "add@/m/memory10"), (4, "add@/m/memory11"),
        (5, "add@/m/memory12"), (6, "online@/m/memory8"),
    ]  # fmt: skip
    assert [number for number, _ in uevents.numbered(4)] == [4, 5, 6]
    assert uevents.sequence == 7


def test_dropped_events_are_counted_not_records() -> None:
    uevents = Uevents(capacity=2)
    uevents.send("add", "/m/memory", "memory", (), 0, 9)
    uevents.send("change", "/x", "x")
    assert uevents.dropped == 0
    uevents.send("change", "/x", "x")
    assert uevents.dropped == 10
    assert [number for number, _ in uevents.numbered()] == [11, 12]


@given(
    st.lists(st.tuples(st.sampled_from(["add", "online"]), st.integers(-1, 6), st.integers(0, 3)), max_size=30),
    st.integers(0, 40),
)
def test_joining_neighbours_changes_nothing_that_can_be_read(sent: list[tuple[str, int, int]], after: int) -> None:
    uevents = Uevents()
    singly: list[tuple[int, str]] = []
    for action, first, more in sent:
        if first < 0:
            singly.append((len(singly) + 1, f"{action}@/x"))
            uevents.send(action, "/x", "x")
        else:
            singly += [(len(singly) + 1 + number, f"{action}@/x{first + number}") for number in range(more + 1)]
            uevents.send(action, "/x", "x", (), first, first + more)
    assert [(number, lines[0]) for number, lines in uevents.numbered(after)] == [
        one for one in singly if one[0] >= after
    ]
