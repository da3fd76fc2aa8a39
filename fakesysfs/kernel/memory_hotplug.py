"""Adding, onlining, offlining and removing memory (mm/memory_hotplug.c).

One step takes as many blocks as must behave alike: up to the next edge of a zone's span, up to the
next flagged block. Messages, uevents and totals are the same as if each step took one block; a
property test compares the two.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fakesysfs.kernel.core import Core
from fakesysfs.kernel.hugetlb import dissolve_free_hugetlb_folios
from fakesysfs.kernel.kernel_pages import VMEMMAP_BYTES_PER_PAGE, KernelPages
from fakesysfs.kernel.kstrtox import kstrtoull, sysfs_match_string
from fakesysfs.kernel.memory_block import (
    BlockGroup,
    BlockStatus,
    MemoryBlocks,
    MemoryGroup,
    Offlined,
    State,
    mhp_online_type_from_str,
)
from fakesysfs.kernel.memory_tiers import MemoryTiers
from fakesysfs.kernel.node import Nodes
from fakesysfs.kernel.printk import WARNING
from fakesysfs.kernel.profile import Mmop
from fakesysfs.kernel.range import Range
from fakesysfs.kernel.resource import IomemResource
from fakesysfs.kernel.zones import KERNEL_ZONES, MOVABLE, PAGE_SHIFT, Zone
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import WaitQueue

MEM_GOING_ONLINE = "MEM_GOING_ONLINE"
MEM_GOING_OFFLINE = "MEM_GOING_OFFLINE"
"""The events that a notifier of the memory chain can refuse (include/linux/memory.h)."""

MemoryNotifier = Callable[[str, int], None]
"""Called with an event and the number of its block. Raises KernelError to refuse the event.

A step over several blocks asks only about its first block. So a notifier must treat all blocks
alike.
"""

ONLINE_POLICIES = ("contig-zones", "auto-movable")


@dataclass(slots=True)
class Parameters:
    """/sys/module/memory_hotplug/parameters."""

    memmap_on_memory: bool = False
    online_policy: str = ONLINE_POLICIES[0]
    auto_movable_ratio: int = 301
    auto_movable_numa_aware: bool = True


class MemoryHotplug:
    """The operations on memory of one kernel."""

    def __init__(
        self,
        core: Core,
        nodes: Nodes,
        blocks: MemoryBlocks,
        tiers: MemoryTiers,
        iomem: IomemResource,
        default_online_type: Mmop,
        parameters: Parameters,
    ) -> None:
        self._core = core
        self._nodes = nodes
        self._blocks = blocks
        blocks.pages = self
        self._tiers = tiers
        self._iomem = iomem
        self.default_online_type = default_online_type
        self.parameters = parameters
        self.pins_released = WaitQueue()
        self.kernel_pages = KernelPages(core, nodes, blocks)
        self._memory_chain: list[MemoryNotifier] = []
        self.nr_memmap_pages = 0
        """Pages of the memory maps of added blocks."""
        self.nr_memmap_boot_pages = 0
        """Pages of the memory maps of boot memory: a whole map for each block with any RAM."""

    # The default online type (auto_online_blocks) -----------------------------------------------------------------

    def mhp_get_default_online_type(self) -> Mmop:
        """The policy of the system; always offline without MEMORY_HOTPLUG (patch 4)."""
        return self.default_online_type if self._core.config.memory_hotplug else Mmop.OFFLINE

    def mhp_set_default_online_type(self, buffer: bytes) -> None:
        """A write to auto_online_blocks; takes no lock (auto_online_blocks_store).

        Raises KernelError EINVAL.
        """
        self.default_online_type = mhp_online_type_from_str(buffer, "auto_online_blocks_store")

    def set_online_policy(self, buffer: bytes) -> None:
        """A write to the module parameter online_policy (set_online_policy).

        Raises KernelError EINVAL.
        """
        policies = {policy: policy for policy in ONLINE_POLICIES}
        self.parameters.online_policy = sysfs_match_string(policies, buffer, "set_online_policy")

    def set_auto_movable_ratio(self, buffer: bytes) -> None:
        """A write to the module parameter auto_movable_ratio, in percent.

        Raises KernelError: EINVAL, ERANGE.
        """
        value = kstrtoull(buffer, 0, "param_set_uint")
        if value >= 1 << 32:
            raise KernelError(errno.ERANGE, f"{value} does not fit 32 bits", "param_set_uint")
        self.parameters.auto_movable_ratio = value

    # Zones --------------------------------------------------------------------------------------------------------

    def zone_for_pfn_range(self, online_type: Mmop, group: BlockGroup, first: int, last: int) -> tuple[Zone, int]:
        """The zone for block `first` of an offline range, and how many blocks go to it in one step.

        zone_for_pfn_range.
        """
        nid = group.nids[0]
        zones = self._nodes[nid].zones
        start, end = self._blocks.pfns(first, first)
        if online_type is Mmop.ONLINE_MOVABLE:
            return zones.movable, self._together(zones.movable, nid, first, last, [])
        edges = zones.edges(start, self._blocks.pfns(first, last)[1]) if last > first else ()
        if online_type is Mmop.ONLINE_KERNEL:
            zone = zones.default_kernel_zone(start, end)
        elif self.parameters.online_policy == ONLINE_POLICIES[1]:
            zone = self._auto_movable_zone(nid, group.memory_group, first)
            if group.memory_group is None:
                return zone, 1
            if zone is zones.movable:
                edges = ()  # what one block takes of the ratio the group needs less: the next decision is the same
        else:
            zone = zones.default_zone(start, end, movable_node=self._core.config.movable_node)
        return zone, self._together(zone, nid, first, last, edges)

    def _together(self, zone: Zone, nid: int, first: int, last: int, edges: Sequence[int]) -> int:
        """How many blocks from `first` on can go into `zone` in one step."""
        if first == last:
            return 1
        start, _ = self._blocks.pfns(first, first)
        pages = self._blocks.pfns(0, 0)[1]
        if zone.name in KERNEL_ZONES and self._allocates_on(nid):
            return 1  # the node's first block in a kernel zone becomes unmovable, the others do not
        if edges and zone.end not in {zone.start, start} and not zone.intersects(start, start + 1):
            return 1  # the span grows over the pages in between, which may change the zone of the next block
        stop = next((edge for edge in edges if edge > start), None)
        if stop is None:
            return last - first + 1
        return max(min(stop // pages, last + 1) - first, 1)

    def _auto_movable_zone(self, nid: int, group: MemoryGroup | None, first: int) -> Zone:
        """The zone under the online policy auto-movable (auto_movable_zone_for_pfn, KERNEL.md 9).

        It is Movable if the ratio allows it, on the machine and on the node, for all that the group
        still has to online. One online page of the group in a kernel zone makes it the kernel zone.
        Memory without a group counts block by block.
        """
        zones = self._nodes[nid].zones
        kernel_zone = zones.default_kernel_zone(*self._blocks.pfns(first, first))
        if group is None:
            wanted = self._blocks.block_size >> PAGE_SHIFT
        elif group.present_kernel_pages:
            return kernel_zone
        else:
            wanted = group.max_pages - group.present_movable_pages

        def allowed(nodes: Sequence[int]) -> bool:
            movable = sum(self._nodes[node].zones.movable.present for node in nodes)
            early = sum(self._nodes[node].zones.early_kernel_pages() for node in nodes)
            return bool(early) and movable + wanted <= self.parameters.auto_movable_ratio * early // 100

        fits = allowed(self._nodes.possible) and (not self.parameters.auto_movable_numa_aware or allowed([nid]))
        return zones.movable if fits else kernel_zone

    def zones_for_offline(self, group: BlockGroup, index: int) -> list[str]:
        """The zones that an offline block can go to, the default first (valid_zones_show)."""
        zones = self._nodes[group.nids[0]].zones
        default = self.zone_for_pfn_range(Mmop.ONLINE, group, index, index)[0]
        kernel_zone = zones.default_kernel_zone(*self._blocks.pfns(index, index))
        return list(dict.fromkeys([default.name, kernel_zone.name, MOVABLE]))

    def _shrink_zone_span(self, zone: Zone, start: int, end: int) -> None:
        """Shrink a span after a range at its edge left: it ends at the next online page.

        shrink_zone_span.
        """
        blocks = self._blocks
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

    def _allocates_on(self, nid: int) -> bool:
        """Does the kernel put slab and page tables on the node's next block in a kernel zone?

        KERNEL.md 2.
        """
        return self._core.config.kernel_allocations_on_hotplugged_nodes and not self._nodes[nid].zones.present()

    # Pages going online and offline -----------------------------------------------------------------------------

    def register_memory_notifier(self, notifier: MemoryNotifier) -> None:
        """Call a notifier before blocks go online or offline."""
        self._memory_chain.append(notifier)

    def unregister_memory_notifier(self, notifier: MemoryNotifier) -> None:
        """Call the notifier no longer."""
        self._memory_chain.remove(notifier)

    def _memory_notify(self, event: str, index: int) -> None:
        for notifier in self._memory_chain:
            notifier(event, index)

    def online_pages(self, first: int, last: int, group: BlockGroup, zone: Zone) -> Callable[[], None]:
        """Put the pages of offline blocks into a zone (online_pages).

        Returns a function to call after the change of the blocks' state. Raises KernelError with
        the errno of a notifier.
        """
        self._memory_notify(MEM_GOING_ONLINE, first)
        core, nodes = self._core, self._nodes
        node = nodes[zone.nid]
        blocks = last - first + 1
        pages = blocks * group.present_kb // 4
        populated, had_memory = zone.present > 0, node.zones.present() > 0
        slab = zone.name in KERNEL_ZONES and self._allocates_on(zone.nid)
        zone.grow(*self._blocks.pfns(first, last))
        self._adjust_present_page_count(zone, group, pages)
        zone.managed_kb += blocks * group.managed_kb
        if zone.name in KERNEL_ZONES and not group.early:
            self.kernel_pages.went_online(zone.nid, first, last)
        if slab:
            self._blocks.unmovable.add(first)
        if not populated:
            nodes.build_all_zonelists(extra_kb=(1 - blocks) * group.managed_kb)

        def node_got_memory() -> None:
            if not had_memory:
                if self._tiers.has_performance(zone.nid):
                    initiators = nodes.hmat_register_target(zone.nid)
                    if initiators:
                        core.changed("node_access", node.device, initiators)
                self._tiers.set_node_memory_tier(zone.nid)

        return node_got_memory

    @staticmethod
    def _adjust_present_page_count(zone: Zone, group: BlockGroup, pages: int) -> None:
        """Count pages that come (or go, if negative) in the zone and in the memory group."""
        zone.present += pages
        zone.present_early += pages if group.early else 0
        memory_group = group.memory_group
        if memory_group is None:
            return
        if zone.name == MOVABLE:
            memory_group.present_movable_pages += pages
        else:
            memory_group.present_kernel_pages += pages

    def check_offline(self, index: int, status: BlockStatus) -> None:
        """Check in the kernel's order whether a block can be offlined, before any page is moved.

        Raises KernelError: EINVAL for several zones or holes, EBUSY for an unmovable page, or the
        errno of a notifier.
        """
        core = self._core
        if not core.config.memory_hotremove:
            raise KernelError(errno.EINVAL, "the kernel was built without MEMORY_HOTREMOVE", "offline_pages", index)
        if status.zone is None:
            raise KernelError(errno.EINVAL, f"memory{index} spans several zones", "memory_block_offline", index)
        if status.group.holes:
            raise KernelError(errno.EINVAL, f"memory{index} has holes", "offline_pages", index)
        if index in self._blocks.unmovable or index in self._blocks.memory_maps.values():
            core.printk(WARNING, "page dumped because: unmovable page")
            raise KernelError(errno.EBUSY, f"memory{index} has an unmovable page", "start_isolate_page_range", index)
        if status.group.present_kb // 4 >= self._nodes[status.zone.nid].zones.present():
            self.kernel_pages.shrink_slabs(index)
        try:
            self._memory_notify(MEM_GOING_OFFLINE, index)
        except KernelError:
            self.cancel_offline(index, status)
            raise

    def cancel_offline(self, index: int, status: BlockStatus) -> None:
        """The pages of a block that stays online go back to the allocator (undo_isolate_page_range)."""
        if status.zone is not None:
            self.kernel_pages.stayed_online(status.zone.nid, index)

    def log_migration_failure(self, index: int) -> None:
        """Log that a pinned page of the block did not migrate.

        do_migrate_range, which limits the rate.
        """
        pfn = self._blocks.pfns(index, index)[0]
        self._core.printk(WARNING, f"migrating pfn {pfn:x} failed ret:200")
        self._core.printk(WARNING, "page dumped because: migration failure")

    def offline_pages(self, first: int, last: int, status: BlockStatus) -> Callable[[], None] | None:
        """Take the pages of online blocks out of their zone, after `check_offline` (offline_pages).

        Returns a function to call right before the uevent of the last block, or None if the node
        still has memory.
        """
        zone = status.zone
        assert zone is not None
        node = self._nodes[zone.nid]
        blocks = last - first + 1
        dissolve_free_hugetlb_folios(node, self._blocks.runs, first, last, status)
        pages = blocks * status.group.present_kb // 4
        self.kernel_pages.went_offline(zone.nid, first, last)
        self._adjust_present_page_count(zone, status.group, -pages)
        zone.managed_kb -= blocks * status.group.managed_kb
        self._shrink_zone_span(zone, *self._blocks.pfns(first, last))
        if not zone.present:
            self._nodes.build_all_zonelists()
        if node.zones.present():
            return None
        return lambda: self._tiers.clear_node_memory_tier(zone.nid)

    # What the machine's user asks for -----------------------------------------------------------------------------

    def pin(self, nid: int) -> int | None:
        """Pin a page in the node's lowest online Movable block.

        Returns the number of the block, None without one.
        """
        index = self._blocks.lowest_online(nid, movable=True)
        if index is not None:
            self._blocks.pinned.add(index)
        return index

    def unpin(self, index: int | None = None) -> None:
        """Release the pins of one block, or of all (None).

        Operations that wait for the migration of a page continue.
        """
        self._blocks.pinned.difference_update(set(self._blocks.pinned) if index is None else {index})
        self.pins_released.wake_all()

    def kernel_allocations(self, nid: int) -> int | None:
        """Allocate kernel memory on the node's lowest online block in a kernel zone.

        The block stays unmovable, even if the memory is freed (recorded: slab and page tables
        stay). Returns the block's number, None without one.
        """
        index = self._blocks.lowest_online(nid, movable=False)
        if index is not None:
            self._blocks.unmovable.add(index)
        return index

    # Adding -------------------------------------------------------------------------------------------------------

    async def add_memory_driver_managed(
        self, group: MemoryGroup, span: Range, resource_name: str, online_type: Mmop | None, *, memmap_on_memory: bool
    ) -> None:
        """Add a range of a driver's memory group as System RAM and online it.

        `__add_memory_driver_managed` of patch 5.

        `online_type` None means the system's policy, read anew for each block
        (online_memory_block). Raises KernelError: EINVAL for a name that is not "System RAM (...)",
        a bad online type or a misaligned range, EEXIST if a resource or a memory block is in the
        range. A block that does not go online raises nothing.
        """
        where = "__add_memory_driver_managed"
        if not resource_name.startswith("System RAM (") or not resource_name.endswith(")"):
            raise KernelError(errno.EINVAL, f"{resource_name!r} is not of the form 'System RAM (driver)'", where)
        if online_type is not None and online_type not in set(Mmop):
            raise KernelError(errno.EINVAL, f"{online_type} is not an online type", where)
        async with self._core.device_hotplug_lock:
            resource = self._iomem.request_region(span.start, span.end, resource_name)
            if resource is None:
                raise KernelError(errno.EEXIST, "another resource is in the range", "register_memory_resource")
            try:
                await self._add_memory_resource(group, span, online_type, memmap_on_memory=memmap_on_memory)
            except KernelError:
                self._iomem.release(resource)
                raise

    async def _add_memory_resource(
        self, memory_group: MemoryGroup, span: Range, online_type: Mmop | None, *, memmap_on_memory: bool
    ) -> None:
        nid = memory_group.nid
        core, blocks, nodes = self._core, self._blocks, self._nodes
        size = blocks.block_size
        if span.start % size or span.length % size or span.length <= 0:
            raise KernelError(
                errno.EINVAL, "start and size must be multiples of the memory block size", "check_hotplug_memory_range"
            )
        first, last = span.start // size, span.end // size
        if any(True for _ in blocks.runs.between(first, last)):
            raise KernelError(errno.EEXIST, "a memory block of the range already exists", "add_memory_block")
        if not nodes[nid].online:
            nodes.build_all_zonelists(nid)
            nodes.register(nid)
        altmap = size // VMEMMAP_BYTES_PER_PAGE // 1024 if memmap_on_memory and self.parameters.memmap_on_memory else 0
        group = BlockGroup(
            core.new_serial(), first, last, (nid,), blocks, size // 1024, altmap, memory_group=memory_group
        )
        core.register(group)
        self.nr_memmap_pages += (last - first + 1) * self.memmap_pages_of_block()
        if not altmap:
            self.kernel_pages.take_memory_map((first, last), nid)
        blocks.create(first, last, group, BlockStatus(group, State.OFFLINE, None))
        policy = self.mhp_get_default_online_type
        if (policy() if online_type is None else online_type) is Mmop.OFFLINE:
            return
        try:
            await blocks.device_online(first, last, policy if online_type is None else online_type)
        except KernelError as error:
            core.note_ignored(error)

    def memmap_pages_of_block(self) -> int:
        """How many pages the memory map of one block takes."""
        return self._blocks.block_size // VMEMMAP_BYTES_PER_PAGE >> PAGE_SHIFT

    # Removing -----------------------------------------------------------------------------------------------------

    async def remove_memory(self, span: Range) -> None:
        """Remove a range of offline blocks (remove_memory).

        Raises KernelError EBUSY, and logs it, if one is online.
        """
        async with self._core.device_hotplug_lock:
            self._try_remove_memory(span)

    def _try_remove_memory(self, span: Range) -> None:
        blocks = self._blocks
        first, last = span.start // blocks.block_size, span.end // blocks.block_size
        for begin, _, status in blocks.runs.between(first, last):
            if status.state is not State.OFFLINE:
                start = begin * blocks.block_size
                end = start + blocks.block_size - 1
                self._core.printk(
                    WARNING, f"removing memory fails, because memory [0x{start:016x}-0x{end:016x}] is onlined"
                )
                raise KernelError(errno.EBUSY, f"memory{begin} is online", "try_remove_memory", begin)
        nids = sorted({nid for _, _, status in blocks.runs.between(first, last) for nid in status.group.nids})
        blocks.remove(first, last)
        self.kernel_pages.free_memory_map((first, last))
        self.nr_memmap_pages -= (last - first + 1) * self.memmap_pages_of_block()
        for _, resource in list(self._iomem.walk()):
            if (resource.start, resource.end) == (span.start, span.end) and resource.name.startswith("System RAM"):
                self._iomem.release(resource)
        for nid in nids:
            self._nodes.try_offline(nid)

    async def offline_and_remove_memory(self, spans: Sequence[Range]) -> None:
        """Offline all blocks of the ranges and remove them, or restore everything.

        With one range this is Linux's `offline_and_remove_memory`; the merged form passes several.
        After a failure the blocks that this call offlined go back online in the same order, each
        into its kind of zone. Raises KernelError: the error of the first block that failed.
        """
        size = self._blocks.block_size
        done: list[Offlined] = []
        async with self._core.device_hotplug_lock:
            try:
                for span in spans:
                    await self._blocks.device_offline(span.start // size, span.end // size, done)
                for span in spans:
                    self._try_remove_memory(span)
            except KernelError:
                await self._try_reonline(done)
                raise

    async def _try_reonline(self, done: Sequence[Offlined]) -> None:
        for first, last, online_type in done:
            # A notifier or a poisoned page refuses each block alone, so each one is tried alone.
            alone = bool(self._memory_chain or self._blocks.hwpoison)
            pieces = [(index, index) for index in range(first, last + 1)] if alone else [(first, last)]
            for begin, end in pieces:
                try:
                    await self._blocks.device_online(begin, end, online_type)
                except KernelError as error:
                    self._core.printk(WARNING, f"try_reonline_memory_block: Failed to re-online memory: {-error.errno}")
