"""Free huge pages on blocks that go offline (mm/hugetlb.c).

A node's pool has no places: pages count as taken from the node's Movable blocks first, the lowest first, then from
those in kernel zones (huge pages can be migrated on x86, so their memory is asked for as movable). Recorded:
7.2/07-unmovable, i=48 to 51.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fakesysfs.kernel.zones import MOVABLE

if TYPE_CHECKING:
    from fakesysfs.kernel.kernel import Kernel
    from fakesysfs.kernel.memory_block import BlockStatus


def dissolve_free_hugetlb_folios(kernel: Kernel, nid: int, first: int, last: int, status: BlockStatus) -> None:
    """Free the huge pages on blocks first..last, which are leaving the zone that `status` names: the pool shrinks."""
    pool = kernel.nodes[nid].hugepages
    if not any(pool.values()):
        return
    low, high = _span(kernel, nid, first, last, status)
    start = 0
    for size_kb in sorted(pool):
        end = start + pool[size_kb] * size_kb
        begin, stop = max(low, start), min(high, end)
        if begin < stop:
            pool[size_kb] -= -(-(stop - start) // size_kb) - (begin - start) // size_kb
        start = end


def _span(kernel: Kernel, nid: int, first: int, last: int, status: BlockStatus) -> tuple[int, int]:
    """Where blocks first..last are when the node's online blocks stand in the order in which pages are taken, in kB."""
    runs = kernel.memory_blocks.runs
    blocks = [run for run in runs if run[2].zone is not None and run[2].zone.nid == nid]
    blocks.append((first, last, status))
    blocks.sort(key=lambda run: (run[2].zone is not None and run[2].zone.name != MOVABLE, run[0]))
    position = 0
    for begin, end, other in blocks:
        length = (end - begin + 1) * other.group.managed_kb
        if begin == first:
            return position, position + length
        position += length
    raise AssertionError(first)
