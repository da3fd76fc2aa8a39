"""Boot memory in zones and totals, as the recorded guest has it (recordings/machine.json, boot_zones)."""

from __future__ import annotations

import pytest

from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.profile import PROFILES
from fakesysfs.kernel.range import Range
from fakesysfs.kernel.setup import NodeSetup, Setup
from fakesysfs.machine import load
from tests.model import BLOCK, GIB, drive

BOOT_ZONES = [
    (0, "DMA", 4095, 3998, 3840, 1),
    (0, "DMA32", 1044480, 520160, 501498, 4096),
    (0, "Normal", 262144, 262144, 249770, 1048576),
    (1, "Normal", 262144, 262144, 258044, 1310720),
    (3, "Normal", 196608, 43008, 41011, 2621440),
]
"""machine.json: node, zone, spanned, present, managed, start_pfn."""


def boot(setup: Setup) -> Kernel:
    kernel = Kernel(setup, PROFILES["7.2"])
    drive(kernel.boot())
    return kernel


def test_zones_of_the_recorded_guest() -> None:
    kernel = boot(load("oracle").setup())
    assert [
        (zone.nid, zone.name, zone.end - zone.start, zone.present, zone.managed_kb // 4, zone.start)
        for nid in kernel.nodes.possible
        for zone in kernel.nodes[nid].zones
        if zone.present
    ] == BOOT_ZONES
    assert kernel.nodes.managed_kb() == 4216652


@pytest.mark.parametrize("machine", ["oracle", "oracle-distribution"])
def test_memory_maps_are_of_whole_blocks(machine: str) -> None:
    kernel = boot(load(machine).setup())
    assert kernel.memory_hotplug.nr_memmap_boot_pages == 17920  # 7.2/08-memmap_on_memory, i=10


def test_a_total_is_shared_out_by_what_the_zones_have() -> None:
    ranges = (Range(0, 2 * GIB - 1), Range(4 * GIB, 6 * GIB - 1))
    node = NodeSetup(nid=0, cpus=(0,), ranges=ranges, managed_kb=4_000_001)
    kernel = boot(Setup(block_size=BLOCK, nodes=(node,)))
    zones = kernel.nodes[0].zones
    assert kernel.nodes[0].managed_kb == 4_000_001
    assert zones["Normal"].managed_kb == pytest.approx(2_000_000, abs=1)
    assert zones["DMA"].managed_kb == pytest.approx(4_000_000 / 256, abs=1)


def test_hmat_computes_the_tiers_of_boot_memory_too() -> None:
    kernel = boot(load("oracle-hmat").setup())
    tiers = {number: kernel.tiers.nodes_of(number) for number in kernel.tiers.tiers}
    assert tiers == {4: [0], 18: [1], 135: [3]}  # snapshot 7.2/07-hmat
