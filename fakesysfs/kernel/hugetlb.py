"""Free huge pages on blocks that go offline (mm/hugetlb.c).

The model keeps no place for a huge page. It counts the pages as taken from the node's Movable
blocks first, the lowest block first, and then from blocks in kernel zones. (On x86 huge pages can
be migrated, so Linux allocates them as movable.) Recorded: 7.2/07-unmovable, i=48 to 51.
"""

from __future__ import annotations

from fakesysfs.kernel.interval_map import IntervalMap
from fakesysfs.kernel.memory_block import BlockStatus
from fakesysfs.kernel.node import NodeData
from fakesysfs.kernel.zones import MOVABLE


def dissolve_free_hugetlb_folios(
    node: NodeData, runs: IntervalMap[BlockStatus], first: int, last: int, status: BlockStatus
) -> None:
    """Free the node's huge pages on blocks first..last; the pool shrinks.

    `status` has the zone that the blocks leave.
    """
    pool = node.hugepages
    if not any(pool.values()):
        return
    low, high = _span(node.nid, runs, first, last, status)
    start = 0
    for size_kb in sorted(pool):
        end = start + pool[size_kb] * size_kb
        begin, stop = max(low, start), min(high, end)
        if begin < stop:
            pool[size_kb] -= -(-(stop - start) // size_kb) - (begin - start) // size_kb
        start = end


def _span(nid: int, runs: IntervalMap[BlockStatus], first: int, last: int, status: BlockStatus) -> tuple[int, int]:
    """Start and end of blocks first..last in kB.

    The positions count the node's online blocks in the order of allocation.
    """
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
