"""Pages that the kernel takes for itself on nodes of hotplugged memory (mm/slub.c, mm/sparse-vmemmap.c).

They are in a kernel zone of the node, and keep their block from going offline:

- a memory map, of added blocks or of a device that device_dax maps. Offlining fails with EBUSY while it is there.
- a slab page. A probe of a device of the node takes one, and the workqueue of dax_hmem one on each node. Its reference
  count is 0, so the check for unmovable pages passes it, and offlining goes on until a signal comes. An empty slab
  stays until the node's last memory goes offline.

The allocator goes on where it has taken pages already, or else begins at the block that has been online longest.
Recorded: 22-slab-pages, 23-memory-maps, 24-workqueue.

Differs knowingly: a node with boot memory in a kernel zone takes these pages from there; a block has room for all.
"""

from __future__ import annotations

from collections.abc import Hashable

from fakesysfs.kernel.core import Core
from fakesysfs.kernel.interval_map import IntervalMap
from fakesysfs.kernel.memory_block import MemoryBlocks
from fakesysfs.kernel.node import Nodes
from fakesysfs.ops.recording import record_everything

VMEMMAP_BYTES_PER_PAGE = 64
"""sizeof(struct page) is 64, a page 4096: a memmap takes 1/64 of its block."""


class KernelPages:
    """Which hotplugged blocks have such pages. Only with the option kernel_allocations_on_hotplugged_nodes."""

    def __init__(self, core: Core, nodes: Nodes, blocks: MemoryBlocks) -> None:
        self._core = core
        self._nodes = nodes
        self._blocks = blocks
        self._free_lists: dict[int, IntervalMap[int]] = {}
        """Node -> its hotplugged blocks in a kernel zone, each with when its pages came to the end of the list."""
        self._time = 0
        """Counts how often pages came to the end of a list."""
        self._workqueues: dict[tuple[str, int], int] = {}
        """Name of a workqueue and node -> the block with the workqueue's object of that node."""

    # Which block --------------------------------------------------------------------------------------------------

    def went_online(self, nid: int, first: int, last: int) -> None:
        """Hotplugged blocks went online in a kernel zone of the node."""
        if self._core.config.kernel_allocations_on_hotplugged_nodes:
            self._at_the_end(self._free_lists.setdefault(nid, IntervalMap()), first, last)

    def went_offline(self, nid: int, first: int, last: int) -> None:
        """Blocks went offline, from whichever zone."""
        if nid in self._free_lists:
            record_everything()
            self._free_lists[nid].clear(first, last)

    def stayed_online(self, nid: int, index: int) -> None:
        """The block could not go offline. Its pages, which were set aside, are now the last ones of the list."""
        blocks = self._free_lists.get(nid)
        if blocks is not None and blocks.get(index) is not None:
            self._at_the_end(blocks, index, index)

    def _at_the_end(self, blocks: IntervalMap[int], first: int, last: int) -> None:
        record_everything()  # the order of all blocks of the node matters later
        self._time += 1
        blocks.set(first, last, self._time)

    def _next_block(self, nid: int | None) -> int | None:
        """Where the next page for the node comes from. None: from boot memory, here or on another node."""
        if nid not in self._free_lists or self._nodes[nid].zones.early_kernel_pages():
            return None
        blocks = self._free_lists[nid]
        taken = self._blocks.unmovable | self._blocks.slab | set(self._blocks.memory_maps.values())
        there = [(time, index) for index in taken if (time := blocks.get(index)) is not None]
        candidates = there or [(time, first) for first, _, time in blocks]
        return min(candidates)[1] if candidates else None

    # Slab pages ---------------------------------------------------------------------------------------------------

    def probe(self, nid: int | None) -> None:
        """A driver probes a device of the node: the driver core allocates for it there.

        pinctrl_bind_pins, only with PINCTRL. It frees that at once, which leaves an empty slab.
        """
        if self._core.config.pinctrl:
            self._allocate(nid)

    def _allocate(self, nid: int | None) -> int | None:
        """Allocate an object on a node. Returns the block that has it, None for boot memory."""
        index = self._next_block(nid)
        if index is not None:
            record_everything()
            self._blocks.slab.add(index)
        return index

    def alloc_workqueue(self, name: str) -> None:
        """Make an unbound workqueue, which has an object on each possible node (alloc_node_nr_active)."""
        for nid in self._nodes.possible:
            index = self._allocate(nid)
            if index is not None:
                self._workqueues[name, nid] = index

    def destroy_workqueue(self, name: str) -> None:
        """Free the objects of a workqueue."""
        self._workqueues = {key: index for key, index in self._workqueues.items() if key[0] != name}

    def shrink_slabs(self, index: int) -> None:
        """The node's last block goes offline: give the pages of empty slabs back (slab_mem_going_offline_callback)."""
        if index not in self._workqueues.values():
            self._blocks.slab.discard(index)

    # Memory maps --------------------------------------------------------------------------------------------------

    def take_memory_map(self, of: Hashable, nid: int | None) -> None:
        """Allocate the memory map of something on the node, if it has memory for it (vmemmap_alloc_block)."""
        index = self._next_block(nid)
        if index is not None:
            record_everything()
            self._blocks.memory_maps[of] = index

    def free_memory_map(self, of: Hashable) -> None:
        """Free the memory map again. Nothing happens for one that is elsewhere."""
        if self._blocks.memory_maps.pop(of, None) is not None:
            record_everything()
