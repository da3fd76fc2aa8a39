"""The whole-device attribute: every state times every word, per kernel.

The tables stand here as KERNEL.md prints them (sections 6, 7.3-1, the table of profiles), not as profile.py has them.
"""

from __future__ import annotations

import pytest

from fakesysfs.kernel.dax.bus import memmap_on_memory_store
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.memory_hotplug import Parameters
from fakesysfs.kernel.profile import Mmop
from tests.model import (
    bind,
    block_state,
    block_table,
    booted,
    dax,
    errno_of,
    events_since,
    iomem_lines,
    kmem_log,
    name_of,
    read_state,
    span,
    unbind,
    with_ranges,
    world,
    write_state,
)

SAME, PLUG, UNPLUG = "same", "plug", "unplug"

SERIES = {
    #                  unplugged  offline  online  online_movable
    "unplug":         (SAME,      UNPLUG,  UNPLUG, UNPLUG),
    "online":         (PLUG,      "EBUSY", SAME,   "EBUSY"),
    "online_movable": (PLUG,      "EBUSY", "EBUSY", SAME),
    "unplugged":      ("EINVAL",) * 4,
    "offline":        ("EINVAL",) * 4,
    "online_kernel":  ("EINVAL",) * 4,
}  # fmt: skip
SERIES_STATES = ("unplugged", "offline", "online", "online_movable")

MERGED = {
    #                  unplugged  offline   online   online_kernel  online_movable
    "unplugged":      (SAME,      UNPLUG,   UNPLUG,  UNPLUG,        UNPLUG),
    "online":         (PLUG,      "EBUSY",  SAME,    "EBUSY",       "EBUSY"),
    "online_kernel":  (PLUG,      "EBUSY",  "EBUSY", SAME,          "EBUSY"),
    "online_movable": (PLUG,      "EBUSY",  "EBUSY", "EBUSY",       SAME),
    "offline":        ("EINVAL",) * 5,
    "unplug":         ("EINVAL",) * 5,
}  # fmt: skip
MERGED_STATES = ("unplugged", "offline", "online", "online_kernel", "online_movable")

# The posted code cannot be bound offline: "offline" is unreachable there (KERNEL.md 6).
CASES = [
    (profile, state, word, outcome)
    for profile, table, states in (
        ("hotplug-v3", SERIES, SERIES_STATES),
        ("hotplug-v3-as-posted", SERIES, SERIES_STATES),
        ("7.3", MERGED, MERGED_STATES),
    )
    for word, outcomes in table.items()
    for state, outcome in zip(states, outcomes, strict=True)
    if (profile, state) != ("hotplug-v3-as-posted", "offline")
]
UNPLUG_WORD = {"hotplug-v3": "unplug", "hotplug-v3-as-posted": "unplug", "7.3": "unplugged"}
ZONE = {"offline": "offline", "online": "Normal", "online_kernel": "Normal", "online_movable": "Movable"}


def in_state(profile: str, state: str, blocks: int = 4) -> Kernel:
    """A device bound and in a state: under that policy, or plugged and unplugged."""
    policy = Mmop.ONLINE_MOVABLE if state == "unplugged" else Mmop[state.upper()]
    kernel = booted(profile, policy=policy, blocks=blocks)
    if state == "unplugged":
        assert write_state(kernel, UNPLUG_WORD[profile]) == "ok"
    assert read_state(kernel) == state
    return kernel


@pytest.mark.parametrize(("profile", "state", "word", "outcome"), CASES)
def test_transition(profile: str, state: str, word: str, outcome: str) -> None:
    kernel = in_state(profile, state)
    before, log, events = world(kernel), kernel.printk.sequence, kernel.uevents.sequence
    errno = write_state(kernel, word)
    if outcome not in {PLUG, UNPLUG}:
        assert errno == (outcome if outcome != SAME else "ok")
        assert read_state(kernel) == state
        assert world(kernel) == before
        assert (kernel.printk.sequence, kernel.uevents.sequence) == (log, events)
        return
    assert errno == "ok"
    sent = [event for event in events_since(kernel, events) if "tier" not in event]
    blocks = range(48, 52)
    if outcome == UNPLUG:
        assert read_state(kernel) == "unplugged"
        assert block_table(kernel) == {}
        offlined = [f"offline memory{index}" for index in blocks if state != "offline"]
        assert sent == [*offlined, *(f"remove memory{index}" for index in blocks), "remove node2"]
        assert not kernel.nodes[2].online
    else:
        assert read_state(kernel) == word
        assert block_table(kernel) == dict.fromkeys(blocks, ZONE[word])
        assert sent == [
            "add node2", *(f"add memory{index}" for index in blocks), *(f"online memory{index}" for index in blocks)
        ]  # fmt: skip


NOT_WORDS = [
    b"\n", b"\n\n", b" online", b"online ", b"online\n\n", b"online\r\n", b"online\r", b"\tonline", b"Online",
    b"ONLINE", b"onlin", b"onlinee", b"online_movabl", b"online_movable_", b"online-movable", b"online movable", b"0",
    b"1", b"-1", b"unplu", b"plug", b"unknown", b"UNPLUG", b"Unplugged", b"going-offline", b"\0", b"\0online",
    b"\xff\xfe", b"x" * 4096, b"online" * 600,
]  # fmt: skip


@pytest.mark.parametrize("profile", UNPLUG_WORD)
@pytest.mark.parametrize("state", ["unplugged", "online_movable"])
def test_what_is_no_word_is_refused_before_any_lock(profile: str, state: str) -> None:
    """KERNEL.md 6 and 7.3-1: garbage is EINVAL at once, even while another writer is stuck."""
    kernel = in_state(profile, state)
    data = dax(kernel).driver_data
    assert data.lock.trylock()
    for word in NOT_WORDS:
        assert write_state(kernel, word) == "EINVAL", word
    assert read_state(kernel) == state


@pytest.mark.parametrize("profile", UNPLUG_WORD)
@pytest.mark.parametrize("form", [b"%s", b"%s\n", b"%s\0junk", b"%s\n\0junk", b"%s\0"])
def test_a_word_with_a_newline_or_bytes_after_a_nul(profile: str, form: bytes) -> None:
    kernel = in_state(profile, "online_movable")
    assert write_state(kernel, form % UNPLUG_WORD[profile].encode()) == "ok"
    assert read_state(kernel) == "unplugged"


@pytest.mark.parametrize(("profile", "cycles"), [("hotplug-v3", 20), ("7.3", 20)])
def test_cycles_without_limit_and_without_a_trace(profile: str, cycles: int) -> None:
    """MemTotal, /proc/iomem, blocks and tiers return exactly (KERNEL.md 7.3-3; the table of profiles)."""
    kernel = in_state(profile, "online_movable")
    plugged = world(kernel)
    unplugged = None
    for _ in range(cycles):
        assert write_state(kernel, UNPLUG_WORD[profile]) == "ok"
        unplugged = unplugged or world(kernel)
        assert world(kernel) == unplugged
        assert write_state(kernel, "online_movable") == "ok"
        assert world(kernel) == plugged
    assert kmem_log(kernel) == []


@pytest.mark.parametrize(
    ("profile", "unplugged", "plugged_again"),
    [
        ("hotplug-v3", ["48-51 dax0.0"], ["48-51 dax0.0", "  48-51 System RAM (kmem)"]),
        ("hotplug-v3-as-posted", [], ["48-51 System RAM (kmem)"]),
        ("7.3", [], ["48-51 dax0.0", "  48-51 System RAM (kmem)"]),
    ],
)
def test_the_reservation_over_a_cycle(profile: str, unplugged: list[str], plugged_again: list[str]) -> None:
    """Row "iomem reservation" of the table of profiles; KERNEL.md 7.2 and 7.3-3."""
    kernel = in_state(profile, "online_movable")
    assert iomem_lines(kernel) == ["48-51 dax0.0", "  48-51 System RAM (kmem)"]
    assert write_state(kernel, UNPLUG_WORD[profile]) == "ok"
    assert iomem_lines(kernel) == unplugged
    assert write_state(kernel, "online_movable") == "ok"
    assert iomem_lines(kernel) == plugged_again


def test_7_2_has_no_attribute() -> None:
    assert not dax(booted("7.2")).driver_data.attribute_exists


@pytest.mark.parametrize("profile", UNPLUG_WORD)
def test_the_attribute_exists_while_kmem_is_bound(profile: str) -> None:
    kernel = in_state(profile, "unplugged")
    bound = dax(kernel).driver_data
    assert bound.attribute_exists
    assert unbind(kernel) == "ok"
    assert dax(kernel).driver_data is None
    assert not bound.attribute_exists
    assert bind(kernel) == "ok"
    assert dax(kernel).driver_data is not bound


@pytest.mark.parametrize("profile", UNPLUG_WORD)
def test_what_is_done_to_blocks_by_hand_does_not_show(profile: str) -> None:
    """KERNEL.md 6 and 7.3-5: the attribute is unaware of blocks; same state succeeds; unplug works from any mix."""
    kernel = in_state(profile, "online_movable")
    for index in range(48, 52):
        assert block_state(kernel, index, "offline") == "ok"
    assert read_state(kernel) == "online_movable"
    assert write_state(kernel, "online_movable") == "ok"
    assert set(block_table(kernel).values()) == {"offline"}
    assert write_state(kernel, "online") == "EBUSY"
    assert block_state(kernel, 49, "online_movable") == "ok"
    assert block_state(kernel, 51, "online_kernel") == "ok"
    events = kernel.uevents.sequence
    assert write_state(kernel, UNPLUG_WORD[profile]) == "ok"
    assert block_table(kernel) == {}
    offlined = [event for event in events_since(kernel, events) if event.startswith("offline")]
    assert offlined == ["offline memory49", "offline memory51"]


def test_7_3_from_offline_with_all_blocks_onlined_by_hand() -> None:
    """KERNEL.md 7.3-5: reads offline, online* is EBUSY, unplugged offlines and removes."""
    kernel = in_state("7.3", "offline")
    for index in range(48, 52):
        block_state(kernel, index, "online_movable")
    assert read_state(kernel) == "offline"
    for word in ("online", "online_kernel", "online_movable"):
        assert write_state(kernel, word) == "EBUSY"
    assert write_state(kernel, "unplugged") == "ok"
    assert block_table(kernel) == {}


@pytest.mark.parametrize(
    ("profile", "order"),
    [
        ("hotplug-v3", ["offline", "offline", "remove", "remove"]),
        ("7.3", ["offline", "offline", "remove", "remove"]),
        ("hotplug-v3-as-posted", ["offline", "remove", "offline", "remove"]),
    ],
)
def test_the_order_of_events_with_two_ranges(profile: str, order: list[str]) -> None:
    """Row "uevents of an unplug of several ranges"; plugging is range by range everywhere (KERNEL.md 7.3-3)."""
    kernel = with_ranges(profile, span(48, 51), span(56, 59))
    assert bind(kernel) == "ok"
    events = kernel.uevents.sequence
    assert write_state(kernel, UNPLUG_WORD[profile]) == "ok"
    assert write_state(kernel, "online_movable") == "ok"
    runs: list[str] = []
    for event in events_since(kernel, events):
        action, _, name = event.partition(" ")
        if name.startswith("memory_tier") or not name.startswith("memory"):
            continue
        run = f"{action} {int(int(name[6:]) >= 56)}"
        if not runs or runs[-1] != run:
            runs.append(run)
    numbers = iter((0, 0, 1, 1) if order[1] == "remove" else (0, 1, 0, 1))
    assert runs[:4] == [f"{action} {next(numbers)}" for action in order]
    assert runs[4:] == ["add 0", "online 0", "add 1", "online 1"]


def memmap(kernel: Kernel, buffer: bytes) -> str:
    return name_of(errno_of(memmap_on_memory_store(dax(kernel), buffer)))


@pytest.mark.parametrize("profile", UNPLUG_WORD)
def test_the_memory_map_follows_the_attribute_at_each_plug(profile: str) -> None:
    """KERNEL.md 3 and 6: 131072 kB a block, 129024 kB with the map in it; EBUSY while bound, unplugged or not."""
    kernel = booted(profile, blocks=4, parameters=Parameters(memmap_on_memory=True))
    assert kernel.nodes[2].managed_kb == 4 * 131072
    assert memmap(kernel, b"1\n") == "EBUSY"
    assert write_state(kernel, UNPLUG_WORD[profile]) == "ok"
    assert memmap(kernel, b"1\n") == "EBUSY"
    assert memmap(kernel, b"0\n") == "ok"
    assert unbind(kernel) == "ok"
    assert memmap(kernel, b"1\n") == "ok"
    assert bind(kernel) == "ok"
    assert kernel.nodes[2].managed_kb == 4 * 129024
    assert kernel.memory_hotplug.nr_memmap_pages == 4 * 512
