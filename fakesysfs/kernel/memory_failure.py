"""Pages that are taken out of use (mm/memory-failure.c).

A poisoned page stays poisoned until its memory block is removed. The block can go offline with it,
but not online again.

Differs knowingly: which pages the kernel uses is not modelled. The first page of a block with
unmovable pages is the kernel's, and so are pages without RAM beside RAM, as on a real machine. Each
other page is free, those in pools of huge pages too. A block device on persistent memory has no page map.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from fakesysfs.kernel.core import Core
from fakesysfs.kernel.memory_block import MemoryBlock, MemoryBlocks, State
from fakesysfs.kernel.node import Nodes
from fakesysfs.kernel.printk import ERR, INFO
from fakesysfs.kernel.range import Range
from fakesysfs.kernel.zones import PAGE_SHIFT
from fakesysfs.ops.errors import EHWPOISON, KernelError

SECTION_SHIFT = 27
"""A memory map exists for each section of 128 MiB that has any RAM (SECTION_SIZE_BITS)."""
SUBSECTION_SHIFT = 21
"""Boot memory is online in pieces of 2 MiB (SUBSECTION_SHIFT)."""


@dataclass(slots=True)
class MemoryFailureStats:
    """Memory errors of one node since boot (struct memory_failure_stats)."""

    total: int = 0
    ignored: int = 0
    failed: int = 0
    delayed: int = 0
    recovered: int = 0


RESULTS = tuple(field.name for field in fields(MemoryFailureStats))


class MemoryFailure:
    """The handling of bad pages of one kernel.

    `boot_ram` has (node, range) of the RAM at boot. `device_page` gives the node of a page frame in
    the page map of a dax device that is bound to device_dax, None for any other page frame.
    """

    def __init__(
        self,
        core: Core,
        nodes: Nodes,
        blocks: MemoryBlocks,
        boot_ram: Sequence[tuple[int, Range]],
        device_page: Callable[[int], int | None],
    ) -> None:
        self._core = core
        self._blocks = blocks
        self._boot_ram = boot_ram
        self._device_page = device_page
        self._poisoned_device_pages = 0
        self.stats = {nid: MemoryFailureStats() for nid in nodes.possible}

    @property
    def num_poisoned_pages(self) -> int:
        """Pages in HardwareCorrupted of /proc/meminfo."""
        return self._poisoned_device_pages + sum(len(pages) for pages in self._blocks.hwpoison.values())

    def memory_failure(self, pfn: int) -> None:
        """A page frame failed: take it out of use (memory_failure with MF_SW_SIMULATED).

        Raises KernelError: EBUSY for a page of the kernel, of device_dax or without a struct page,
        ENXIO for memory that is not online, EHWPOISON for a page that is poisoned already.
        """
        where = "memory_failure"
        block = self._online_block(pfn)
        if block is None:
            self._failure_outside_online_memory(pfn)
        elif pfn in self._blocks.hwpoison.get(block.index, ()):
            self._log_action(pfn, "already poisoned page", "failed")
            raise KernelError(EHWPOISON, f"page {pfn:#x} is poisoned already", where, block.index)
        elif self._is_free(pfn, block):
            self._poison(pfn, block)
            self._action_result(pfn, "free buddy page", "recovered", self._nid(pfn, block))
        else:
            self._core.printk(ERR, f"Memory failure: {pfn:#x}: unhandlable page.")
            self._poison(pfn, block)
            names_it = self._core.profile.memory_failure_names_kernel_pages
            page_type = "reserved kernel page" if names_it else "get hwpoison page"
            self._action_result(pfn, page_type, "ignored", self._nid(pfn, block))
            raise KernelError(errno.EBUSY, f"the kernel uses page {pfn:#x}", where, block.index)

    def soft_offline_page(self, pfn: int) -> None:
        """Take a page out of use that still works (soft_offline_page). It is no memory error.

        Raises KernelError: ENXIO for a page frame without a struct page, EIO for one that is not
        online, and for a page of the kernel EIO or, where the profile names these, ENOTRECOVERABLE.
        """
        where = "soft_offline_page"
        block = self._online_block(pfn)
        if block is None:
            if not self._pfn_valid(pfn):
                raise KernelError(errno.ENXIO, f"there is no memory at page {pfn:#x}", where)
            raise KernelError(errno.EIO, f"page {pfn:#x} is not online", where)
        if pfn in self._blocks.hwpoison.get(block.index, ()):
            self._core.printk(INFO, f"Soft offline: {pfn:#x}: page already poisoned")
        elif self._is_free(pfn, block):
            self._poison(pfn, block)
        else:
            self._core.printk(ERR, f"Memory failure: {pfn:#x}: unhandlable page.")
            named = self._core.profile.memory_failure_names_kernel_pages
            code = errno.ENOTRECOVERABLE if named else errno.EIO
            raise KernelError(code, f"the kernel uses page {pfn:#x}", where, block.index)

    def _failure_outside_online_memory(self, pfn: int) -> None:
        nid = self._device_page(pfn)
        if nid is not None:
            self._poisoned_device_pages += 1
            self._action_result(pfn, "dax page", "failed", nid)
            raise KernelError(errno.EBUSY, f"no program has page {pfn:#x} mapped", "mf_generic_kill_procs")
        if self._pfn_valid(pfn):
            self._core.printk(ERR, f"Memory failure: {pfn:#x}: memory outside kernel control")
            raise KernelError(errno.ENXIO, f"page {pfn:#x} is not online", "memory_failure")
        self._log_action(pfn, "non struct page pfn", "ignored")
        raise KernelError(errno.EBUSY, f"there is no memory at page {pfn:#x}", "memory_failure_pfn")

    # Kinds of pages -----------------------------------------------------------------------------------------------

    def _block(self, pfn: int) -> MemoryBlock | None:
        return self._blocks.get((pfn << PAGE_SHIFT) // self._blocks.block_size)

    def _online_block(self, pfn: int) -> MemoryBlock | None:
        """The block of a page that is online, None for any other page (pfn_to_online_page)."""
        block = self._block(pfn)
        if block is None or block.status.state is State.OFFLINE:
            return None
        return block if not block.group.early or self._near_boot_ram(pfn, SUBSECTION_SHIFT) else None

    def _pfn_valid(self, pfn: int) -> bool:
        """Does the page frame have a struct page?"""
        block = self._block(pfn)
        if block is None:
            return self._device_page(pfn) is not None
        return not block.group.early or self._near_boot_ram(pfn, SECTION_SHIFT)

    def _near_boot_ram(self, pfn: int, shift: int) -> bool:
        """Is there RAM of the boot in the aligned piece of 2^shift bytes around the page?"""
        start = pfn << PAGE_SHIFT >> shift << shift
        return any(span.start < start + (1 << shift) and start <= span.end for _, span in self._boot_ram)

    def _is_free(self, pfn: int, block: MemoryBlock) -> bool:
        if block.index in self._blocks.unmovable and pfn == self._blocks.pfns(block.index, block.index)[0]:
            return False
        return not block.group.early or self._boot_node(pfn) is not None

    def _boot_node(self, pfn: int) -> int | None:
        """The node of a whole page of boot RAM, None for any other page."""
        start = pfn << PAGE_SHIFT
        end = start + (1 << PAGE_SHIFT) - 1
        return next((nid for nid, span in self._boot_ram if span.start <= start and end <= span.end), None)

    def _nid(self, pfn: int, block: MemoryBlock) -> int:
        nid = self._boot_node(pfn) if block.group.early else None
        return block.group.nids[0] if nid is None else nid

    # Results ------------------------------------------------------------------------------------------------------

    def _poison(self, pfn: int, block: MemoryBlock) -> None:
        self._blocks.hwpoison.setdefault(block.index, set()).add(pfn)

    def _action_result(self, pfn: int, page_type: str, result: str, nid: int) -> None:
        """Count the result of a memory error in the statistics of the node, and log it."""
        stats = self.stats[nid]
        setattr(stats, result, getattr(stats, result) + 1)
        stats.total += 1
        self._log_action(pfn, page_type, result)

    def _log_action(self, pfn: int, page_type: str, result: str) -> None:
        self._core.printk(ERR, f"Memory failure: {pfn:#x}: recovery action for {page_type}: {result.capitalize()}")
