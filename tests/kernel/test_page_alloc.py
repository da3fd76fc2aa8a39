"""The fallback orders that the recordings show, and when the kernel says them (KERNEL.md 2 and 9)."""

from __future__ import annotations

import pytest

from fakesysfs.kernel.page_alloc import fallback_order
from fakesysfs.kernel.profile import Mmop
from fakesysfs.machine import load
from tests.model import block_state, booted, drive, log_since, write_state

RECORDED_GUEST = [[10, 15, 20, 25], [15, 10, 20, 25], [20, 20, 10, 30], [25, 25, 30, 10]]
HMAT_GUEST = [[10, 20, 20, 20], [20, 10, 20, 20], [20, 20, 10, 20], [20, 20, 20, 10]]


@pytest.mark.parametrize(
    ("distances", "memory", "asked", "orders"),
    [
        # 7.2/01-boot i=13: kmem adds the first range of node 2
        (RECORDED_GUEST, {0, 1, 3}, [2], [[1, 0, 3]]),
        # 7.2/02-state-semantics i=29: its first block goes online
        (RECORDED_GUEST, {0, 1, 2, 3}, [0, 1, 2, 3], [[0, 1, 2, 3], [1, 0, 2, 3], [2, 1, 0, 3], [3, 1, 0, 2]]),
        # 7.2/04-daxctl i=27: its last block goes offline
        (RECORDED_GUEST, {0, 1, 3}, [0, 1, 2, 3], [[0, 1, 3], [1, 0, 3], [1, 0, 3], [3, 1, 0]]),
        # 7.2/10-hmat i=2 and i=7: with all distances equal, the load that node_load counts decides
        (HMAT_GUEST, {0, 1, 3}, [2], [[3, 1, 0]]),
        (HMAT_GUEST, {0, 1, 2, 3}, [0, 1, 2, 3], [[0, 1, 2, 3], [1, 2, 3, 0], [2, 3, 1, 0], [3, 1, 2, 0]]),
    ],
)
@pytest.mark.parametrize("max_numnodes", [64, 1024])
def test_recorded_orders(
    distances: list[list[int]], memory: set[int], asked: list[int], orders: list[list[int]], max_numnodes: int
) -> None:
    load: dict[int, int] = {}
    found = [
        fallback_order(
            nid,
            range(4),
            memory.__contains__,
            lambda one, other: distances[one][other],
            {0}.__contains__,
            load,
            max_numnodes,
        )
        for nid in asked
    ]
    assert found == orders


def test_the_lists_are_said_when_the_set_of_populated_zones_changes_and_at_no_other_time() -> None:
    kernel = booted("7.2", policy=Mmop.OFFLINE)

    def said(index: int, word: str) -> int:
        before = kernel.printk.sequence
        assert block_state(kernel, index, word) == "ok"
        return sum("Built " in line for line in log_since(kernel, before))

    assert said(48, "online_movable") == 1
    assert said(49, "online_movable") == 0
    assert said(50, "online_kernel") == 1
    assert said(50, "offline") == 1
    assert said(49, "offline") == 0
    assert said(48, "offline") == 1


def test_the_exact_lines() -> None:
    """KERNEL.md 2: a trailing space in the orders, two spaces before "Total pages", N is the count of online nodes."""
    distances = ((10, 15, 20), (15, 10, 20), (20, 20, 10))
    kernel = booted("7.2", policy=Mmop.OFFLINE, modules=("device_dax", "dax_hmem"), distances=distances)
    before, pages = kernel.printk.sequence, kernel.nodes.managed_kb() // 4
    drive(kernel.modprobe("kmem"))
    assert log_since(kernel, before) == [
        "<6>Fallback order for Node 2: 1 0 ",
        f"<6>Built 2 zonelists, mobility grouping on.  Total pages: {pages}",
        "<6>Policy zone: Normal",
    ]
    before = kernel.printk.sequence
    block_state(kernel, 48, "online_movable")
    assert log_since(kernel, before)[:5] == [
        "<6>Fallback order for Node 0: 0 1 2 ",
        "<6>Fallback order for Node 1: 1 0 2 ",
        "<6>Fallback order for Node 2: 2 1 0 ",
        f"<6>Built 3 zonelists, mobility grouping on.  Total pages: {pages + 32768}",
        "<6>Policy zone: Normal",
    ]


def test_the_policy_zone_is_the_highest_kernel_zone_that_was_ever_there() -> None:
    """check_highest_zone: Movable does not count, and what is gone counts on."""
    kernel = booted("7.3", load("tiny").setup())
    log = kernel.printk.sequence
    said = []
    for word in ("unplugged", "online_movable", "unplugged", "online", "unplugged"):
        assert write_state(kernel, word) == "ok"
        said.append({line for line in log_since(kernel, log) if "Policy zone" in line})
        log = kernel.printk.sequence
    low, high = "<6>Policy zone: DMA32", "<6>Policy zone: Normal"
    assert said == [{low}, {low}, {low}, {low, high}, {high}]
