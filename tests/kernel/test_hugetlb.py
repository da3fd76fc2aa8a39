"""Huge pages on blocks that go offline (7.2/07-unmovable, i=48 to 51)."""

from __future__ import annotations

from fakesysfs.kernel.kernel import Kernel
from tests.model import BLOCK, FIRST_DAX_BLOCK, block_state, booted, write_state

PER_BLOCK = BLOCK // (2 << 20)


def pool(kernel: Kernel, size_kb: int = 2048) -> int:
    """Pages in the pool of the dax device's node."""
    return kernel.nodes[2].hugepages.get(size_kb, 0)


def test_free_pages_on_an_offlined_block_are_dissolved() -> None:
    kernel = booted()
    kernel.nodes[2].hugepages[2048] = 20
    assert block_state(kernel, FIRST_DAX_BLOCK + 1, "offline") == "ok"
    assert pool(kernel) == 20
    assert block_state(kernel, FIRST_DAX_BLOCK, "offline") == "ok"
    assert pool(kernel) == 0


def test_only_the_pages_on_the_block_are() -> None:
    kernel = booted()
    kernel.nodes[2].hugepages[2048] = PER_BLOCK + 20
    assert block_state(kernel, FIRST_DAX_BLOCK + 1, "offline") == "ok"
    assert pool(kernel) == PER_BLOCK
    assert block_state(kernel, FIRST_DAX_BLOCK, "offline") == "ok"
    assert pool(kernel) == 0


def test_a_gigantic_page_goes_with_any_of_its_blocks() -> None:
    kernel = booted(blocks=16)
    kernel.nodes[2].hugepages[1048576] = 2
    assert block_state(kernel, FIRST_DAX_BLOCK + 3, "offline") == "ok"
    assert pool(kernel, 1048576) == 1


def test_an_unplugged_device_leaves_no_pages() -> None:
    kernel = booted()
    kernel.nodes[2].hugepages.update({2048: 3 * PER_BLOCK, 1048576: 0})
    assert write_state(kernel, "unplug") == "ok"
    assert pool(kernel) == 0


def test_kernel_zones_come_last() -> None:
    kernel = booted()
    for index in (FIRST_DAX_BLOCK, FIRST_DAX_BLOCK + 1):
        assert block_state(kernel, index, "offline") == "ok"
    assert block_state(kernel, FIRST_DAX_BLOCK, "online_kernel") == "ok"
    kernel.nodes[2].hugepages[2048] = 20
    assert block_state(kernel, FIRST_DAX_BLOCK, "offline") == "ok"
    assert pool(kernel) == 20
