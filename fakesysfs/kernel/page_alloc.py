"""The page allocator's messages after a change of the populated zones.

mm/page_alloc.c, build_all_zonelists.

The order of the fallback nodes follows KERNEL.md 9 (find_next_best_node with its node_load). It
matches every recorded `Fallback order for Node` line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fakesysfs.kernel.printk import INFO, Printk


def fallback_order(
    nid: int,
    possible: Sequence[int],
    has_memory: Callable[[int], bool],
    distance: Callable[[int, int], int],
    has_cpu: Callable[[int], bool],
    node_load: dict[int, int],
    max_numnodes: int,
) -> list[int]:
    """The fallback nodes of node `nid`, nearest first (build_zonelists). Updates `node_load`."""
    order: list[int] = []
    unused = [node for node in possible if has_memory(node)]
    previous = nid
    while unused:
        if not order and nid in unused:
            best = nid
        else:
            best = min(
                unused,
                key=lambda node: (
                    (distance(nid, node) + (node < nid) + (1 if has_cpu(node) else 0)) * max_numnodes
                    + node_load.get(node, 0),
                    node,
                ),
            )
        if distance(nid, best) != distance(nid, previous):
            node_load[best] = node_load.get(best, 0) + 1
        unused.remove(best)
        order.append(best)
        previous = best
    return order


def log_zonelists(
    printk: Printk, orders: Sequence[tuple[int, Sequence[int]]], zonelists: int, total_pages: int, policy_zone: str
) -> None:
    """Log one rebuild.

    `orders` has (node, its fallback order), `zonelists` is the number of online nodes.
    """
    for nid, order in orders:
        printk(INFO, f"Fallback order for Node {nid}: " + "".join(f"{node} " for node in order))
    printk(INFO, f"Built {zonelists} zonelists, mobility grouping on.  Total pages: {total_pages}")
    printk(INFO, f"Policy zone: {policy_zone}")
