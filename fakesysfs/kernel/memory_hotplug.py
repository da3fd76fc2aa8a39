"""Adding, onlining, offlining and removing memory (mm/memory_hotplug.c).

Ranges of blocks are taken as far at once as nothing can differ inside: up to the next edge of a zone's span, up to
the next block with a flag. Messages, uevents and totals come out as if each block had been taken alone; a property
test holds the two against each other.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from fakesysfs.kernel.hugetlb import dissolve_free_hugetlb_folios
from fakesysfs.kernel.kstrtox import kstrtoull, sysfs_match_string
from fakesysfs.kernel.memory_block import (
    BlockGroup,
    BlockStatus,
    Offlined,
    State,
    mhp_online_type_from_str,
)
from fakesysfs.kernel.printk import WARNING
from fakesysfs.kernel.profile import Mmop
from fakesysfs.kernel.zones import KERNEL_ZONES, MOVABLE, PAGE_SHIFT, Zone
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import WaitQueue

if TYPE_CHECKING:
    from fakesysfs.kernel.kernel import Kernel

MEM_GOING_ONLINE = "MEM_GOING_ONLINE"
MEM_GOING_OFFLINE = "MEM_GOING_OFFLINE"
"""The events of the memory notifier chain that can be refused (include/linux/memory.h)."""

MemoryNotifier = Callable[[str, int], None]
"""Called with an event and the number of the block it is about; raises KernelError to refuse it.

A step over equal blocks asks once, about its first block, so a notifier must answer for all blocks alike.
"""

ONLINE_POLICIES = ("contig-zones", "auto-movable")

VMEMMAP_BYTES_PER_PAGE = 64
"""sizeof(struct page): a block's memmap is 1/64 of it."""


class Range(NamedTuple):
    """struct range: start..end in bytes, end inclusive."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """range_len, in bytes."""
        return self.end - self.start + 1


@dataclass(slots=True)
class Parameters:
    """/sys/module/memory_hotplug/parameters."""

    memmap_on_memory: bool = False
    online_policy: str = ONLINE_POLICIES[0]
    auto_movable_ratio: int = 301
    auto_movable_numa_aware: bool = True


class MemoryHotplug:
    """The operations on memory of one kernel."""

    def __init__(self, kernel: Kernel, default_online_type: Mmop, parameters: Parameters) -> None:
        self._kernel = kernel
        self.default_online_type = default_online_type
        self.parameters = parameters
        self.pins_released = WaitQueue()
        self._memory_chain: list[MemoryNotifier] = []
        self.nr_memmap_pages = 0
        """Pages of the memory maps of added blocks."""
        self.nr_memmap_boot_pages = 0
        """The same of boot memory: a whole map for each block that has any RAM."""

    # The default online type (auto_online_blocks) -----------------------------------------------------------------

    def mhp_get_default_online_type(self) -> Mmop:
        """The policy of the system; without MEMORY_HOTPLUG offline, which harms nothing (patch 4)."""
        return self.default_online_type if self._kernel.config.memory_hotplug else Mmop.OFFLINE

    def mhp_set_default_online_type(self, buffer: bytes) -> None:
        """A write to auto_online_blocks: never locked (auto_online_blocks_store)."""
        self.default_online_type = mhp_online_type_from_str(buffer, "auto_online_blocks_store")

    def set_online_policy(self, buffer: bytes) -> None:
        """A write to the module parameter online_policy (set_online_policy)."""
        policies = {policy: policy for policy in ONLINE_POLICIES}
        self.parameters.online_policy = sysfs_match_string(policies, buffer, "set_online_policy")

    def set_auto_movable_ratio(self, buffer: bytes) -> None:
        """A write to the module parameter auto_movable_ratio, in percent."""
        value = kstrtoull(buffer, 0, "param_set_uint")
        if value >= 1 << 32:
            raise KernelError(errno.ERANGE, f"{value} does not fit 32 bits", "param_set_uint")
        self.parameters.auto_movable_ratio = value

    # Zones --------------------------------------------------------------------------------------------------------

    def zone_for_pfn_range(self, online_type: Mmop, nid: int, first: int, last: int) -> tuple[Zone, int]:
        """The zone for the first block of an offline range, and how many of its blocks certainly go the same way."""
        kernel = self._kernel
        zones = kernel.nodes[nid].zones
        start, end = kernel.memory_blocks.pfns(first, first)
        if online_type is Mmop.ONLINE_MOVABLE:
            return zones.movable, self._together(zones.movable, nid, first, last, [])
        edges = zones.edges(start, kernel.memory_blocks.pfns(first, last)[1]) if last > first else ()
        if online_type is Mmop.ONLINE_KERNEL:
            zone = zones.default_kernel_zone(start, end)
        elif self.parameters.online_policy == ONLINE_POLICIES[1]:
            return self._auto_movable_zone(nid, first), 1
        else:
            zone = zones.default_zone(start, end, movable_node=kernel.config.movable_node)
        return zone, self._together(zone, nid, first, last, edges)

    def _together(self, zone: Zone, nid: int, first: int, last: int, edges: Sequence[int]) -> int:
        """Blocks from `first` on that can be onlined into `zone` in one step."""
        if first == last:
            return 1
        kernel = self._kernel
        start, _ = kernel.memory_blocks.pfns(first, first)
        pages = kernel.memory_blocks.pfns(0, 0)[1]
        if zone.name in KERNEL_ZONES and kernel.allocates_on(nid):
            return 1  # the first kernel-zone block of the node will not be like the others
        if edges and zone.end not in {zone.start, start} and not zone.intersects(start, start + 1):
            return 1  # the span is about to jump over what lies between
        stop = next((edge for edge in edges if edge > start), None)
        if stop is None:
            return last - first + 1
        return max(min(stop // pages, last + 1) - first, 1)

    def _auto_movable_zone(self, nid: int, first: int) -> Zone:
        """Online policy auto-movable: Movable if the ratio allows it, on the machine and on the node (KERNEL.md 9).

        Differs knowingly: the source judges all that a driver added at once, as one group, and keeps it together
        (memory_group_register_static); KERNEL.md's rule is about one block, and no recording tells them apart.
        """
        kernel = self._kernel
        zones = kernel.nodes[nid].zones
        block_pages = kernel.memory_blocks.block_size >> PAGE_SHIFT

        def allowed(nodes: Sequence[int]) -> bool:
            movable = sum(kernel.nodes[node].zones.movable.present for node in nodes)
            early = sum(kernel.nodes[node].zones.early_kernel_pages() for node in nodes)
            return movable + block_pages <= self.parameters.auto_movable_ratio * early // 100

        fits = allowed(kernel.nodes.possible) and (not self.parameters.auto_movable_numa_aware or allowed([nid]))
        if fits:
            return zones.movable
        return zones.default_kernel_zone(*kernel.memory_blocks.pfns(first, first))

    def zones_for_offline(self, nid: int, index: int) -> list[str]:
        """The zones that an offline block can go to, the default first (valid_zones_show)."""
        zones = self._kernel.nodes[nid].zones
        default = self.zone_for_pfn_range(Mmop.ONLINE, nid, index, index)[0]
        kernel_zone = zones.default_kernel_zone(*self._kernel.memory_blocks.pfns(index, index))
        return list(dict.fromkeys([default.name, kernel_zone.name, MOVABLE]))

    def _shrink_zone_span(self, zone: Zone, start: int, end: int) -> None:
        """A range at the edge of a zone's span is gone: the span ends at the next online page (shrink_zone_span)."""
        blocks = self._kernel.memory_blocks
        pages = blocks.pfns(0, 0)[1]
        if zone.start == start or zone.start >= start:
            for first, _, status in blocks.runs.between(end // pages, max(zone.end - 1, 0) // pages):
                if status.zone is zone:
                    zone.start = max(first * pages, zone.start)
                    return
            zone.start = zone.end = 0
        elif zone.end <= end:
            for _, last, status in blocks.runs.backwards(zone.start // pages, start // pages - 1):
                if status.zone is zone:
                    zone.end = min((last + 1) * pages, zone.end)
                    return
            zone.start = zone.end = 0

    # Pages going online and offline -----------------------------------------------------------------------------

    def register_memory_notifier(self, notifier: MemoryNotifier) -> None:
        """Let a notifier hear of blocks that are about to go online or offline, and refuse."""
        self._memory_chain.append(notifier)

    def unregister_memory_notifier(self, notifier: MemoryNotifier) -> None:
        """The notifier hears no more."""
        self._memory_chain.remove(notifier)

    def _memory_notify(self, event: str, index: int) -> None:
        for notifier in self._memory_chain:
            notifier(event, index)

    def online_pages(self, first: int, last: int, group: BlockGroup, zone: Zone) -> Callable[[], None]:
        """Put the pages of offline blocks into a zone; returns what is to happen once their state has changed.

        Raises KernelError with a notifier's errno.
        """
        self._memory_notify(MEM_GOING_ONLINE, first)
        kernel = self._kernel
        node = kernel.nodes[zone.nid]
        blocks = last - first + 1
        pages = blocks * group.present_kb // 4
        populated, had_memory = zone.present > 0, node.zones.present() > 0
        slab = zone.name in KERNEL_ZONES and kernel.allocates_on(zone.nid)
        zone.grow(*kernel.memory_blocks.pfns(first, last))
        zone.present += pages
        zone.present_early += pages if group.early else 0
        zone.managed_kb += blocks * group.managed_kb
        if slab:
            kernel.memory_blocks.unmovable.add(first)
        if not populated:
            kernel.nodes.build_all_zonelists(extra_kb=(1 - blocks) * group.managed_kb)

        def node_got_memory() -> None:
            if not had_memory:
                node.access = kernel.has_performance(zone.nid)
                if node.access:
                    kernel.changed("node_access", node.device)
                kernel.tiers.set_node_memory_tier(zone.nid)

        return node_got_memory

    def check_offline(self, index: int, status: BlockStatus) -> None:
        """What keeps a block from being offlined before any page is moved, in the kernel's order.

        Raises KernelError: EINVAL for several zones or holes, EBUSY for an unmovable page, a notifier's errno.
        """
        kernel = self._kernel
        if not kernel.config.memory_hotremove:
            raise KernelError(errno.EINVAL, "the kernel was built without MEMORY_HOTREMOVE", "offline_pages", index)
        if status.zone is None:
            raise KernelError(errno.EINVAL, f"memory{index} spans several zones", "memory_block_offline", index)
        if status.group.holes:
            raise KernelError(errno.EINVAL, f"memory{index} has holes", "offline_pages", index)
        if index in kernel.memory_blocks.unmovable:
            kernel.printk(WARNING, "page dumped because: unmovable page")
            raise KernelError(errno.EBUSY, f"memory{index} has an unmovable page", "start_isolate_page_range", index)
        self._memory_notify(MEM_GOING_OFFLINE, index)

    def log_migration_failure(self, index: int) -> None:
        """A pinned page of the block did not migrate (do_migrate_range; the bursts are rate-limited in the kernel)."""
        pfn = self._kernel.memory_blocks.pfns(index, index)[0]
        self._kernel.printk(WARNING, f"migrating pfn {pfn:x} failed ret:200")
        self._kernel.printk(WARNING, "page dumped because: migration failure")

    def offline_pages(self, first: int, last: int, status: BlockStatus) -> Callable[[], None] | None:
        """Take the pages of online blocks out of their zone, which `check_offline` allowed.

        Returns what is to happen right before the last block's uevent if the node has no memory left, else None.
        """
        kernel = self._kernel
        zone = status.zone
        assert zone is not None
        node = kernel.nodes[zone.nid]
        blocks = last - first + 1
        dissolve_free_hugetlb_folios(kernel, zone.nid, first, last, status)
        pages = blocks * status.group.present_kb // 4
        zone.present -= pages
        zone.present_early -= pages if status.group.early else 0
        zone.managed_kb -= blocks * status.group.managed_kb
        self._shrink_zone_span(zone, *kernel.memory_blocks.pfns(first, last))
        if not zone.present:
            kernel.nodes.build_all_zonelists()
        if node.zones.present():
            return None
        return lambda: kernel.tiers.clear_node_memory_tier(zone.nid)

    # Adding -------------------------------------------------------------------------------------------------------

    async def add_memory_driver_managed(
        self, nid: int, span: Range, resource_name: str, online_type: Mmop | None, *, memmap_on_memory: bool
    ) -> None:
        """Add a driver's range as System RAM and online it (`__add_memory_driver_managed` of patch 5).

        `online_type` is None where the system's policy decides, which is read again for each block
        (online_memory_block).

        Raises KernelError: EINVAL for a name that is not "System RAM (...)", a bad online type or a misaligned range,
        EEXIST where a resource or a memory block is in the way. A failure to online is not one of them.
        """
        kernel = self._kernel
        where = "__add_memory_driver_managed"
        if not resource_name.startswith("System RAM (") or not resource_name.endswith(")"):
            raise KernelError(errno.EINVAL, f"{resource_name!r} has not the form 'System RAM (driver)'", where)
        if online_type is not None and online_type not in set(Mmop):
            raise KernelError(errno.EINVAL, f"{online_type} is no online type", where)
        async with kernel.device_hotplug_lock:
            resource = kernel.iomem.request_region(span.start, span.end, resource_name)
            if resource is None:
                raise KernelError(errno.EEXIST, "another resource is in the range", "register_memory_resource")
            try:
                await self._add_memory_resource(nid, span, online_type, memmap_on_memory=memmap_on_memory)
            except KernelError:
                kernel.iomem.release(resource)
                raise

    async def _add_memory_resource(
        self, nid: int, span: Range, online_type: Mmop | None, *, memmap_on_memory: bool
    ) -> None:
        kernel = self._kernel
        blocks = kernel.memory_blocks
        size = blocks.block_size
        if span.start % size or span.length % size or span.length <= 0:
            raise KernelError(
                errno.EINVAL, "the range is not made of whole memory blocks", "check_hotplug_memory_range"
            )
        first, last = span.start // size, span.end // size
        if any(True for _ in blocks.runs.between(first, last)):
            raise KernelError(errno.EEXIST, "a memory block of the range exists already", "add_memory_block")
        if not kernel.nodes[nid].online:
            kernel.nodes.build_all_zonelists(nid)
            kernel.nodes.register(nid)
        altmap = size // VMEMMAP_BYTES_PER_PAGE // 1024 if memmap_on_memory and self.parameters.memmap_on_memory else 0
        group = BlockGroup(kernel.new_serial(), first, last, (nid,), blocks, size // 1024, altmap)
        kernel.register(group)
        self.nr_memmap_pages += (last - first + 1) * self.memmap_pages_of_block()
        blocks.create(first, last, group, BlockStatus(group, State.OFFLINE, None))
        policy = self.mhp_get_default_online_type
        if (policy() if online_type is None else online_type) is Mmop.OFFLINE:
            return
        try:
            await blocks.device_online(first, last, policy if online_type is None else online_type)
        except KernelError as error:
            kernel.note_ignored(error)

    def memmap_pages_of_block(self) -> int:
        """Pages that the memory map of one block takes."""
        return self._kernel.memory_blocks.block_size // VMEMMAP_BYTES_PER_PAGE >> PAGE_SHIFT

    # Removing -----------------------------------------------------------------------------------------------------

    async def remove_memory(self, span: Range) -> None:
        """Remove a range whose blocks are all offline. Raises KernelError EBUSY, with a message, if one is not."""
        async with self._kernel.device_hotplug_lock:
            self._try_remove_memory(span)

    def _try_remove_memory(self, span: Range) -> None:
        kernel = self._kernel
        blocks = kernel.memory_blocks
        first, last = span.start // blocks.block_size, span.end // blocks.block_size
        for begin, _, status in blocks.runs.between(first, last):
            if status.state is not State.OFFLINE:
                start = begin * blocks.block_size
                end = start + blocks.block_size - 1
                kernel.printk(
                    WARNING, f"removing memory fails, because memory [0x{start:016x}-0x{end:016x}] is onlined"
                )
                raise KernelError(errno.EBUSY, f"memory{begin} is online", "try_remove_memory", begin)
        nids = sorted({nid for _, _, status in blocks.runs.between(first, last) for nid in status.group.nids})
        blocks.remove(first, last)
        self.nr_memmap_pages -= (last - first + 1) * self.memmap_pages_of_block()
        for _, resource in list(kernel.iomem.walk()):
            if (resource.start, resource.end) == (span.start, span.end) and resource.name.startswith("System RAM"):
                kernel.iomem.release(resource)
        for nid in nids:
            kernel.nodes.try_offline(nid)

    async def offline_and_remove_memory(self, spans: Sequence[Range]) -> None:
        """Offline all blocks of the ranges, then remove them; or leave everything as it was.

        One range is the kernel's `offline_and_remove_memory`; several in one operation are the merged form's. On a
        failure the blocks that this call had offlined are put back online in the same order, each into its kind of
        zone. Raises KernelError: the first block's refusal.
        """
        kernel = self._kernel
        size = kernel.memory_blocks.block_size
        done: list[Offlined] = []
        async with kernel.device_hotplug_lock:
            try:
                for span in spans:
                    await kernel.memory_blocks.device_offline(span.start // size, span.end // size, done)
                for span in spans:
                    self._try_remove_memory(span)
            except KernelError:
                await self._try_reonline(done)
                raise

    async def _try_reonline(self, done: Sequence[Offlined]) -> None:
        for first, last, online_type in done:
            # A failure to re-online concerns one block; the walk goes on with the next.
            pieces = [(index, index) for index in range(first, last + 1)] if self._memory_chain else [(first, last)]
            for begin, end in pieces:
                try:
                    await self._kernel.memory_blocks.device_online(begin, end, online_type)
                except KernelError as error:
                    self._kernel.printk(
                        WARNING, f"try_reonline_memory_block: Failed to re-online memory: {-error.errno}"
                    )
