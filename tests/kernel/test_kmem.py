"""kmem beside its attribute: policy at bind, several ranges, failures, unbind; and the posted series' mistakes.

Sources: KERNEL.md's table of profiles, sections 4, 6, 7 and 7.3-2 to 7.3-6, whose words and messages stand here.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fakesysfs.kernel.config import Config
from fakesysfs.kernel.dax.bus import DaxMapping, mapping_store, size_store
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.memory_block import MemoryGroup
from fakesysfs.kernel.profile import Mmop
from fakesysfs.kernel.range import Range
from fakesysfs.kernel.zones import PAGE_SHIFT
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import Answer
from fakesysfs.testing.tasks import Signal, Tasks
from tests.model import (
    BLOCK,
    bind,
    block_state,
    block_table,
    booted,
    dax,
    drive,
    errno_of,
    events_since,
    iomem_lines,
    kmem,
    kmem_log,
    log_since,
    name_of,
    online_blocks,
    read_state,
    set_policy,
    small_setup,
    span,
    unbind,
    with_ranges,
    world,
    write_state,
)

POLICIES = ("offline", "online", "online_kernel", "online_movable")
SERIES = ("hotplug-v3", "hotplug-v3-as-posted")
UNPLUG = {"hotplug-v3": "unplug", "hotplug-v3-as-posted": "unplug", "7.3": "unplugged"}
ZONES = {"offline": "offline", "online": "Normal", "online_kernel": "Normal", "online_movable": "Movable"}

# Policy -----------------------------------------------------------------------------------------------------------

REFUSED = ("EINVAL", None, None)


def expected_policy(profile: str, created: str, bound: str) -> tuple[str, str | None, str | None]:
    """(outcome of bind, word of the attribute, zone of the blocks; None for none): KERNEL.md 6 and 7.3-2."""
    if profile in {"7.2", "7.3"}:
        return "ok", bound if profile == "7.3" else None, ZONES[bound]
    unplugged = ("ok", "unplugged", None)
    if profile == "hotplug-v3-as-posted":
        return {
            "offline": REFUSED if bound == "offline" else unplugged,
            "online": ("ok", "online", "Normal"),
            "online_kernel": REFUSED,
            "online_movable": ("ok", "online_movable", "Movable"),
        }[created]
    return {
        "offline": ("ok", "offline", "offline") if bound == "offline" else unplugged,
        "online": ("ok", "online", "Normal"),
        "online_kernel": ("ok", "online", "Normal"),
        "online_movable": ("ok", "online_movable", "Movable"),
    }[created]


@pytest.mark.parametrize("bound", POLICIES)
@pytest.mark.parametrize("created", POLICIES)
@pytest.mark.parametrize("profile", [*SERIES, "7.2", "7.3"])
def test_created_under_one_policy_bound_under_another(profile: str, created: str, bound: str) -> None:
    kernel = booted(profile, policy=Mmop[created.upper()], blocks=4, modules=("device_dax", "dax_hmem"))
    set_policy(kernel, bound)
    log = kernel.printk.sequence
    drive(kernel.modprobe("kmem"))
    outcome, word, zone = expected_policy(profile, created, bound)
    if outcome != "ok":
        assert dax(kernel).driver is None
        assert bind(kernel) == outcome
        failed = "<3>kmem dax0.0: probe with driver kmem failed with error -22"
        assert kmem_log(kernel, log) == [failed, failed]
        assert (block_table(kernel), iomem_lines(kernel), kernel.nodes[2].online) == ({}, [], False)
        return
    assert dax(kernel).driver is kmem(kernel)
    if word is not None:
        assert read_state(kernel) == word
    assert block_table(kernel) == ({} if zone is None else dict.fromkeys(range(48, 52), zone))
    assert kmem_log(kernel, log) == []


@pytest.mark.parametrize("profile", [*SERIES, "7.2", "7.3"])
def test_a_policy_changed_while_bound_changes_nothing(profile: str) -> None:
    kernel = booted(profile, blocks=4)
    before = world(kernel)
    for word in POLICIES:
        set_policy(kernel, word)
        assert world(kernel) == before


@pytest.mark.parametrize("profile", SERIES)
def test_a_device_created_offline_and_bound_later_holds_its_reservation(profile: str) -> None:
    """KERNEL.md 7.2: never-plugged unplugged devices do hold the reservation."""
    kernel = booted(profile, policy=Mmop.OFFLINE, blocks=4, modules=("device_dax", "dax_hmem"))
    set_policy(kernel, "online")
    drive(kernel.modprobe("kmem"))
    assert iomem_lines(kernel) == ["48-51 dax0.0"]
    assert write_state(kernel, "unplug") == "ok"
    assert write_state(kernel, "online_movable") == "ok"
    assert iomem_lines(kernel) == ["48-51 dax0.0", "  48-51 System RAM (kmem)"]


# A failed unplug --------------------------------------------------------------------------------------------------


def with_unmovable(profile: str, *flagged: int) -> Kernel:
    kernel = with_ranges(profile, span(48, 51), span(56, 59))
    assert bind(kernel) == "ok"
    kernel.memory_blocks.unmovable.update(flagged)
    return kernel


@pytest.mark.parametrize("profile", ["hotplug-v3", "7.3"])
@pytest.mark.parametrize("block", [48, 50, 56, 59])
def test_a_failed_unplug_leaves_everything_as_it_was(profile: str, block: int) -> None:
    """Row "failed unplug"; KERNEL.md 7.3-4."""
    kernel = with_unmovable(profile, block)
    block_state(kernel, 49, "offline")
    block_state(kernel, 57, "offline")
    block_state(kernel, 57, "online_kernel")
    before, log, events = world(kernel), kernel.printk.sequence, kernel.uevents.sequence
    assert write_state(kernel, UNPLUG[profile]) == "EBUSY"
    assert world(kernel) == before
    assert read_state(kernel) == "online_movable"
    number, first, last = (0, 48, 51) if block < 56 else (1, 56, 59)
    ends = f"{first * BLOCK:#x}-{(last + 1) * BLOCK - 1:#x}"
    failure = {
        "hotplug-v3": f"<3>kmem dax0.0: mapping{number}: {ends} hotremove failed",
        "7.3": "<3>kmem dax0.0: hotremove failed, device left online: -16",
    }[profile]
    assert kmem_log(kernel, log) == ["<4>page dumped because: unmovable page", failure]
    done = [index for index in (48, 50, 51, 56, 57, 58, 59) if index < block]
    sent = [event for event in events_since(kernel, events) if "tier" not in event]
    assert sent == [*(f"offline memory{index}" for index in done), *(f"online memory{index}" for index in done)]


@pytest.mark.parametrize("profile", ["hotplug-v3", "7.3"])
def test_an_unplug_succeeds_as_soon_as_the_reason_is_gone(profile: str) -> None:
    kernel = with_unmovable(profile, 50)
    for _ in range(3):
        assert write_state(kernel, UNPLUG[profile]) == "EBUSY"
    kernel.memory_blocks.unmovable.clear()
    assert write_state(kernel, UNPLUG[profile]) == "ok"
    assert block_table(kernel) == {}


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("attribute", ["state", "online"])
def test_a_store_that_waited_while_its_block_went_is_enodev(attribute: str, again: bool) -> None:  # noqa: FBT001
    """KERNEL.md 7.3-7: ENODEV for a write after removal; a block of the same number is another one (kernfs)."""
    kernel = booted("hotplug-v3", blocks=4)
    blocks, lock = kernel.memory_blocks, kernel.device_hotplug_lock
    assert lock.trylock()
    store = blocks.state_store(50, b"offline") if attribute == "state" else blocks.online_store(50, b"0")
    store.send(None)  # it waits
    lock.unlock()
    assert write_state(kernel, "unplug") == "ok"
    if again:
        assert write_state(kernel, "online_movable") == "ok"
    with pytest.raises(KernelError, match="ENODEV"):
        store.send(Answer.WOKEN)
    assert not lock.locked
    assert online_blocks(kernel) == (4 if again else 0)


@pytest.mark.parametrize(
    ("profile", "outcome", "log"),
    [
        ("hotplug-v3", "EINTR", ["<3>kmem dax0.0: mapping0: 0x180000000-0x19fffffff hotremove failed"]),
        ("7.3", "EINTR", ["<3>kmem dax0.0: hotremove failed, device left online: -4"]),
        (
            "hotplug-v3-as-posted",
            "ok",
            [
                "<3>kmem dax0.0: mapping0: 0x180000000-0x19fffffff hotremove failed",
                "<4>kmem dax0.0: partial hotremove: 0 of 1 ranges removed",
            ],
        ),
    ],
)
def test_a_signal_ends_an_unplug_that_is_stuck_on_a_pinned_page(profile: str, outcome: str, log: list[str]) -> None:
    """Row "signal during a stuck unplug"; KERNEL.md 6 and 7.3-7: what readers see meanwhile, and who waits."""
    kernel = booted(profile, blocks=4)
    before, sequence = world(kernel), kernel.printk.sequence
    kernel.memory_blocks.pinned.add(50)
    tasks = Tasks()
    unplug = tasks.spawn(kmem(kernel).hotplug_store(dax(kernel), UNPLUG[profile].encode()))
    second = tasks.spawn(kmem(kernel).hotplug_store(dax(kernel), b"online"))
    block = tasks.spawn(kernel.memory_blocks.state_store(40, b"offline"))
    tasks.settle()
    assert (unplug.letter, second.letter, block.letter) == ("R", "D", "D")
    assert read_state(kernel) == "online_movable"
    assert list(block_table(kernel).values()) == ["offline", "offline", "Movable", "Movable"]
    assert kernel.memory_blocks.runs.get(50).state.value == "going-offline"  # type: ignore[union-attr]
    assert kernel.memory_blocks.valid_zones(50) == ["Movable", "Normal"]
    tasks.signal(second, Signal.SIGKILL)
    tasks.settle()
    assert second.letter == "D", "the mutex is deaf to SIGKILL"
    tasks.signal(unplug, Signal.SIGALRM)
    tasks.settle()
    assert [task.finished for task in (unplug, second, block)] == [True] * 3
    assert (unplug.error.name if unplug.error is not None else "ok") == outcome  # type: ignore[attr-defined]
    assert second.error is not None
    assert second.error.name == "EBUSY"  # type: ignore[attr-defined]
    assert block.error is None
    assert block_state(kernel, 40, "online") == "ok"
    assert world(kernel) == before
    migration = ["<4>migrating pfn 190000 failed ret:200", "<4>page dumped because: migration failure"]
    assert kmem_log(kernel, sequence) == [*migration, *log]


def test_as_posted_the_signal_is_pending_for_the_other_ranges_too() -> None:
    """offline_pages looks for a signal before it migrates anything: none of the ranges that follow is removed."""
    kernel = with_ranges("hotplug-v3-as-posted", span(48, 49), span(52, 53))
    assert bind(kernel) == "ok"
    before, log, events = world(kernel), kernel.printk.sequence, kernel.uevents.sequence
    kernel.memory_blocks.pinned.add(49)
    tasks = Tasks()
    unplug = tasks.spawn(kmem(kernel).hotplug_store(dax(kernel), b"unplug"))
    tasks.settle()
    tasks.signal(unplug, Signal.SIGALRM)
    tasks.settle()
    assert unplug.finished
    assert (unplug.error, read_state(kernel), world(kernel)) == (None, "online_movable", before)
    assert kmem_log(kernel, log)[2:] == [
        "<3>kmem dax0.0: mapping0: 0x180000000-0x18fffffff hotremove failed",
        "<3>kmem dax0.0: mapping1: 0x1a0000000-0x1afffffff hotremove failed",
        "<4>kmem dax0.0: partial hotremove: 0 of 2 ranges removed",
    ]
    assert events_since(kernel, events) == ["offline memory48", "online memory48"]


@pytest.mark.parametrize("signal", Signal)
@pytest.mark.parametrize("profile", ["hotplug-v3", "7.3"])
def test_a_signal_that_came_in_the_queue_ends_the_unplug_at_its_first_block(profile: str, signal: Signal) -> None:
    """The mutex is deaf to it, offline_pages is not; a block's `state` waits by restarts, after which it has none."""
    kernel = booted(profile, blocks=4)
    kernel.memory_blocks.pinned.add(50)
    tasks = Tasks()
    stuck, queued = (tasks.spawn(kmem(kernel).hotplug_store(dax(kernel), UNPLUG[profile].encode())) for _ in range(2))
    block = tasks.spawn(kernel.memory_blocks.state_store(51, b"offline"))
    tasks.settle()
    tasks.signal(queued, signal)
    tasks.signal(block, Signal.SIGALRM)
    tasks.settle()
    assert (queued.letter, block.letter) == ("D", "D")
    events = kernel.uevents.sequence
    tasks.signal(stuck, Signal.SIGALRM)
    tasks.settle()
    for task in (stuck, queued):
        assert isinstance(task.error, KernelError)
        assert task.error.name == "EINTR"
    assert block.finished
    assert block.error is None
    assert events_since(kernel, events) == ["online memory48", "online memory49", "offline memory51"]
    assert sum("hotremove failed" in line for line in kmem_log(kernel)) == 2


def test_a_signal_ends_an_unplug_whose_blocks_take_their_time_and_no_plug() -> None:
    """do_migrate_range is left for a signal, online_pages is not."""
    kernel = booted("7.3", blocks=4)
    before = world(kernel)
    kernel.preempt.latency.update(offline_block=10, online_block=10)
    tasks = Tasks()
    unplug = tasks.spawn(kmem(kernel).hotplug_store(dax(kernel), b"unplugged"))
    tasks.advance(25)
    assert list(block_table(kernel).values()) == ["offline", "offline", "Movable", "Movable"]
    tasks.signal(unplug, Signal.SIGALRM)
    tasks.advance(15)
    assert not unplug.finished, "it onlines the blocks again, whatever comes"
    tasks.signal(unplug, Signal.SIGKILL)
    tasks.advance(10)
    assert isinstance(unplug.error, KernelError)
    assert unplug.error.name == "EINTR"
    assert world(kernel) == before
    assert kmem_log(kernel)[-1] == "<3>kmem dax0.0: hotremove failed, device left online: -4"


@pytest.mark.parametrize("profile", UNPLUG)
def test_a_pin_released_meanwhile_lets_the_unplug_finish(profile: str) -> None:
    """KERNEL.md 7.3-7: a queued online_movable then plugs again."""
    kernel = booted(profile, blocks=4)
    assert kernel.pin(2) == 48, "pins land in the node's lowest online Movable block (KERNEL.md 9)"
    tasks = Tasks()
    unplug = tasks.spawn(kmem(kernel).hotplug_store(dax(kernel), UNPLUG[profile].encode()))
    plug = tasks.spawn(kmem(kernel).hotplug_store(dax(kernel), b"online_movable"))
    tasks.settle()
    kernel.unpin()
    tasks.settle()
    assert (unplug.outcome(), plug.outcome()) == (None, None)
    assert read_state(kernel) == "online_movable"
    assert set(block_table(kernel).values()) == {"Movable"}


def inject(kernel: Kernel, action: str, error: int) -> None:
    drive(kernel.modprobe("memory_notifier_error_inject"))
    directory = kernel.notifier_err_inject_dir
    assert directory is not None
    directory.injectors["memory"].actions[action].debugfs_errno_set(error)


@pytest.mark.parametrize("profile", UNPLUG)
def test_blocks_that_cannot_be_onlined_at_plug_stay_offline_and_nobody_is_told(profile: str) -> None:
    """Last row of the table of profiles; 7.3-4: a walk stops at its first failing block, the next range is tried."""
    kernel = with_ranges(profile, span(48, 49), span(56, 57))
    assert bind(kernel) == "ok"
    assert write_state(kernel, UNPLUG[profile]) == "ok"
    inject(kernel, "MEM_GOING_ONLINE", -12)
    log = kernel.printk.sequence
    assert write_state(kernel, "online_movable") == "ok"
    assert read_state(kernel) == "online_movable"
    assert block_table(kernel) == dict.fromkeys((48, 49, 56, 57), "offline")
    assert kmem_log(kernel, log) == ["<6>Injecting error (-12) to MEM_GOING_ONLINE"] * 2
    inject(kernel, "MEM_GOING_ONLINE", 0)
    assert write_state(kernel, "online_movable") == "ok"
    assert set(block_table(kernel).values()) == {"offline"}, "a same-state write repairs nothing"


@pytest.mark.parametrize(
    ("profile", "outcome"), [("hotplug-v3", "ENOMEM"), ("7.3", "ENOMEM"), ("hotplug-v3-as-posted", "ok")]
)
def test_an_injected_error_stops_an_unplug(profile: str, outcome: str) -> None:
    kernel = booted(profile, blocks=4)
    before = world(kernel)
    inject(kernel, "MEM_GOING_OFFLINE", -12)
    assert write_state(kernel, UNPLUG[profile]) == outcome
    assert world(kernel) == before


@pytest.mark.parametrize("profile", ["hotplug-v3", "7.3"])
def test_a_rollback_that_fails_too(profile: str) -> None:
    """KERNEL.md 7.3-4: a line per block, they stay offline, the errno is still the first one, the state is stale."""
    kernel = booted(profile, blocks=4)
    kernel.memory_blocks.unmovable.add(50)
    inject(kernel, "MEM_GOING_ONLINE", -12)
    log = kernel.printk.sequence
    assert write_state(kernel, UNPLUG[profile]) == "EBUSY"
    again = "<4>try_reonline_memory_block: Failed to re-online memory: -12"
    assert [line for line in kmem_log(kernel, log) if "re-online" in line] == [again, again]
    assert list(block_table(kernel).values()) == ["offline", "offline", "Movable", "Movable"]
    assert read_state(kernel) == "online_movable"


# Ranges that cannot be reserved or added ----------------------------------------------------------------------------


def taken(profile: str, which: int) -> Kernel:
    """dax0.0 with three ranges, one of which somebody else has reserved in /proc/iomem."""
    ranges = (span(48, 49), span(52, 53), span(56, 57))
    kernel = with_ranges(profile, *ranges)
    assert kernel.iomem.request_region(*ranges[which], "other") is not None
    return kernel


@pytest.mark.parametrize("profile", [*SERIES, "7.2", "7.3"])
def test_a_first_range_that_is_taken_fails_the_bind(profile: str) -> None:
    kernel = taken(profile, 0)
    log, before = kernel.printk.sequence, world(kernel)
    assert bind(kernel) == "EBUSY"
    assert world(kernel) == before
    assert kmem_log(kernel, log) == [
        "<4>kmem dax0.0: mapping0: 0x180000000-0x18fffffff could not reserve region",
        "<3>kmem dax0.0: probe with driver kmem failed with error -16",
    ]


@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize("profile", [*SERIES, "7.2", "7.3"])
def test_a_later_range_that_is_taken(profile: str, which: int) -> None:
    """Row "a range that cannot be reserved": hotplug-v3 undoes everything, the others warn and skip."""
    kernel = taken(profile, which)
    log, before = kernel.printk.sequence, world(kernel)
    outcome = bind(kernel)
    reserve = [line for line in kmem_log(kernel, log) if "could not reserve region" in line]
    assert len(reserve) == 1
    if profile == "hotplug-v3":
        assert outcome == "EBUSY"
        assert world(kernel) == before
        return
    assert outcome == "ok"
    ranges = [(48, 49), (52, 53), (56, 57)]
    del ranges[which]
    assert list(block_table(kernel)) == [index for first, last in ranges for index in range(first, last + 1)]


@pytest.mark.parametrize(
    ("profile", "outcome", "parent"),
    [("hotplug-v3", "EEXIST", "dax0.0"), (SERIES[1], "EEXIST", "PCI mem"), ("7.3", "EBUSY", "PCI mem")],
)
def test_a_range_that_is_taken_at_a_later_plug(profile: str, outcome: str, parent: str) -> None:
    """In 7.3 the reservation was given back and is refused; hotplug-v3's is there still, but lets others inside."""
    kernel = with_ranges(profile, span(48, 49))
    assert bind(kernel) == "ok"
    assert write_state(kernel, UNPLUG[profile]) == "ok"
    other = kernel.iomem.request_region(*span(48, 49), "other")
    assert other is not None
    assert other.parent is not None
    assert other.parent.name == parent
    before = world(kernel)
    assert write_state(kernel, "online") == outcome
    assert (read_state(kernel), world(kernel)) == ("unplugged", before)
    kernel.iomem.release(other)
    assert write_state(kernel, "online") == "ok"


@pytest.mark.parametrize("profile", [*SERIES, "7.2", "7.3"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_range_that_cannot_be_added(profile: str, which: int) -> None:
    """A memory block is in the way: `memory add failed`; the first range fails the bind, a later one by profile."""
    kernel = with_ranges(profile, span(48, 49), span(52, 53))
    begin = (48, 52)[which]
    group = MemoryGroup(1, BLOCK >> PAGE_SHIFT)
    drive(kernel.memory_hotplug._add_memory_resource(group, span(begin, begin), Mmop.OFFLINE, memmap_on_memory=False))
    log, before = kernel.printk.sequence, world(kernel)
    outcome = bind(kernel)
    assert any("memory add failed" in line for line in kmem_log(kernel, log))
    if which == 0 or profile == "hotplug-v3":
        assert outcome == "EEXIST"
        assert world(kernel) == before
    else:
        assert outcome == "ok"
        assert list(block_table(kernel)) == [48, 49, 52]
    assert unbind(kernel) == ("ok" if outcome == "ok" else "ENODEV")


def about_ranges(kernel: Kernel, log: int) -> list[str]:
    """Which range was refused what, and where the first memory was added, in order."""
    said = {"could not reserve region": "not reserved", "memory add failed": "not added", "Fallback order": "added"}
    lines = [said[text] for line in log_since(kernel, log) for text in said if text in line]
    return list(dict.fromkeys(lines))


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("7.2", ["added", "not reserved"]),
        ("7.3", ["not reserved", "added"]),
        ("hotplug-v3-as-posted", ["not reserved", "added", "not added"]),
    ],
)
def test_all_ranges_are_reserved_before_the_first_is_added(profile: str, said: list[str]) -> None:
    """Patch 7's dax_kmem_init_resources, as in the merged form; 7.2 has one loop. As posted a refusal goes unheeded."""
    kernel = taken(profile, 1)
    log = kernel.printk.sequence
    assert bind(kernel) == "ok"
    assert about_ranges(kernel, log) == said
    if profile != "7.2":
        assert write_state(kernel, UNPLUG[profile]) == "ok"
        log = kernel.printk.sequence
        assert write_state(kernel, "online_movable") == "ok"
        assert about_ranges(kernel, log) == (said if profile == "7.3" else [])


@pytest.mark.parametrize("profile", ["7.3", "hotplug-v3-as-posted"])
def test_an_unplug_leaves_alone_what_is_in_a_range_that_was_not_reserved(profile: str) -> None:
    """dax_kmem_do_hotremove goes by the reservations: here the range is another one's RAM, blocks 32-33."""
    kernel = with_ranges(profile, span(48, 49))
    device = dax(kernel)
    ram = DaxMapping(1, device, span(32, 33), 0)
    device.mappings.append(ram)
    before = world(kernel)["blocks"]
    assert bind(kernel) == "ok"
    assert write_state(kernel, UNPLUG[profile]) == "ok"
    assert world(kernel)["blocks"] == before
    assert read_state(kernel) == ("unplugged" if profile == "7.3" else "online_movable"), "as posted it counts, bug 6"


@pytest.mark.parametrize("profile", UNPLUG)
def test_a_mapping_added_while_bound_is_plugged_at_the_next_plug(profile: str) -> None:
    """mapping_store has no check (KERNEL.md 4), and every loop of kmem runs over all ranges of the device."""
    kernel = with_ranges(profile, span(48, 49))
    assert bind(kernel) == "ok"
    mapping_store(dax(kernel), b"%x-%x" % span(52, 53))
    assert set(block_table(kernel)) == {48, 49}
    log = kernel.printk.sequence
    assert write_state(kernel, UNPLUG[profile]) == "ok"
    assert block_table(kernel) == {}
    if profile == "hotplug-v3-as-posted":
        assert kmem_log(kernel, log) == ["<4>kmem dax0.0: partial hotremove: 1 of 2 ranges removed"]
        assert read_state(kernel) == "online_movable"
        return
    assert read_state(kernel) == "unplugged"
    assert write_state(kernel, "online_movable") == "ok"
    assert set(block_table(kernel)) == {48, 49, 52, 53}
    assert iomem_lines(kernel) == [
        "48-49 dax0.0", "  48-49 System RAM (kmem)", "52-53 dax0.0", "  52-53 System RAM (kmem)"
    ]  # fmt: skip


# Ranges and blocks --------------------------------------------------------------------------------------------------


def with_a_small_range(profile: str) -> Kernel:
    """dax0.0: blocks 48 and 49, and 64 MiB of block 52."""
    kernel = with_ranges(profile, span(48, 49), Range(52 * BLOCK, 52 * BLOCK + BLOCK // 2 - 1))
    log = kernel.printk.sequence
    assert bind(kernel) == "ok"
    assert kmem_log(kernel, log) == [
        "<6>kmem dax0.0: mapping1: 0x1a0000000-0x1a3ffffff too small after alignment",
        "<4>kmem dax0.0: DAX region truncated by 64.0 MiB due to alignment",
    ]
    return kernel


@pytest.mark.parametrize("profile", UNPLUG)
def test_a_range_smaller_than_a_block(profile: str) -> None:
    """Row "range smaller than a block": as posted it wedges at the first unplug, elsewhere it does not count."""
    kernel = with_a_small_range(profile)
    log = kernel.printk.sequence
    assert write_state(kernel, UNPLUG[profile]) == "ok"
    assert block_table(kernel) == {}
    if profile == "hotplug-v3-as-posted":
        assert kmem_log(kernel, log) == ["<4>kmem dax0.0: partial hotremove: 1 of 2 ranges removed"]
        assert read_state(kernel) == "online_movable"
        assert write_state(kernel, "online_movable") == "ok"
        assert block_table(kernel) == {}
        return
    for _ in range(3):
        assert read_state(kernel) == "unplugged"
        assert write_state(kernel, "online") == "ok"
        assert list(block_table(kernel)) == [48, 49]
        assert write_state(kernel, UNPLUG[profile]) == "ok"
    assert kmem_log(kernel, log) == []


@pytest.mark.parametrize("profile", [*SERIES, "7.2", "7.3"])
def test_a_device_without_a_whole_block(profile: str) -> None:
    kernel = with_ranges(profile, Range(52 * BLOCK, 52 * BLOCK + BLOCK // 2 - 1))
    log = kernel.printk.sequence
    assert bind(kernel) == "EINVAL"
    assert kmem_log(kernel, log) == [
        "<6>kmem dax0.0: mapping0: 0x1a0000000-0x1a3ffffff too small after alignment",
        "<4>kmem dax0.0: rejecting DAX region without any memory after alignment",
        "<3>kmem dax0.0: probe with driver kmem failed with error -22",
    ]


@pytest.mark.parametrize("profile", [*SERIES, "7.2", "7.3"])
def test_a_device_that_is_not_block_aligned(profile: str) -> None:
    """The recorded dax1.0: 600 MiB from 0x282000000, of which blocks 81 to 83 are usable (KERNEL.md 4)."""
    kernel = booted(profile, second=Range(0x282000000, 0x2A77FFFFF))
    assert [index for index in block_table(kernel) if index > 60] == [81, 82, 83]
    assert "81-83 dax1.0" in iomem_lines(kernel)
    assert "<4>kmem dax1.0: DAX region truncated by 216 MiB due to alignment" in kmem_log(kernel)


@pytest.mark.parametrize("profile", [*SERIES, "7.2", "7.3"])
def test_a_device_on_a_node_that_cannot_be(profile: str) -> None:
    kernel = booted(profile, blocks=4, target_node=7)
    assert kmem_log(kernel) == [
        "<4>kmem dax0.0: rejecting DAX region with invalid node: 7",
        "<3>kmem dax0.0: probe with driver kmem failed with error -22",
    ]


def test_without_memory_hotremove_unplug_is_ebusy_and_unbind_leaks_by_design() -> None:
    """The series says that its state is inconsistent, the merged form nothing (dax_kmem_do_hotremove's other half)."""
    for profile, word in UNPLUG.items():
        kernel = booted(profile, blocks=4, config=Config(memory_hotremove=False))
        before, log = world(kernel), kernel.printk.sequence
        assert write_state(kernel, word) == "EBUSY"
        said = [] if profile == "7.3" else ["<4>kmem dax0.0: hotplug state is inconsistent"]
        assert kmem_log(kernel, log) == said
        assert {**world(kernel), "devices": None} == {**before, "devices": None}
        assert unbind(kernel) == "ok"
        assert iomem_lines(kernel) == ["48-51 dax0.0", "  48-51 System RAM (kmem)"]


# Unbind -----------------------------------------------------------------------------------------------------------

WARN = [
    "<4>Hotplug memory regions stuck online until reboot",
    "<4>WARNING: drivers/dax/kmem.c:353 at dax_kmem_cleanup_resources [kmem]",
]


def all_online(kernel: Kernel) -> None:
    del kernel


def unplugged(kernel: Kernel) -> None:
    assert write_state(kernel, UNPLUG[kernel.profile.name]) == "ok"


def all_offline(kernel: Kernel) -> None:
    for index in block_table(kernel):
        assert block_state(kernel, index, "offline") == "ok"


def one_online(kernel: Kernel) -> None:
    all_offline(kernel)
    assert block_state(kernel, 49, "online_movable") == "ok"


def is_clean(kernel: Kernel, log: int, *, first: int = 48, last: int = 51) -> None:
    assert kmem_log(kernel, log) == []
    assert (block_table(kernel), iomem_lines(kernel), kernel.nodes[2].online) == ({}, [], False)
    assert kernel.tainted == 0
    assert bind(kernel) == "ok"
    assert list(block_table(kernel)) == list(range(first, last + 1))


def leaks(kernel: Kernel, log: int, messages: list[str], *, iomem_name: str = "dax0.0", taint: int = 0) -> None:
    """What was leaked stays for good: in /proc/iomem, in the way of every driver, but its blocks work."""
    assert kmem_log(kernel, log) == messages
    assert kernel.tainted == taint
    assert iomem_lines(kernel) == [f"48-51 {iomem_name}", "  48-51 System RAM (kmem)"]
    assert dax(kernel).driver is None
    again = kernel.printk.sequence
    assert bind(kernel) == "EBUSY"
    assert kmem_log(kernel, again) == [
        "<4>kmem dax0.0: mapping0: 0x180000000-0x19fffffff could not reserve region",
        "<3>kmem dax0.0: probe with driver kmem failed with error -16",
    ]
    device_dax = kernel.dax_bus.drivers["device_dax"]
    again = kernel.printk.sequence
    drive(device_dax.new_id_store(b"dax0.0"))  # type: ignore[attr-defined]
    assert kmem_log(kernel, again) == [
        "<4>device_dax dax0.0: mapping0: 0x180000000-0x19fffffff could not reserve range",
        "<3>device_dax dax0.0: probe with driver device_dax failed with error -16",
    ]
    again = kernel.printk.sequence
    assert bind(kernel, driver="device_dax") == "EINVAL"
    assert kmem_log(kernel, again)[0] == "<4>device_dax dax0.0: dynamic-dax with pre-populated page map"
    for index, zone in block_table(kernel).items():
        if zone != "offline":
            assert block_state(kernel, index, "offline") == "ok"
    assert bind(kernel) == "EBUSY", "even after every block was offlined"
    assert drive(kernel.rmmod("kmem")) is None
    assert iomem_lines(kernel) == [f"48-51 {iomem_name}", "  48-51 System RAM (kmem)"]


def stuck(first: int, text: str, *more: str, level: int = 4) -> list[str]:
    start, end = first * BLOCK, (first + 1) * BLOCK - 1
    return [
        f"<4>removing memory fails, because memory [0x{start:016x}-0x{end:016x}] is onlined",
        f"<{level}>kmem dax0.0: mapping0: 0x180000000-0x19fffffff {text}",
        *more,
    ]


STOCK = "cannot be hotremoved until the next reboot"
MERGED = ("stuck online until reboot", "<3>kmem dax0.0: Hotplug regions stuck online until reboot")

UNBINDS: list[tuple[str, Callable[[Kernel], None], list[str] | None]] = [
    ("7.2", all_online, stuck(48, STOCK, level=3)),
    ("7.2", one_online, stuck(49, STOCK, level=3)),
    ("7.2", all_offline, None),
    ("7.3", all_online, stuck(48, *MERGED)),
    ("7.3", one_online, stuck(49, *MERGED)),
    ("7.3", all_offline, None),
    ("7.3", unplugged, None),
    ("hotplug-v3", all_online, WARN),
    ("hotplug-v3", one_online, WARN),
    ("hotplug-v3", all_offline, WARN),
    ("hotplug-v3", unplugged, None),
    ("hotplug-v3-as-posted", all_online, WARN),
    ("hotplug-v3-as-posted", one_online, WARN),
    ("hotplug-v3-as-posted", all_offline, WARN),
    ("hotplug-v3-as-posted", unplugged, None),
]


@pytest.mark.parametrize(("profile", "prepare", "messages"), UNBINDS)
def test_unbind(profile: str, prepare: Callable[[Kernel], None], messages: list[str] | None) -> None:
    """The three rows "unbind" of the table of profiles; KERNEL.md 4, 7.7 and 7.3-6. The write always succeeds."""
    kernel = booted(profile, blocks=4)
    prepare(kernel)
    log = kernel.printk.sequence
    assert unbind(kernel) == "ok"
    if messages is None:
        is_clean(kernel, log)
    else:
        warned = messages is WARN
        name = "freed" if warned and profile == "hotplug-v3-as-posted" else "dax0.0"
        leaks(kernel, log, messages, iomem_name=name, taint=512 if warned else 0)


def test_unbind_under_policy_offline_is_clean_in_hotplug_v3() -> None:
    """Row "unbind in state unplugged or offline: clean"."""
    kernel = booted("hotplug-v3", policy=Mmop.OFFLINE, blocks=4)
    assert read_state(kernel) == "offline"
    log = kernel.printk.sequence
    assert unbind(kernel) == "ok"
    is_clean(kernel, log)


@pytest.mark.parametrize("profile", ["7.2", "7.3"])
def test_only_ranges_with_an_online_block_leak(profile: str) -> None:
    kernel = with_ranges(profile, span(48, 51), span(56, 59))
    assert bind(kernel) == "ok"
    all_offline(kernel)
    assert block_state(kernel, 58, "online_movable") == "ok"
    assert unbind(kernel) == "ok"
    assert list(block_table(kernel)) == [56, 57, 58, 59]
    assert iomem_lines(kernel) == ["56-59 dax0.0", "  56-59 System RAM (kmem)"]


@pytest.mark.parametrize("profile", UNPLUG)
def test_unbind_waits_for_writers_and_takes_the_name_first(profile: str) -> None:
    """KERNEL.md 6: unbind removes the attribute and the driver link first, then waits in D."""
    kernel = booted(profile, blocks=4)
    kernel.memory_blocks.pinned.add(49)
    tasks = Tasks()
    data = dax(kernel).driver_data
    unplug = tasks.spawn(kmem(kernel).hotplug_store(dax(kernel), UNPLUG[profile].encode()))
    tasks.settle()
    removal = tasks.spawn(kernel.dax_bus.unbind_store(kmem(kernel), b"dax0.0"))
    tasks.settle()
    assert (removal.letter, data.attribute_exists, dax(kernel).driver_link) == ("D", False, None)
    assert kmem(kernel).devices == []
    assert "DRIVER=kmem" in dax(kernel).uevent_environment(), "the device has its driver until that has given it up"
    again = tasks.spawn(kernel.dax_bus.unbind_store(kmem(kernel), b"dax0.0"))
    tasks.settle()
    assert again.letter == "D"
    with pytest.raises(KernelError, match="EBUSY"):
        size_store(dax(kernel), b"0")
    kernel.unpin()
    tasks.settle()
    assert unplug.finished
    assert removal.finished
    again.outcome()  # to find nothing to unbind any more is no error
    assert dax(kernel).driver is None
    assert block_table(kernel) == {}


@pytest.mark.parametrize("profile", ["7.2", "7.3"])
def test_a_device_has_its_driver_while_that_probes(profile: str) -> None:
    """really_probe: the links and DRIVER are there before the probe; who wants to unbind waits for its end."""
    kernel = booted(profile, policy=Mmop.OFFLINE, blocks=4)
    assert unbind(kernel) == "ok"
    set_policy(kernel, "online_movable")
    kernel.preempt.latency["online_block"] = 1.0
    tasks = Tasks()
    binding = tasks.spawn(kernel.dax_bus.bind_store(kmem(kernel), b"dax0.0"))
    tasks.finish(binding, until=1.5)
    assert len(block_table(kernel)) == 4
    assert (dax(kernel).driver_link, kmem(kernel).devices) == (kmem(kernel), [dax(kernel)])
    assert "DRIVER=kmem" in dax(kernel).uevent_environment()
    with pytest.raises(KernelError, match="EBUSY"):
        size_store(dax(kernel), b"0")
    unbinding = tasks.spawn(kernel.dax_bus.unbind_store(kmem(kernel), b"dax0.0"))
    tasks.settle()
    assert not unbinding.finished
    assert tasks.finish(unbinding)
    binding.outcome()
    unbinding.outcome()
    assert dax(kernel).driver is None


@pytest.mark.parametrize(
    ("profile", "zones"),
    [
        ("7.2", ["Movable", "Movable", "Normal", "Normal", "offline", "offline"]),
        ("7.3", ["Movable"] * 6),
    ],
)
def test_a_policy_that_changes_while_kmem_binds(profile: str, zones: list[str]) -> None:
    """7.2 asks for it at each block and each range that is added (online_memory_block), the merged form once."""
    kernel = with_ranges(profile, span(48, 51), span(56, 57), policy=Mmop.OFFLINE)
    set_policy(kernel, "online_movable")
    kernel.preempt.latency["online_block"] = 1.0
    tasks = Tasks()
    binding = tasks.spawn(kernel.dax_bus.bind_store(kmem(kernel), b"dax0.0"))
    tasks.finish(binding, until=1.5)
    set_policy(kernel, "online_kernel")
    tasks.finish(binding, until=3.5)
    set_policy(kernel, "offline")
    assert tasks.finish(binding)
    binding.outcome()
    assert list(block_table(kernel).values()) == zones


def test_after_a_failed_probe_nothing_is_left_of_the_driver() -> None:
    kernel = booted("7.2", policy=Mmop.OFFLINE, blocks=4)
    assert unbind(kernel) == "ok"
    kernel.iomem.request_region(span(49, 49).start, span(49, 49).end, "in the way")
    assert bind(kernel) == "EBUSY"
    assert (dax(kernel).driver, dax(kernel).driver_link, kmem(kernel).devices) == (None, None, [])


# What is wrong with the posted series (KERNEL.md 7), each: there as posted, not in the other two --------------------

FIXED = ("hotplug-v3", "7.3")
POSTED = "hotplug-v3-as-posted"


def test_bug_1_the_second_unplug_does_nothing_and_succeeds() -> None:
    for profile in (POSTED, *FIXED):
        kernel = booted(profile, blocks=4)
        for word in (UNPLUG[profile], "online_movable"):
            assert write_state(kernel, word) == "ok"
        log = kernel.printk.sequence
        assert write_state(kernel, UNPLUG[profile]) == "ok"
        if profile == POSTED:
            assert kmem_log(kernel, log) == ["<4>kmem dax0.0: partial hotremove: 0 of 1 ranges removed"]
            assert read_state(kernel) == "online_movable"
            assert set(block_table(kernel).values()) == {"Movable"}
            assert unbind(kernel) == "ok"
            assert kernel.tainted == 512
        else:
            assert (kmem_log(kernel, log), read_state(kernel), block_table(kernel)) == ([], "unplugged", {})


def test_bug_2_the_reservation_is_lost_with_the_first_unplug() -> None:
    """See `test_the_reservation_over_a_cycle` for 7.3, which gives it back and takes it again."""
    for profile in (POSTED, "hotplug-v3"):
        kernel = booted(profile, blocks=4)
        write_state(kernel, "unplug")
        write_state(kernel, "online_movable")
        assert (iomem_lines(kernel)[0] == "48-51 dax0.0") == (profile != POSTED)


def test_bug_3_the_kernels_own_default_policy_makes_kmem_unusable() -> None:
    for policy in (Mmop.OFFLINE, Mmop.ONLINE_KERNEL):
        for profile in (POSTED, *FIXED):
            kernel = booted(profile, policy=policy, blocks=4)
            assert (dax(kernel).driver is None) == (profile == POSTED)
            if profile == POSTED:
                assert bind(kernel) == "EINVAL"


def test_bug_4_a_failed_unplug_succeeds() -> None:
    for profile in (POSTED, *FIXED):
        kernel = booted(profile, blocks=4)
        kernel.memory_blocks.unmovable.add(50)
        before = world(kernel)
        assert write_state(kernel, UNPLUG[profile]) == ("ok" if profile == POSTED else "EBUSY")
        assert world(kernel) == before
        assert read_state(kernel) == "online_movable"


def test_bug_5_a_partial_unplug_wedges_the_device() -> None:
    for profile in (POSTED, *FIXED):
        kernel = with_unmovable(profile, 57)
        log = kernel.printk.sequence
        outcome = write_state(kernel, UNPLUG[profile])
        kernel.memory_blocks.unmovable.clear()
        if profile != POSTED:
            assert outcome == "EBUSY"
            assert len(block_table(kernel)) == 8
            assert write_state(kernel, UNPLUG[profile]) == "ok"
            continue
        assert outcome == "ok"
        assert kmem_log(kernel, log)[-2:] == [
            "<3>kmem dax0.0: mapping1: 0x1c0000000-0x1dfffffff hotremove failed",
            "<4>kmem dax0.0: partial hotremove: 1 of 2 ranges removed",
        ]
        assert list(block_table(kernel)) == [56, 57, 58, 59]
        assert write_state(kernel, "unplug") == "ok"
        assert (block_table(kernel), read_state(kernel)) == ({}, "online_movable")
        assert write_state(kernel, "online_movable") == "ok"
        assert write_state(kernel, "online") == "EBUSY"
        assert block_table(kernel) == {}, "nothing comes back, and the state lies"
        assert unbind(kernel) == "ok"
        assert kernel.tainted == 512, "WARN although no memory is left"
        set_policy(kernel, "online")
        assert bind(kernel) == "ok"


def test_bug_7_unbind_frees_the_name_that_iomem_shows() -> None:
    """Bug 6 is `test_a_range_smaller_than_a_block`."""
    for profile in (POSTED, "hotplug-v3"):
        kernel = booted(profile, blocks=4)
        assert unbind(kernel) == "ok"
        assert (iomem_lines(kernel)[0] == "48-51 dax0.0") == (profile != POSTED)
    kernel = booted("7.3", blocks=4)
    all_offline(kernel)
    assert unbind(kernel) == "ok"
    assert iomem_lines(kernel) == [], "the old workflow by blocks works again"


def test_bug_8_online_on_a_memoryless_node_cannot_be_unplugged() -> None:
    """KERNEL.md 2: the first kernel-zone block gets slab and page tables. All kernels; only the errno differs."""
    for profile in (POSTED, *FIXED):
        kernel = booted(profile, policy=Mmop.ONLINE, blocks=4, kernel_allocations=True)
        assert write_state(kernel, UNPLUG[profile]) == ("ok" if profile == POSTED else "EBUSY")
        assert read_state(kernel) == "online"
        assert block_state(kernel, 48, "offline") == "EBUSY"
        assert block_state(kernel, 49, "offline") == "ok"
    setup = small_setup(policy=Mmop.ONLINE_MOVABLE, blocks=4, kernel_allocations=True)
    kernel = booted("7.3", setup)
    for index in (50, 51):
        block_state(kernel, index, "offline")
        block_state(kernel, index, "online_kernel")
    assert block_state(kernel, 50, "offline") == "ok", "with Movable memory online, kernel-zone blocks stay offlinable"


def test_bug_9_readers_see_the_old_state_during_the_whole_transition() -> None:
    """All kernels (KERNEL.md 7.9, 7.3-1): there is no transitional value."""
    for profile, word in UNPLUG.items():
        kernel = booted(profile, blocks=4)
        kernel.preempt.watched = True
        seen = set()
        operation = kmem(kernel).hotplug_store(dax(kernel), word.encode())
        steps = 0
        answer: Answer | None = None
        while True:
            try:
                operation.send(answer)
            except StopIteration:
                break
            answer = Answer.WOKEN
            steps += 1
            seen.add(read_state(kernel))
        assert steps >= 4
        assert seen == {"online_movable"}


def test_protected_blocks_are_kmems_alone() -> None:
    """KERNEL.md 8: with DEV_DAX_KMEM_PROTECTED, writes to memoryN/state and online of its blocks are EBUSY."""
    config = Config(dev_dax_kmem_protected=True, kernel_allocations_on_hotplugged_nodes=False)
    kernel = booted("hotplug-v3", blocks=4, config=config)
    assert block_state(kernel, 49, "offline") == "EBUSY"
    assert name_of(errno_of(kernel.memory_blocks.online_store(49, b"0"))) == "EBUSY"
    assert block_state(kernel, 40, "offline") == "ok"
    assert write_state(kernel, "unplug") == "ok"
    assert write_state(kernel, "online_movable") == "ok"
