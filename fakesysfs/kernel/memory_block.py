"""Memory block devices.

drivers/base/memory.c; device_online and device_offline of drivers/base/core.c.

Blocks that were added together and have the same state are one run of an `IntervalMap`. A block has
no object. Every operation is one loop over runs. At each step the preemption point says how many
blocks the step may take. So the same code takes 32 GiB at once, or one block at a time under
latency.

`MemoryBlocks` has the states, locks and uevents of the devices. memory_hotplug.py does the work on
pages and zones, behind the protocol `Pages`.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from fakesysfs.kernel.core import Core
from fakesysfs.kernel.interval_map import IntervalMap
from fakesysfs.kernel.kstrtox import kstrtobool, sysfs_match_string
from fakesysfs.kernel.node import Nodes
from fakesysfs.kernel.profile import Mmop
from fakesysfs.kernel.zones import MOVABLE, PAGE_SHIFT, Zone
from fakesysfs.ops.errors import EHWPOISON, KernelError
from fakesysfs.ops.recording import current
from fakesysfs.ops.sched import Answer, LockObservers, Mutex, SignalPending, Signals, Wait, WaitQueue, ask

ONLINE_TYPES = {
    "offline": Mmop.OFFLINE,
    "online": Mmop.ONLINE,
    "online_kernel": Mmop.ONLINE_KERNEL,
    "online_movable": Mmop.ONLINE_MOVABLE,
}
"""The words of memoryN/state and auto_online_blocks (mhp_online_type_from_str)."""

DEVPATH = "/devices/system/memory/memory"

_SIGNAL_PENDING = SignalPending("offline_pages")


def mhp_online_type_from_str(buffer: bytes, where: str) -> Mmop:
    """The online type of a word. Raises KernelError EINVAL for an unknown word."""
    return sysfs_match_string(ONLINE_TYPES, buffer, where)


class State(enum.StrEnum):
    """enum memory_block_state, without "going-online", which sysfs never shows."""

    ONLINE = "online"
    OFFLINE = "offline"
    GOING_OFFLINE = "going-offline"


@dataclass(slots=True, eq=False)
class MemoryGroup:
    """struct memory_group: all memory of one device, as a static group (memory_group_register_static).

    The online policy auto-movable decides once for the whole group. `max_pages` is the size of the
    group; the other counts are of its online pages in kernel zones and in zone Movable.
    """

    nid: int
    max_pages: int
    present_kernel_pages: int = 0
    present_movable_pages: int = 0


@dataclass(slots=True, eq=False)
class BlockGroup:
    """Blocks that were added together: one hot-add, or equal blocks of boot memory.

    All blocks of a group share these values. `present_kb` is the RAM in each block, `altmap_kb` the
    part of it for the block's own memmap. `holes` means that parts of the blocks are not RAM.
    `early` is boot memory (early_section). `memory_group` is None for boot memory.
    """

    serial: int
    first: int
    last: int
    nids: tuple[int, ...]
    blocks: MemoryBlocks
    present_kb: int
    altmap_kb: int = 0
    holes: bool = False
    early: bool = False
    memory_group: MemoryGroup | None = None
    index: int = 0

    def at(self, index: int) -> MemoryBlock | None:
        """The block of this number, None after its removal."""
        return MemoryBlock(self.blocks, self, index) if self.blocks.runs.group_of(index) is self else None

    @property
    def managed_kb(self) -> int:
        """The part of MemTotal that each online block adds, in kB."""
        return self.present_kb - self.altmap_kb


class BlockStatus(NamedTuple):
    """The state that the blocks of a run share.

    `zone` is None while offline, and for a block that spans several zones. `online_type` is the
    pending type, which `echo 1 > online` uses.
    """

    group: BlockGroup
    state: State
    zone: Zone | None
    online_type: Mmop = Mmop.OFFLINE


@dataclass(slots=True)
class MemoryBlock:
    """A handle on one block device, made on demand."""

    blocks: MemoryBlocks
    group: BlockGroup
    index: int

    @property
    def serial(self) -> int:
        """The serial of the group."""
        return self.group.serial

    @property
    def kernel(self) -> Core:
        """The kernel of the block."""
        return self.blocks.kernel

    @property
    def status(self) -> BlockStatus:
        """The values of the run. Raises KernelError ENODEV after the removal of the block."""
        status = self.blocks.runs.get(self.index)
        if status is None or status.group is not self.group:
            raise KernelError(errno.ENODEV, f"memory{self.index} was removed", "memory_block_release")
        return status


class Offlined(NamedTuple):
    """Blocks that one call took offline, and the online type that puts them back."""

    first: int
    last: int
    online_type: Mmop


class Pages(Protocol):
    """The work on pages and zones for a change of a block's state (mm/memory_hotplug.c)."""

    @property
    def pins_released(self) -> WaitQueue:
        """Woken when a pinned page was released."""

    def zone_for_pfn_range(self, online_type: Mmop, group: BlockGroup, first: int, last: int) -> tuple[Zone, int]:
        """The zone for block `first`, and how many blocks up to `last` go to it in one step."""

    def online_pages(self, first: int, last: int, group: BlockGroup, zone: Zone) -> Callable[[], None]:
        """Put the pages of the blocks into `zone`.

        Returns the work for after the change of state.
        """

    def check_offline(self, index: int, status: BlockStatus) -> None:
        """Raise KernelError if the block cannot be offlined."""

    def cancel_offline(self, index: int, status: BlockStatus) -> None:
        """The block stays online, after `check_offline`."""

    def offline_pages(self, first: int, last: int, status: BlockStatus) -> Callable[[], None] | None:
        """Take the pages of the blocks out of their zone.

        Returns the work for before the last uevent.
        """

    def log_migration_failure(self, index: int) -> None:
        """Log that a pinned page of the block did not migrate."""

    def zones_for_offline(self, group: BlockGroup, index: int) -> list[str]:
        """The zones that an offline block can go to, the default first."""


class BlockRuns(IntervalMap[BlockStatus]):
    """The states of the blocks. A search learns of each access, by block number (ops/recording.py).

    There are two places for each block: that it exists and in which group, and its state. So a listing does not
    conflict with a change of a state.
    """

    __slots__ = ("_core",)

    def __init__(self, core: Core) -> None:
        super().__init__()
        self._core = core

    def group_of(self, number: int) -> BlockGroup | None:
        """The group of one block, None if the block does not exist."""
        footprint = current()
        if footprint is not None:
            footprint.read(("block", number))
        status = super().get(number)
        return None if status is None else status.group

    def groups(self) -> Iterator[tuple[int, int, BlockGroup]]:
        """All runs, for those who look at numbers and groups only."""
        footprint = current()
        if footprint is not None:
            footprint.read_all("block")
        return ((first, last, status.group) for first, last, status in super().__iter__())

    def alike(self, number: int) -> tuple[int, int, BlockGroup] | None:
        """Blocks around one that all exist, with their group, for those who do not care how many."""
        footprint = current()
        if footprint is not None:
            footprint.read(("block", number))
        run = super().run(number)
        return None if run is None else (run[0], run[1], run[2].group)

    def get(self, number: int) -> BlockStatus | None:
        """The status of one block."""
        footprint = current()
        if footprint is not None:
            footprint.reads.update((("block", number), ("memory", number)))
        return super().get(number)

    def run(self, number: int) -> tuple[int, int, BlockStatus] | None:
        """The blocks around one that have the same status. Where they end depends on others."""
        self._record_all()
        return super().run(number)

    def first_between(self, first: int, last: int) -> tuple[int, int, BlockStatus] | None:
        """The first blocks in first..last."""
        found = super().first_between(first, last)
        footprint = current()
        if footprint is not None:
            self._record(footprint.read_range, first, last if found is None else found[1])
        return found

    def backwards(self, first: int, last: int) -> Iterator[tuple[int, int, BlockStatus]]:
        """The blocks in first..last from the highest down."""
        footprint = current()
        if footprint is not None:
            self._record(footprint.read_range, first, last)
        return super().backwards(first, last)

    def set(self, first: int, last: int, value: BlockStatus) -> None:
        """Give blocks a status."""
        footprint = current()
        if footprint is not None:
            run = super().run(first)
            is_so_already = run is not None and run[1] >= last and run[2] == value
            if run is None or run[2].group is not value.group:
                footprint.write_range("block", first, last)
            (footprint.read_range if is_so_already else footprint.write_range)("memory", first, last)
        super().set(first, last, value)
        if self._core.tracer is not None:
            self._core.tracer.blocks(first, last, value)

    def clear(self, first: int, last: int) -> None:
        """Remove blocks."""
        footprint = current()
        if footprint is not None:
            self._record(footprint.write_range, first, last)
        super().clear(first, last)
        if self._core.tracer is not None:
            self._core.tracer.blocks(first, last, None)

    def __iter__(self) -> Iterator[tuple[int, int, BlockStatus]]:
        self._record_all()
        return super().__iter__()

    def __len__(self) -> int:
        self._record_all()
        return super().__len__()

    @staticmethod
    def _record(access: Callable[[str, int, int], None], first: int, last: int) -> None:
        access("block", first, last)
        access("memory", first, last)

    @staticmethod
    def _record_all() -> None:
        footprint = current()
        if footprint is not None:
            footprint.read_all("block")
            footprint.read_all("memory")


class MemoryBlocks:
    """All memory block devices of one kernel.

    `check_protected(index, where)` raises KernelError if the block's state may not be changed from
    outside. `pages` must be set before a block changes its state.
    """

    pages: Pages

    def __init__(self, core: Core, block_size: int, nodes: Nodes, check_protected: Callable[[int, str], None]) -> None:
        self.kernel = core
        self.block_size = block_size
        self.nodes = nodes
        self._check_protected = check_protected
        self.runs = BlockRuns(core)
        self.count = 0
        self.unmovable: set[int] = set()
        """Blocks with a page that can be neither moved nor freed.

        slab, page tables, reserved at boot.
        """
        self.slab: set[int] = set()
        """Hotplugged blocks with slab pages (kernel_pages.py). Offlining them ends with a signal only."""
        self.memory_maps: dict[Hashable, int] = {}
        """What has its memory map on a hotplugged block -> that block. It cannot go offline meanwhile."""
        self.pinned: set[int] = set()
        """Blocks with a page whose extra reference stops its migration."""
        self.hwpoison: dict[int, set[int]] = {}
        """The poisoned page frames of a block, by its number (nr_hwpoison). It cannot go online with them."""
        self.device_locks: dict[int, Mutex] = {}
        """Device locks of the blocks whose state is changing, if anything can run in between."""

    # Names and numbers ----------------------------------------------------------------------------------------------

    def pfns(self, first: int, last: int) -> tuple[int, int]:
        """First and end (exclusive) page frame of blocks first..last."""
        pages = self.block_size >> PAGE_SHIFT
        return first * pages, (last + 1) * pages

    def get(self, index: int) -> MemoryBlock | None:
        """The block of this number, None if it does not exist."""
        group = self.runs.group_of(index)
        return None if group is None else MemoryBlock(self, group, index)

    def span(self, index: int) -> tuple[int, int] | None:
        """The numbers of blocks around one that all exist; None if that one does not."""
        found = self.runs.alike(index)
        return None if found is None else found[:2]

    def of_node(self, nid: int) -> Iterator[tuple[int, int]]:
        """The runs of block numbers of a node, ascending."""
        for first, last, group in self.runs.groups():
            if nid in group.nids:
                yield first, last

    def _flagged(self, first: int, last: int) -> int | None:
        """The first block in the range with a page that keeps it, or may keep it, from going offline."""
        flagged = self.unmovable | self.pinned | self.slab | set(self.memory_maps.values())
        return min((index for index in flagged if first <= index <= last), default=None) if flagged else None

    def lowest_online(self, nid: int, *, movable: bool) -> int | None:
        """The node's lowest online block in zone Movable, or in a kernel zone; None without one."""
        for first, _, status in self.runs:
            zone = status.zone
            if status.state is not State.ONLINE or zone is None or nid not in status.group.nids:
                continue
            if (zone.name == MOVABLE) is movable:
                return first
        return None

    # Adding and removing ------------------------------------------------------------------------------------------

    def create(self, first: int, last: int, group: BlockGroup, status: BlockStatus) -> None:
        """Register block devices (create_memory_block_devices).

        Raises KernelError EEXIST if one of them exists.
        """
        if any(True for _ in self.runs.between(first, last)):
            raise KernelError(errno.EEXIST, "a memory block of the range exists already", "add_memory_block")
        self.runs.set(first, last, status)
        self.count += last - first + 1
        for nid in group.nids:
            self.nodes[nid].blocks += last - first + 1
        if self.kernel.booted:
            self.kernel.uevents.send("add", DEVPATH, "memory", (), first, last)
        self.kernel.changed("memory_block", group, first, last)

    def remove(self, first: int, last: int) -> None:
        """Unregister the block devices of a range, all offline (remove_memory_block_devices)."""
        for begin, end, status in list(self.runs.between(first, last)):
            self.runs.clear(begin, end)
            self.count -= end - begin + 1
            for nid in status.group.nids:
                self.nodes[nid].blocks -= end - begin + 1
            self.kernel.changed("memory_block", status.group, begin, end)
            self.kernel.uevents.send("remove", DEVPATH, "memory", (), begin, end)
            if begin <= status.group.first and status.group.last <= end:
                self.kernel.unregister(status.group)
        removed = {index for index in self.unmovable | self.pinned | self.slab if first <= index <= last}
        self.unmovable -= removed
        self.slab -= removed
        for index in [index for index in self.hwpoison if first <= index <= last]:
            del self.hwpoison[index]
        self.pinned -= removed

    # Going online -------------------------------------------------------------------------------------------------

    async def device_online(self, first: int, last: int, online_type: Mmop | Callable[[], Mmop] | None = None) -> bool:
        """Online the offline blocks of a range (memory_subsys_online).

        A callable `online_type` is called anew for each block. None uses the pending type of each
        block. Returns whether any block was offline. The first block that fails ends the loop and
        raises its KernelError; the blocks before it stay online.
        """
        preempt = self.kernel.preempt
        found = False
        position = first
        while (run := self.runs.first_between(position, last)) is not None:
            begin, end, status = run
            if status.state is not State.OFFLINE:
                if online_type is not None:
                    pending = online_type() if callable(online_type) else online_type
                    self.runs.set(begin, end, status._replace(online_type=pending))
                position = end + 1
                continue
            found = True
            wanted = online_type() if callable(online_type) else online_type
            wanted = status.online_type if wanted is None else wanted
            wanted = Mmop.ONLINE if wanted is Mmop.OFFLINE else wanted
            end = self._check_hwpoison(begin, end, status)
            zone, extent = self.pages.zone_for_pfn_range(wanted, status.group, begin, end)
            step = preempt.step("online_block", extent)
            end = begin + step - 1
            if step == 1 and preempt.latency.get("online_block"):
                async with self._device_lock(begin):
                    await preempt("online_block")
                    self._go_online(begin, end, zone)
            else:
                self._go_online(begin, end, zone)
                if preempt.stops("online_block"):
                    await preempt("online_block")
            position = end + 1
        return found

    def _check_hwpoison(self, first: int, last: int, status: BlockStatus) -> int:
        """The last block of the range before one with a poisoned page.

        Raises KernelError EHWPOISON if it is the first one (memory_block_online).
        """
        bad = min((index for index in self.hwpoison if first <= index <= last), default=None)
        if bad is None:
            return last
        if bad > first:
            return bad - 1
        self.runs.set(first, first, status._replace(online_type=Mmop.OFFLINE))
        raise KernelError(EHWPOISON, f"memory{first} has a poisoned page", "memory_block_online", first)

    def _go_online(self, first: int, last: int, zone: Zone) -> None:
        status = self.runs.get(first)
        assert status is not None
        try:
            tier = self.pages.online_pages(first, last, status.group, zone)
        except KernelError:
            self.runs.set(first, first, status._replace(online_type=Mmop.OFFLINE))
            raise
        self.runs.set(first, last, BlockStatus(status.group, State.ONLINE, zone))
        tier()
        self.kernel.uevents.send("online", DEVPATH, "memory", (), first, last)

    # Going offline ------------------------------------------------------------------------------------------------

    async def device_offline(self, first: int, last: int, done: list[Offlined] | None = None) -> bool:
        """Offline the online blocks of a range (memory_subsys_offline); adds them to `done`.

        Returns whether any block was online. The first block that fails ends the loop and raises
        its KernelError: EINVAL for a block with holes or in several zones, EBUSY for an unmovable
        page, EINTR for a signal while a page does not migrate, or the error of a notifier.
        """
        preempt = self.kernel.preempt
        found = False
        position = first
        while (run := self.runs.first_between(position, last)) is not None:
            begin, end, status = run
            if status.state is not State.ONLINE:
                position = end + 1
                continue
            found = True
            flagged = self._flagged(begin, end)
            if flagged is not None:
                end = flagged - 1 if flagged > begin else begin
            step = preempt.step("offline_block", end - begin + 1)
            end = begin + step - 1
            back = (
                Mmop.ONLINE_MOVABLE if status.zone is not None and status.zone.name == MOVABLE else Mmop.ONLINE_KERNEL
            )
            self.pages.check_offline(begin, status)
            if await ask(_SIGNAL_PENDING) is Answer.INTERRUPTED:
                self.pages.cancel_offline(begin, status)
                raise _signal_backoff(begin)
            if step == 1 and (begin in self.pinned or begin in self.slab or preempt.latency.get("offline_block")):
                async with self._device_lock(begin):
                    await self._go_offline_slowly(begin, status)
            else:
                self._went_offline(begin, end, status)
                if preempt.stops("offline_block"):
                    await preempt("offline_block")
            if done is not None:
                done.append(Offlined(begin, end, back))
            position = end + 1
        return found

    async def _go_offline_slowly(self, index: int, status: BlockStatus) -> None:
        preempt = self.kernel.preempt
        self.runs.set(index, index, status._replace(state=State.GOING_OFFLINE))
        try:
            answer = await preempt("offline_block", Signals.ANY)
            while answer is Answer.WOKEN and (index in self.pinned or index in self.slab):
                if index in self.pinned:
                    self.pages.log_migration_failure(index)
                answer = await ask(Wait("do_migrate_range", self.pages.pins_released, Signals.ANY))
            if answer is Answer.INTERRUPTED:
                raise _signal_backoff(index)
        except BaseException:
            self.runs.set(index, index, status)
            self.pages.cancel_offline(index, status)
            raise
        self._went_offline(index, index, status)

    def _went_offline(self, first: int, last: int, status: BlockStatus) -> None:
        self.runs.set(first, last, BlockStatus(status.group, State.OFFLINE, None, status.online_type))
        tier = self.pages.offline_pages(first, last, status)
        if tier is not None:
            if last > first:
                self.kernel.uevents.send("offline", DEVPATH, "memory", (), first, last - 1)
            tier()
            first = last
        self.kernel.uevents.send("offline", DEVPATH, "memory", (), first, last)

    def _device_lock(self, index: int) -> _DeviceLock:
        return _DeviceLock(self.device_locks, index, self.kernel.lock_observers)

    # Attributes ---------------------------------------------------------------------------------------------------

    async def state_store(self, index: int, buffer: bytes) -> None:
        """A write to memoryN/state (state_store).

        The current state again is EINVAL, but the new online type is kept. Raises KernelError:
        EINVAL, ENODEV, EINTR, EBUSY, or the error of the change.
        """
        online_type = mhp_online_type_from_str(buffer, "state_store")
        status = self._status(index, "state_store")
        if not self.kernel.device_hotplug_lock.trylock():
            status = await self._lock_device_hotplug(index, status.group, "state_store")
        try:
            self._check_protected(index, "state_store")
            if online_type is Mmop.OFFLINE:
                changed = await self.device_offline(index, index)
            else:
                changed = await self.device_online(index, index, online_type)
            if not changed:
                raise KernelError(errno.EINVAL, f"memory{index} is already {status.state.value}", "state_store")
        finally:
            self.kernel.device_hotplug_lock.unlock()

    async def online_store(self, index: int, buffer: bytes) -> None:
        """A write to memoryN/online (drivers/base/core.c, online_store).

        The current state again succeeds.

        Raises KernelError: EINVAL, ENODEV, EINTR, EBUSY, or the error of the change.
        """
        value = kstrtobool(buffer, "online_store")
        status = self._status(index, "online_store")
        if not self.kernel.device_hotplug_lock.trylock():
            await self._lock_device_hotplug(index, status.group, "online_store")
        try:
            self._check_protected(index, "online_store")
            if value:
                await self.device_online(index, index)
            else:
                await self.device_offline(index, index)
        finally:
            self.kernel.device_hotplug_lock.unlock()

    async def online_show(self, index: int) -> bool:
        """A read of memoryN/online (online_show).

        It takes the device lock, so it waits for a change of state.
        """
        async with self._device_lock(index):
            return self._status(index, "online_show").state is State.ONLINE

    async def _lock_device_hotplug(self, index: int, group: BlockGroup, where: str) -> BlockStatus:
        """Wait for device_hotplug_lock in a store of a block.

        Linux restarts the system call at each try, so kernfs looks the file up anew. A block that
        was removed in the meantime is ENODEV, even if a new block has its number. Raises
        KernelError: ENODEV, EINTR.
        """
        await self.kernel.lock_device_hotplug_sysfs()
        status = self.runs.get(index)
        if status is None or status.group is not group:
            self.kernel.device_hotplug_lock.unlock()
            raise KernelError(errno.ENODEV, f"memory{index} was removed", where)
        return status

    def _status(self, index: int, where: str) -> BlockStatus:
        status = self.runs.get(index)
        if status is None:
            raise KernelError(errno.ENODEV, f"memory{index} was removed", where)
        return status

    def valid_zones(self, index: int) -> list[str]:
        """The zone of an online block, "none" if it spans several.

        For an offline block the zones that it can go to, the default first (valid_zones_show).
        """
        status = self._status(index, "valid_zones_show")
        if status.state is State.ONLINE:
            return ["none" if status.zone is None else status.zone.name]
        return self.pages.zones_for_offline(status.group, index)


def _signal_backoff(index: int) -> KernelError:
    return KernelError(errno.EINTR, f"a signal interrupted the offlining of memory{index}", "offline_pages", index)


class _DeviceLock:
    """The device lock of one block. It exists only while it is held or wanted."""

    __slots__ = ("_index", "_locks", "_observers")

    def __init__(self, locks: dict[int, Mutex], index: int, observers: LockObservers) -> None:
        self._locks = locks
        self._observers = observers
        self._index = index

    async def __aenter__(self) -> None:
        await self._locks.setdefault(self._index, Mutex(f"memory{self._index}", self._observers)).lock()

    async def __aexit__(self, *_exc: object) -> None:
        lock = self._locks[self._index]
        lock.unlock()
        if not lock.locked:
            del self._locks[self._index]
