"""Memory block devices (drivers/base/memory.c; device_online and device_offline of drivers/base/core.c).

Blocks that were added together and are in the same state are one run (`runs.Runs`); a block has no object. Every
operation is one loop over runs, and at each step the preemption point says how many blocks it may take, so that the
same code does 32 GiB at once and one block at a time under latency.

`MemoryBlocks` knows states, locks and uevents of the devices; what happens to pages and zones is memory_hotplug.py's.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from fakesysfs.kernel.interval_map import IntervalMap
from fakesysfs.kernel.kstrtox import kstrtobool, sysfs_match_string
from fakesysfs.kernel.profile import Mmop
from fakesysfs.kernel.zones import MOVABLE, PAGE_SHIFT, Zone
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import Answer, Mutex, SignalPending, Signals, Wait, ask

if TYPE_CHECKING:
    from fakesysfs.kernel.kernel import Kernel

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
    """The online type that a word names. Raises KernelError EINVAL for every other word."""
    return sysfs_match_string(ONLINE_TYPES, buffer, where)


class State(enum.StrEnum):
    """enum memory_block_state; there is no "going-online"."""

    ONLINE = "online"
    OFFLINE = "offline"
    GOING_OFFLINE = "going-offline"


@dataclass(slots=True, eq=False)
class BlockGroup:
    """Blocks that came into being together and share what never changes: one hot-add, or equal blocks of boot memory.

    `altmap_kb` is what each block keeps for its own memmap; `present_kb` the RAM in each; `holes` says that it is
    not all of it; `early` is boot memory (early_section).
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
    index: int = 0

    def at(self, index: int) -> MemoryBlock | None:
        """The block of this number, None if it is gone."""
        status = self.blocks.runs.get(index)
        return MemoryBlock(self.blocks, self, index) if status is not None and status.group is self else None

    @property
    def managed_kb(self) -> int:
        """What each block adds to MemTotal while online."""
        return self.present_kb - self.altmap_kb


class BlockStatus(NamedTuple):
    """What the blocks of a run have in common. `zone` is None while offline, and for a block that spans several zones.

    `online_type` is the pending one: what `echo 1 > online` will use.
    """

    group: BlockGroup
    state: State
    zone: Zone | None
    online_type: Mmop = Mmop.OFFLINE


@dataclass(slots=True)
class MemoryBlock:
    """A handle on one block device, made when asked for."""

    blocks: MemoryBlocks
    group: BlockGroup
    index: int

    @property
    def serial(self) -> int:
        """Shared with all blocks that were added together."""
        return self.group.serial

    @property
    def kernel(self) -> Kernel:
        """Whose block it is."""
        return self.blocks.kernel

    @property
    def status(self) -> BlockStatus:
        """The run's values. Raises KernelError ENODEV when the block is gone."""
        status = self.blocks.runs.get(self.index)
        if status is None or status.group is not self.group:
            raise KernelError(errno.ENODEV, f"memory{self.index} was removed", "memory_block_release")
        return status


class Offlined(NamedTuple):
    """Blocks that one call took offline, with the zone type to put them back into."""

    first: int
    last: int
    online_type: Mmop


class MemoryBlocks:
    """All memory block devices of one kernel."""

    def __init__(self, kernel: Kernel, block_size: int) -> None:
        self.kernel = kernel
        self.block_size = block_size
        self.runs: IntervalMap[BlockStatus] = IntervalMap()
        self.count = 0
        self.unmovable: set[int] = set()
        """Blocks with a page that cannot be moved or freed (slab, page tables, reserved at boot)."""
        self.pinned: set[int] = set()
        """Blocks with a page whose elevated reference count stops its migration."""
        self.device_locks: dict[int, Mutex] = {}
        """Device locks of the blocks in work, if anybody could look in between."""

    # Names and numbers ----------------------------------------------------------------------------------------------

    def pfns(self, first: int, last: int) -> tuple[int, int]:
        """The page frames of blocks first..last (end exclusive)."""
        pages = self.block_size >> PAGE_SHIFT
        return first * pages, (last + 1) * pages

    def get(self, index: int) -> MemoryBlock | None:
        """The block of this number."""
        status = self.runs.get(index)
        return None if status is None else MemoryBlock(self, status.group, index)

    def of_node(self, nid: int) -> Iterator[tuple[int, int]]:
        """The runs of block numbers that belong to a node, ascending."""
        for first, last, status in self.runs:
            if nid in status.group.nids:
                yield first, last

    def _flagged(self, first: int, last: int) -> int | None:
        """The first block in the range that is not like the others of its run."""
        flagged = self.unmovable | self.pinned
        return min((index for index in flagged if first <= index <= last), default=None) if flagged else None

    # Coming and going ---------------------------------------------------------------------------------------------

    def create(self, first: int, last: int, group: BlockGroup, status: BlockStatus) -> None:
        """Register block devices (create_memory_block_devices). Raises KernelError EEXIST if one of them exists."""
        if any(True for _ in self.runs.between(first, last)):
            raise KernelError(errno.EEXIST, "a memory block of the range exists already", "add_memory_block")
        self.runs.set(first, last, status)
        self.count += last - first + 1
        for nid in group.nids:
            self.kernel.nodes[nid].blocks += last - first + 1
        if self.kernel.booted:
            self.kernel.uevents.send("add", DEVPATH, "memory", (), first, last)
        self.kernel.changed("memory_block", group, first, last)

    def remove(self, first: int, last: int) -> None:
        """Unregister the block devices of a range, all offline (remove_memory_block_devices)."""
        for begin, end, status in list(self.runs.between(first, last)):
            self.runs.clear(begin, end)
            self.count -= end - begin + 1
            for nid in status.group.nids:
                self.kernel.nodes[nid].blocks -= end - begin + 1
            self.kernel.changed("memory_block", status.group, begin, end)
            self.kernel.uevents.send("remove", DEVPATH, "memory", (), begin, end)
            if begin <= status.group.first and status.group.last <= end:
                self.kernel.unregister(status.group)
        removed = {index for index in self.unmovable | self.pinned if first <= index <= last}
        self.unmovable -= removed
        self.pinned -= removed

    # Going online -------------------------------------------------------------------------------------------------

    async def device_online(self, first: int, last: int, online_type: Mmop | Callable[[], Mmop] | None = None) -> bool:
        """Online the offline blocks of a range (memory_subsys_online).

        As `online_type`, or what it says when a block's turn comes, or None: as each block's pending type.

        Returns whether any block was offline. Stops at the first block that fails and raises its KernelError; those
        before stay online.
        """
        kernel = self.kernel
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
            zone, extent = kernel.memory_hotplug.zone_for_pfn_range(wanted, status.group.nids[0], begin, end)
            step = kernel.preempt.step("online_block", extent)
            end = begin + step - 1
            if step == 1 and kernel.preempt.latency.get("online_block"):
                async with self._device_lock(begin):
                    await kernel.preempt("online_block")
                    self._go_online(begin, end, zone)
            else:
                self._go_online(begin, end, zone)
                if kernel.preempt.stops("online_block"):
                    await kernel.preempt("online_block")
            position = end + 1
        return found

    def _go_online(self, first: int, last: int, zone: Zone) -> None:
        status = self.runs.get(first)
        assert status is not None
        try:
            tier = self.kernel.memory_hotplug.online_pages(first, last, status.group, zone)
        except KernelError:
            self.runs.set(first, first, status._replace(online_type=Mmop.OFFLINE))
            raise
        self.runs.set(first, last, BlockStatus(status.group, State.ONLINE, zone))
        tier()
        self.kernel.uevents.send("online", DEVPATH, "memory", (), first, last)

    # Going offline ------------------------------------------------------------------------------------------------

    async def device_offline(self, first: int, last: int, done: list[Offlined] | None = None) -> bool:
        """Offline the online blocks of a range (memory_subsys_offline); notes them in `done`.

        Returns whether any block was online. Stops at the first block that fails and raises its KernelError: EINVAL
        for a block with holes or in several zones, EBUSY for an unmovable page, EINTR for a signal while a page does
        not migrate, or what a notifier injected.
        """
        kernel = self.kernel
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
            step = kernel.preempt.step("offline_block", end - begin + 1)
            end = begin + step - 1
            back = (
                Mmop.ONLINE_MOVABLE if status.zone is not None and status.zone.name == MOVABLE else Mmop.ONLINE_KERNEL
            )
            kernel.memory_hotplug.check_offline(begin, status)
            if await ask(_SIGNAL_PENDING) is Answer.INTERRUPTED:
                raise _signal_backoff(begin)
            if step == 1 and (begin in self.pinned or kernel.preempt.latency.get("offline_block")):
                async with self._device_lock(begin):
                    await self._go_offline_slowly(begin, status)
            else:
                self._went_offline(begin, end, status)
                if kernel.preempt.stops("offline_block"):
                    await kernel.preempt("offline_block")
            if done is not None:
                done.append(Offlined(begin, end, back))
            position = end + 1
        return found

    async def _go_offline_slowly(self, index: int, status: BlockStatus) -> None:
        kernel = self.kernel
        self.runs.set(index, index, status._replace(state=State.GOING_OFFLINE))
        try:
            answer = await kernel.preempt("offline_block", Signals.ANY)
            while answer is Answer.WOKEN and index in self.pinned:
                kernel.memory_hotplug.log_migration_failure(index)
                answer = await ask(Wait("do_migrate_range", kernel.memory_hotplug.pins_released, Signals.ANY))
            if answer is Answer.INTERRUPTED:
                raise _signal_backoff(index)
        except BaseException:
            self.runs.set(index, index, status)
            raise
        self._went_offline(index, index, status)

    def _went_offline(self, first: int, last: int, status: BlockStatus) -> None:
        self.runs.set(first, last, BlockStatus(status.group, State.OFFLINE, None, status.online_type))
        tier = self.kernel.memory_hotplug.offline_pages(first, last, status)
        if tier is not None:
            if last > first:
                self.kernel.uevents.send("offline", DEVPATH, "memory", (), first, last - 1)
            tier()
            first = last
        self.kernel.uevents.send("offline", DEVPATH, "memory", (), first, last)

    def _device_lock(self, index: int) -> _DeviceLock:
        return _DeviceLock(self.device_locks, index)

    # Attributes ---------------------------------------------------------------------------------------------------

    async def state_store(self, index: int, buffer: bytes) -> None:
        """A write to memoryN/state: same state again is EINVAL, though its online type is kept (state_store)."""
        online_type = mhp_online_type_from_str(buffer, "state_store")
        status = self._status(index, "state_store")
        if not self.kernel.device_hotplug_lock.trylock():
            status = await self._lock_device_hotplug(index, status.group, "state_store")
        try:
            self.kernel.check_kmem_protected(index, "state_store")
            if online_type is Mmop.OFFLINE:
                changed = await self.device_offline(index, index)
            else:
                changed = await self.device_online(index, index, online_type)
            if not changed:
                raise KernelError(errno.EINVAL, f"memory{index} is {status.state.value} already", "state_store")
        finally:
            self.kernel.device_hotplug_lock.unlock()

    async def online_store(self, index: int, buffer: bytes) -> None:
        """A write to memoryN/online: same state again succeeds (drivers/base/core.c, online_store)."""
        value = kstrtobool(buffer, "online_store")
        status = self._status(index, "online_store")
        if not self.kernel.device_hotplug_lock.trylock():
            await self._lock_device_hotplug(index, status.group, "online_store")
        try:
            self.kernel.check_kmem_protected(index, "online_store")
            if value:
                await self.device_online(index, index)
            else:
                await self.device_offline(index, index)
        finally:
            self.kernel.device_hotplug_lock.unlock()

    async def online_show(self, index: int) -> bool:
        """A read of memoryN/online: takes the device lock, so it waits for a block in work (online_show)."""
        async with self._device_lock(index):
            return self._status(index, "online_show").state is State.ONLINE

    async def _lock_device_hotplug(self, index: int, group: BlockGroup, where: str) -> BlockStatus:
        """Wait for device_hotplug_lock, for a store of a block.

        Whoever waits for it makes the system call anew at each try, and so meets kernfs first: a block that was removed
        meanwhile is ENODEV, though another one may have its number by now. Raises KernelError: that, EINTR.
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
        """The zone of an online block ("none" if several), or those an offline one can go to, the default first."""
        status = self._status(index, "valid_zones_show")
        if status.state is State.ONLINE:
            return ["none" if status.zone is None else status.zone.name]
        return self.kernel.memory_hotplug.zones_for_offline(status.group.nids[0], index)


def _signal_backoff(index: int) -> KernelError:
    return KernelError(errno.EINTR, f"a signal ended the offlining of memory{index}", "offline_pages", index)


class _DeviceLock:
    """The device lock of one block: exists only while somebody holds or wants it."""

    __slots__ = ("_index", "_locks")

    def __init__(self, locks: dict[int, Mutex], index: int) -> None:
        self._locks = locks
        self._index = index

    async def __aenter__(self) -> None:
        await self._locks.setdefault(self._index, Mutex(f"memory{self._index}")).lock()

    async def __aexit__(self, *_exc: object) -> None:
        lock = self._locks[self._index]
        lock.unlock()
        if not lock.locked:
            del self._locks[self._index]
