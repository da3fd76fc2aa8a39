"""The series patch by patch, claim by claim: each test is named in docs/series.md, beside what it proves.

Source of every expectation: the series' own text, and KERNEL.md's table of profiles where text and code differ.
"""

from __future__ import annotations

import dataclasses

import pytest

from fakesysfs.kernel.config import Config
from fakesysfs.kernel.dax.bus import PAGE_SIZE, create_dev_dax, mapping_store
from fakesysfs.kernel.dax.kmem import FREED_NAME, KMEM_NAME, memory_block_align_range
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.memory_block import MemoryGroup
from fakesysfs.kernel.memory_tiers import MEMTIER_DEFAULT_LOWTIER_ADISTANCE
from fakesysfs.kernel.profile import Mmop
from fakesysfs.kernel.range import Range
from fakesysfs.ops.errors import KernelError
from fakesysfs.testing.tasks import Tasks
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
    name_of,
    online_blocks,
    read_state,
    region_of,
    small_setup,
    span,
    unbind,
    world,
    write_state,
)

V3, POSTED, MERGED, RELEASED = "hotplug-v3", "hotplug-v3-as-posted", "7.3", "7.2"
SECOND = Range(64 * BLOCK, 72 * BLOCK - 1)


def test_patch_1_one_memory_type_per_abstract_distance() -> None:
    """`mt_get_memory_type` finds the type of a distance, whoever asks; two devices share it (mm/memory-tiers.c)."""
    kernel = booted(V3, second=SECOND)
    tiers = kernel.tiers
    assert tiers.mt_get_memory_type(MEMTIER_DEFAULT_LOWTIER_ADISTANCE) is tiers.mt_get_memory_type(
        MEMTIER_DEFAULT_LOWTIER_ADISTANCE
    )
    assert tiers.nodes_of(22) == [2, 3]
    assert list(tiers.tiers) == [4, 22]


@pytest.mark.parametrize(
    ("start", "end", "aligned"),
    [
        (0, 2 * BLOCK - 1, (0, 2 * BLOCK - 1)),
        (1, 2 * BLOCK - 1, (BLOCK, 2 * BLOCK - 1)),
        (0, 2 * BLOCK - 2, (0, BLOCK - 1)),
        (0x282000000, 0x2A77FFFFF, (0x288000000, 0x29FFFFFFF)),
    ],
)
def test_patch_2_ranges_are_aligned_to_blocks(start: int, end: int, aligned: tuple[int, int]) -> None:
    """Start up, end down; the last case is the recorded guest's dax1.0."""
    assert tuple(memory_block_align_range(Range(start, end), BLOCK)) == aligned


def test_patch_2_a_range_without_a_block_has_its_end_below_its_start() -> None:
    """ "Callers should check that the returned range is valid"."""
    aligned = memory_block_align_range(Range(BLOCK + 1, 2 * BLOCK - 2), BLOCK)
    assert aligned.start >= aligned.end


@pytest.mark.parametrize(
    ("online_type", "zone"), [(Mmop.ONLINE, "Normal"), (Mmop.ONLINE_KERNEL, "Normal"), (Mmop.ONLINE_MOVABLE, "Movable")]
)
def test_patch_3_blocks_are_onlined_with_the_type_that_is_passed(online_type: Mmop, zone: str) -> None:
    """The type is the argument's, not the system's: the policy is offline all the time."""
    kernel = booted(RELEASED, policy=Mmop.OFFLINE)
    drive(kernel.memory_blocks.device_online(48, 55, online_type))
    assert block_table(kernel) == dict.fromkeys(range(48, 56), zone)


def test_patch_4_the_default_online_type_has_four_words() -> None:
    """offline, online, online_kernel, online_movable; every other word is refused and changes nothing."""
    kernel = booted(V3)
    hotplug = kernel.memory_hotplug
    for word in ("offline", "online", "online_kernel", "online_movable"):
        hotplug.mhp_set_default_online_type(word.encode())
        assert hotplug.mhp_get_default_online_type().name.lower() == word


def test_patch_4_without_memory_hotplug_the_default_is_offline() -> None:
    """ "we simply return MMOP_OFFLINE as it's non-destructive"."""
    config = Config(memory_hotplug=False)
    kernel = booted(V3, config=config, modules=("device_dax", "dax_hmem"))
    assert kernel.memory_hotplug.mhp_get_default_online_type() is Mmop.OFFLINE
    driver = dax(kernel).driver
    assert driver is not None
    assert driver.name == "device_dax"


@pytest.mark.parametrize(
    ("name", "online_type", "outcome"),
    [
        (KMEM_NAME, Mmop.ONLINE_MOVABLE, "ok"),
        (KMEM_NAME, Mmop.OFFLINE, "ok"),
        ("System RAM", Mmop.ONLINE, "EINVAL"),
        ("System RAM (kmem", Mmop.ONLINE, "EINVAL"),
        ("kmem", Mmop.ONLINE, "EINVAL"),
        (KMEM_NAME, 4, "EINVAL"),
        (KMEM_NAME, -1, "EINVAL"),
    ],
)
def test_patch_5_driver_managed_memory_is_validated(name: str, online_type: int, outcome: str) -> None:
    """ "System RAM ($DRIVER)" and an online type from offline to online_movable, else EINVAL."""
    kernel = booted(V3, policy=Mmop.OFFLINE, modules=())
    add = kernel.memory_hotplug.add_memory_driver_managed(
        MemoryGroup(2, 2 * BLOCK // PAGE_SIZE),
        span(48, 49),
        name,
        online_type,  # type: ignore[arg-type]  # wrong ones are the point
        memmap_on_memory=False,
    )
    before = world(kernel)
    assert name_of(errno_of(add)) == outcome
    assert (world(kernel) == before) is (outcome == "EINVAL")


@pytest.mark.parametrize(
    ("piece", "outcome"),
    [
        (Range(48 * BLOCK, 49 * BLOCK - 4097), "EINVAL"),
        (Range(48 * BLOCK + 4096, 50 * BLOCK - 1), "EINVAL"),
        (span(46, 48), "EEXIST"),
    ],
)
def test_patch_5_a_range_that_cannot_be_added_leaves_nothing(piece: Range, outcome: str) -> None:
    """Neither blocks nor a resource (check_hotplug_memory_range, register_memory_resource)."""
    kernel = booted(V3, modules=())
    before = world(kernel)
    add = kernel.memory_hotplug.add_memory_driver_managed(
        MemoryGroup(2, 2 * BLOCK // PAGE_SIZE), piece, KMEM_NAME, Mmop.ONLINE_MOVABLE, memmap_on_memory=False
    )
    assert name_of(errno_of(add)) == outcome
    assert world(kernel) == before


def test_patch_6_the_type_comes_with_the_device() -> None:
    """The system's policy at creation, or the region driver's own; later changes of the policy do not matter."""
    kernel = booted(V3, policy=Mmop.ONLINE_MOVABLE, modules=("device_dax", "dax_hmem"))
    kernel.memory_hotplug.default_online_type = Mmop.ONLINE
    drive(kernel.modprobe("kmem"))
    assert read_state(kernel) == "online_movable"


def test_patch_6_a_region_driver_may_have_its_own_policy() -> None:
    """ "allow drivers to specify an auto-online policy"."""
    setup = small_setup(policy=Mmop.ONLINE)
    own = dataclasses.replace(setup.soft_reserved[0], online_type=Mmop.ONLINE_MOVABLE)
    kernel = booted(V3, dataclasses.replace(setup, soft_reserved=(own,)))
    assert read_state(kernel) == "online_movable"


def test_patch_7_resources_live_from_probe_to_unbind() -> None:
    """ "separate resource lifecycle from memory onlining": unplugging takes the child, unbinding the reservation."""
    kernel = booted(V3)
    assert iomem_lines(kernel) == ["48-55 dax0.0", "  48-55 System RAM (kmem)"]
    for _ in range(3):
        assert write_state(kernel, "unplug") == "ok"
        assert iomem_lines(kernel) == ["48-55 dax0.0"]
        assert write_state(kernel, "online_movable") == "ok"
        assert iomem_lines(kernel) == ["48-55 dax0.0", "  48-55 System RAM (kmem)"]
    assert write_state(kernel, "unplug") == "ok"
    assert unbind(kernel) == "ok"
    assert iomem_lines(kernel) == []


def test_patch_7_as_posted_the_reservation_is_lost_at_the_first_unplug() -> None:
    """KERNEL.md 7, bug 2."""
    kernel = booted(POSTED)
    assert write_state(kernel, "unplug") == "ok"
    assert iomem_lines(kernel) == []
    assert write_state(kernel, "online_movable") == "ok"
    assert iomem_lines(kernel) == ["48-55 System RAM (kmem)"]


def test_patch_8_one_write_unplugs_one_plugs() -> None:
    """The blocks, the node and the tier go and come back with the whole device."""
    kernel = booted(V3)
    since = kernel.uevents.sequence
    assert write_state(kernel, "unplug") == "ok"
    assert read_state(kernel) == "unplugged"
    assert block_table(kernel) == {}
    events = events_since(kernel, since)
    assert events[:7] == [f"offline memory{index}" for index in range(48, 55)]
    assert events[7:9] == ["remove memory_tier22", "offline memory55"]
    assert events[9:] == [*(f"remove memory{index}" for index in range(48, 56)), "remove node2"]
    assert write_state(kernel, "online") == "ok"
    assert block_table(kernel) == dict.fromkeys(range(48, 56), "Normal")


def test_claim_transitions_are_atomic_across_all_ranges() -> None:
    """ "Transitions are atomic across all ranges in the device": one block that cannot go keeps all of them."""
    kernel = _two_ranges(V3)
    kernel.memory_blocks.unmovable.add(54)
    before = world(kernel)
    since = kernel.printk.sequence
    assert write_state(kernel, "unplug") == "EBUSY"
    assert world(kernel) == before
    assert read_state(kernel) == "online_movable"
    first, last = kmem_log(kernel, since)[0], kmem_log(kernel, since)[-1]
    assert first == "<4>page dumped because: unmovable page"
    assert last.startswith("<3>kmem dax0.0: mapping1: ")
    assert last.endswith("hotremove failed")


def test_claim_as_posted_a_part_may_be_removed() -> None:
    """KERNEL.md 7, bugs 4 and 5: range by range, reported as success, wedged afterwards."""
    kernel = _two_ranges(POSTED)
    kernel.memory_blocks.unmovable.add(54)
    assert write_state(kernel, "unplug") == "ok"
    assert read_state(kernel) == "online_movable"
    assert set(block_table(kernel)) == {52, 53, 54, 55}
    kernel.memory_blocks.unmovable.clear()
    assert write_state(kernel, "unplug") == "ok"
    assert read_state(kernel) == "online_movable"


def _two_ranges(profile: str) -> Kernel:
    """dax0.0 with blocks 48-49 and 52-55, online_movable."""
    kernel = booted(profile, region_idle=True, blocks=16, modules=("device_dax", "dax_hmem", "kmem"))
    device = dax(kernel)
    kmem(kernel).ids.append(b"dax0.0")  # as new_id does
    for first, last in ((48, 49), (52, 55)):
        piece = span(first, last)
        mapping_store(device, b"%x-%x" % piece)
    device.online_type = Mmop.ONLINE_MOVABLE
    assert bind(kernel) == "ok"
    return kernel


def test_claim_unlimited_cycles() -> None:
    """Plug and unplug as often as one likes; as posted only the first unplug does anything (KERNEL.md 7, bug 1)."""
    for profile, unplug in ((V3, "unplug"), (MERGED, "unplugged")):
        kernel = booted(profile)
        plugged = world(kernel)
        for _ in range(50):
            assert write_state(kernel, unplug) == "ok"
            assert online_blocks(kernel) == 0
            assert write_state(kernel, "online_movable") == "ok"
            assert world(kernel) == plugged
    kernel = booted(POSTED)
    assert [write_state(kernel, word) for word in ("unplug", "online_movable", "unplug")] == ["ok"] * 3
    assert read_state(kernel) == "online_movable"
    assert online_blocks(kernel) == 8


@pytest.mark.parametrize("policy", list(Mmop))
def test_claim_probe_still_onlines_by_the_systems_policy(policy: Mmop) -> None:
    """ "Backward compatibility is preserved"; as posted not for offline and online_kernel (KERNEL.md 7, bug 3)."""
    wanted = {Mmop.OFFLINE: "offline", Mmop.ONLINE_MOVABLE: "Movable"}.get(policy, "Normal")
    for profile in (V3, MERGED, RELEASED):
        assert block_table(booted(profile, policy=policy)) == dict.fromkeys(range(48, 56), wanted)
    posted = booted(POSTED, policy=policy)
    if policy in {Mmop.OFFLINE, Mmop.ONLINE_KERNEL}:
        assert dax(posted).driver is None
    else:
        assert block_table(posted) == dict.fromkeys(range(48, 56), wanted)


def test_claim_one_must_unplug_to_online_as_something_else() -> None:
    """ "Devices must unplug to online into a different state"."""
    kernel = booted(V3)
    assert write_state(kernel, "online") == "EBUSY"
    assert write_state(kernel, "online_movable") == "ok"
    assert write_state(kernel, "unplug") == "ok"
    assert write_state(kernel, "online") == "ok"
    assert write_state(kernel, "online_movable") == "EBUSY"


def test_claim_unbind_warns_instead_of_a_bug() -> None:
    """ "I downgraded a BUG() to a WARN() when unbind is called while the dax device is not in an UNPLUGGED state"."""
    kernel = booted(V3)
    since = kernel.printk.sequence
    assert unbind(kernel) == "ok"
    assert kmem_log(kernel, since)[0] == "<4>Hotplug memory regions stuck online until reboot"
    assert kernel.tainted == 512
    assert iomem_lines(kernel) == ["48-55 dax0.0", "  48-55 System RAM (kmem)"]
    assert bind(kernel) == "EBUSY"


def test_thread_the_use_after_free_of_the_resource_name() -> None:
    """ "i mucked up a UAF during the rebase".

    As posted /proc/iomem shows a freed name, on hotplug-v3 it stays valid.
    """
    kernel = booted(POSTED)
    assert unbind(kernel) == "ok"
    assert iomem_lines(kernel) == [f"48-55 {FREED_NAME}", "  48-55 System RAM (kmem)"]


def test_thread_blocks_toggled_by_hand_leave_the_state_as_it_was() -> None:
    """ "userland can still try to twiddle the memoryN/state bits".

    The attribute is unaware, unplug works all the same.
    """
    kernel = booted(V3)
    assert block_state(kernel, 50, "offline") == "ok"
    assert block_state(kernel, 51, "offline") == "ok"
    assert block_state(kernel, 51, "online_kernel") == "ok"
    assert read_state(kernel) == "online_movable"
    assert write_state(kernel, "unplug") == "ok"
    assert block_table(kernel) == {}


def test_thread_the_dropped_patch_protects_blocks() -> None:
    """DEV_DAX_KMEM_PROTECTED, an option here: nobody but kmem changes the blocks of its device (KERNEL.md 8)."""
    kernel = booted(V3, config=Config(dev_dax_kmem_protected=True, kernel_allocations_on_hotplugged_nodes=False))
    assert block_state(kernel, 50, "offline") == "EBUSY"
    assert name_of(errno_of(kernel.memory_blocks.online_store(50, b"0"))) == "EBUSY"
    assert block_state(kernel, 33, "offline") == "ok"
    assert write_state(kernel, "unplug") == "ok"


def test_thread_competing_writers_cannot_come_between() -> None:
    """One write holds device_hotplug_lock from the first block to the last: who toggles blocks waits, on hotplug-v3."""
    kernel = booted(V3)
    kernel.preempt.watched = True
    unplug = kmem(kernel).hotplug_store(dax(kernel), b"unplug")
    unplug.send(None)
    assert kernel.device_hotplug_lock.locked
    assert kernel.memory_blocks.runs.get(48) is not None
    for _ in range(100):
        try:
            unplug.send(None)  # the answer to a Preempt is not looked at
        except StopIteration:
            break
        assert kernel.device_hotplug_lock.locked
    assert block_table(kernel) == {}


def test_thread_as_posted_a_block_writer_comes_between_two_ranges() -> None:
    """KERNEL.md 7, bug 10: the lock is free between two ranges, and who waits to write a block's `state` gets it."""
    for profile, outcome in ((POSTED, "ok"), (V3, "ENODEV"), (MERGED, "ENODEV")):
        kernel = _two_ranges(profile)
        kernel.memory_blocks.pinned.add(48)
        tasks = Tasks()
        word = b"unplugged" if profile == MERGED else b"unplug"
        unplug = tasks.spawn(kmem(kernel).hotplug_store(dax(kernel), word))
        toggler = tasks.spawn(kernel.memory_blocks.state_store(54, b"offline"))
        tasks.settle()
        assert [unplug.finished, toggler.finished] == [False, False]
        kernel.unpin()
        tasks.settle()
        assert unplug.finished
        error = toggler.error
        assert (error.name if isinstance(error, KernelError) else "ok") == outcome
        assert block_table(kernel) == {}


def test_thread_unplug_without_memory_hotremove() -> None:
    """The `#else` of patch 7: without MEMORY_HOTREMOVE unplug is EBUSY, and unbind leaks by design."""
    config = Config(memory_hotremove=False, kernel_allocations_on_hotplugged_nodes=False)
    kernel = booted(V3, config=config)
    assert write_state(kernel, "unplug") == "EBUSY"
    assert kmem_log(kernel)[-1] == "<4>kmem dax0.0: hotplug state is inconsistent"
    assert unbind(kernel) == "ok"
    assert iomem_lines(kernel) == ["48-55 dax0.0", "  48-55 System RAM (kmem)"]


def test_a_second_device_of_a_region_takes_the_policy_of_its_creation() -> None:
    """Patch 6 on `dax_region/create`: created under online, bound under another policy, online (section 6's matrix)."""
    kernel = booted(V3, region_idle=True)
    kernel.memory_hotplug.default_online_type = Mmop.ONLINE
    device = drive(create_dev_dax(region_of(kernel), 0, memmap_on_memory=False))
    assert device.online_type is Mmop.ONLINE
