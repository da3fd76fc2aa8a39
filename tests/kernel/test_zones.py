"""Zones span intervals, and where `online` puts a block follows from spans (KERNEL.md 2, "zones and valid_zones")."""

from __future__ import annotations

import pytest

from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.profile import Mmop
from fakesysfs.kernel.zones import DMA, DMA32, MOVABLE, NORMAL, NodeZones, Zone, zone_name_at_boot
from fakesysfs.machine import load
from fakesysfs.ops.errors import KernelError
from tests.model import FIRST_DAX_BLOCK, block_state, block_table, booted, drive

PAGES = (128 << 20) >> 12


def zones_of(kernel: Kernel, first: int, last: int) -> dict[int, str]:
    return {index: " ".join(kernel.memory_blocks.valid_zones(index)) for index in range(first, last + 1)}


def span_of(zone: Zone) -> tuple[int, int]:
    """First and last block, (0, -1) of an empty span."""
    return zone.start // PAGES, zone.end // PAGES - 1


@pytest.fixture
def offline() -> Kernel:
    """Sixteen offline blocks, 48 to 63, on a node of their own."""
    return booted("7.2", policy=Mmop.OFFLINE, blocks=16)


def test_an_empty_node_prefers_the_kernel_zone(offline: Kernel) -> None:
    assert set(zones_of(offline, 48, 63).values()) == {"Normal Movable"}


def test_blocks_between_two_movable_ones_default_to_movable(offline: Kernel) -> None:
    """The example of KERNEL.md 2: with movable blocks 49 and 61, 50 to 60 report "Movable Normal"."""
    for index in (49, 61):
        assert block_state(offline, index, "online_movable") == "ok"
    assert set(zones_of(offline, 50, 60).values()) == {"Movable Normal"}
    assert zones_of(offline, 48, 49) == {48: "Normal Movable", 49: "Movable"}
    assert set(zones_of(offline, 62, 63).values()) == {"Normal Movable"}


def test_where_two_spans_overlap_the_kernel_zone_is_the_default_again(offline: Kernel) -> None:
    for index in (49, 61):
        block_state(offline, index, "online_movable")
    for index in (48, 55):
        block_state(offline, index, "online_kernel")
    assert set(zones_of(offline, 50, 54).values()) == {"Normal Movable"}
    assert set(zones_of(offline, 56, 60).values()) == {"Movable Normal"}


def test_online_goes_to_the_default_the_other_words_where_they_say(offline: Kernel) -> None:
    for index in (49, 61):
        block_state(offline, index, "online_movable")
    for index, word in ((52, "online"), (53, "online_kernel"), (48, "online"), (62, "online_movable")):
        assert block_state(offline, index, word) == "ok"
    online = {index: zone for index, zone in block_table(offline).items() if zone != "offline"}
    assert online == {48: NORMAL, 49: MOVABLE, 52: MOVABLE, 53: NORMAL, 61: MOVABLE, 62: MOVABLE}


@pytest.mark.parametrize(
    ("online", "gone", "left"),
    [
        ((50, 51, 55), (50,), (51, 55)),
        ((50, 51, 55), (55,), (50, 51)),
        ((50, 51, 55), (51,), (50, 55)),
        ((50, 51, 55), (51, 55), (50, 50)),
        ((50, 51, 55), (51, 50), (55, 55)),
        ((50, 51, 55), (50, 51, 55), (0, -1)),
        ((50,), (50,), (0, -1)),
    ],
)
def test_a_span_shrinks_at_its_edges_only(
    offline: Kernel, online: tuple[int, ...], gone: tuple[int, ...], left: tuple[int, int]
) -> None:
    for index in online:
        block_state(offline, index, "online_movable")
    for index in gone:
        assert block_state(offline, index, "offline") == "ok"
    movable = offline.nodes[2].zones.movable
    assert span_of(movable) == left
    assert movable.present == (len(online) - len(gone)) * PAGES


def test_with_movable_node_an_empty_node_prefers_movable() -> None:
    zones = NodeZones(0)
    assert zones.default_zone(0x200000, 0x208000, movable_node=False).name == NORMAL
    assert zones.default_zone(0x200000, 0x208000, movable_node=True).name == MOVABLE
    zones[NORMAL].grow(0x200000, 0x300000)
    assert zones.default_zone(0x200000, 0x208000, movable_node=True).name == NORMAL


def test_the_kernel_zone_is_the_first_whose_span_meets_the_block() -> None:
    zones = NodeZones(0)
    zones[DMA].grow(0x1, 0x1000)
    zones[DMA32].grow(0x1000, 0x80000)
    assert zones.default_kernel_zone(0x0, 0x8000).name == DMA
    assert zones.default_kernel_zone(0x8000, 0x10000).name == DMA32
    assert zones.default_kernel_zone(0x80000, 0x88000).name == NORMAL


def test_a_span_is_met_at_its_first_and_last_page_and_an_empty_one_never() -> None:
    zone = Zone(0, NORMAL, 10, 20)
    assert zone.intersects(0, 11)
    assert zone.intersects(19, 30)
    assert not zone.intersects(0, 10)
    assert not zone.intersects(20, 30)
    assert not Zone(0, NORMAL).intersects(0, 1 << 40)


@pytest.mark.parametrize(
    ("pfn", "name"), [(0, DMA), (0xFFF, DMA), (0x1000, DMA32), (0xFFFFF, DMA32), (0x100000, NORMAL)]
)
def test_boot_memory_is_in_the_zone_of_its_address(pfn: int, name: str) -> None:
    assert zone_name_at_boot(pfn) == name


def test_the_recorded_guests_zones_at_boot() -> None:
    """machine.json, boot_zones: node, zone, first page, pages spanned, pages present."""
    kernel = booted("7.2", load("oracle").setup())
    zones = [
        (nid, zone.name, zone.start, zone.end - zone.start)
        for nid in kernel.nodes.possible
        for zone in kernel.nodes[nid].zones
        if zone.present
    ]
    assert zones == [
        (0, DMA, 1, 4095),
        (0, DMA32, 4096, 1044480),
        (0, NORMAL, 1048576, 262144),
        (1, NORMAL, 1310720, 262144),
        (3, NORMAL, 2621440, 196608),
    ]


# Online policy auto-movable (KERNEL.md 9) ---------------------------------------------------------------------------


@pytest.fixture(params=["7.2", "hotplug-v3", "7.3"])
def auto_movable(request: pytest.FixtureRequest) -> Kernel:
    """The recorded guest, dax1.0 offline on node3, which has 43008 pages of boot memory."""
    kernel = booted(request.param, load("oracle-boot-policy-offline").setup())
    for module in ("device_dax", "dax_hmem", "kmem"):
        drive(kernel.modprobe(module))
    kernel.memory_hotplug.set_online_policy(b"auto-movable\n")
    return kernel


def test_auto_movable_takes_the_kernel_zone_once_the_device_has_kernel_pages(auto_movable: Kernel) -> None:
    """All memory of one device is one static group."""
    assert set(zones_of(auto_movable, 81, 83).values()) == {"Movable Normal"}
    assert block_state(auto_movable, 81, "online_kernel") == "ok"
    assert set(zones_of(auto_movable, 82, 83).values()) == {"Normal Movable"}
    assert block_state(auto_movable, 82, "online") == "ok"
    assert zones_of(auto_movable, 82, 82) == {82: NORMAL}
    for index in (81, 82):
        assert block_state(auto_movable, index, "offline") == "ok"
    assert set(zones_of(auto_movable, 81, 83).values()) == {"Movable Normal"}, "no kernel pages any more"


@pytest.mark.parametrize(("ratio", "default"), [(228, "Normal Movable"), (229, "Movable Normal")])
def test_auto_movable_tries_the_ratio_for_the_whole_device(auto_movable: Kernel, ratio: int, default: str) -> None:
    """The three blocks have 98304 pages: 228 percent of node3's boot memory are less, 229 are more."""
    auto_movable.memory_hotplug.set_auto_movable_ratio(b"%d" % ratio)
    assert set(zones_of(auto_movable, 81, 83).values()) == {default}
    assert block_state(auto_movable, 81, "online_movable") == "ok"
    assert set(zones_of(auto_movable, 82, 83).values()) == {default}, "one block more is online, one less to come"


def test_auto_movable_does_not_count_the_boot_memory_as_part_of_a_group(auto_movable: Kernel) -> None:
    """A block of boot memory has no group: the ratio is tried for that block alone."""
    auto_movable.memory_hotplug.set_auto_movable_ratio(b"15")
    for index in (41, 42):
        assert block_state(auto_movable, index, "offline") == "ok"
    assert set(zones_of(auto_movable, 41, 42).values()) == {"Normal Movable"}
    auto_movable.memory_hotplug.set_auto_movable_ratio(b"17")
    assert set(zones_of(auto_movable, 41, 42).values()) == {"Movable Normal"}
    assert block_state(auto_movable, 41, "online") == "ok"
    assert zones_of(auto_movable, 41, 42) == {41: MOVABLE, 42: "Normal Movable"}


def test_auto_movable_goes_all_or_nothing_into_movable() -> None:
    """A device whose memory fits the ratio as a whole is all Movable; one block more, and all of it is Normal."""
    kernel = booted("7.2", policy=Mmop.OFFLINE, blocks=8)
    hotplug = kernel.memory_hotplug
    hotplug.set_online_policy(b"auto-movable\n")
    assert set(zones_of(kernel, 48, 55).values()) == {"Normal Movable"}, "the node itself has no early kernel memory"
    hotplug.parameters.auto_movable_numa_aware = False
    early = sum(kernel.nodes[nid].zones.early_kernel_pages() for nid in kernel.nodes.possible)
    for fitting, zone in ((8, MOVABLE), (7, NORMAL)):
        hotplug.parameters.auto_movable_ratio = -(-fitting * PAGES * 100 // early)
        for index in range(FIRST_DAX_BLOCK, FIRST_DAX_BLOCK + 8):
            assert block_state(kernel, index, "online") == "ok"
        assert set(block_table(kernel).values()) == {zone}
        for index in range(FIRST_DAX_BLOCK, FIRST_DAX_BLOCK + 8):
            assert block_state(kernel, index, "offline") == "ok"


def test_auto_movable_looks_at_the_node_too() -> None:
    kernel = booted("7.2", policy=Mmop.OFFLINE, blocks=8, target_node=1)
    kernel.memory_hotplug.set_online_policy(b"auto-movable")
    assert set(zones_of(kernel, 48, 55).values()) == {"Movable Normal"}
    kernel.memory_hotplug.set_auto_movable_ratio(b"0\n")
    assert set(zones_of(kernel, 48, 55).values()) == {"Normal Movable"}


def test_auto_movable_counts_the_boot_memory_that_is_online() -> None:
    kernel = booted("7.2", policy=Mmop.OFFLINE, blocks=8, target_node=1)
    kernel.memory_hotplug.set_online_policy(b"auto-movable")
    kernel.memory_hotplug.parameters.auto_movable_ratio = 101  # of the node's 8 blocks: the device's 8 blocks
    assert set(zones_of(kernel, 48, 55).values()) == {"Movable Normal"}
    assert block_state(kernel, 47, "offline") == "ok"
    assert set(zones_of(kernel, 48, 55).values()) == {"Normal Movable"}
    assert block_state(kernel, 47, "online_movable") == "ok"
    assert set(zones_of(kernel, 48, 55).values()) == {"Normal Movable"}
    assert block_state(kernel, 47, "offline") == "ok"
    assert block_state(kernel, 47, "online_kernel") == "ok"
    assert set(zones_of(kernel, 48, 55).values()) == {"Movable Normal"}


@pytest.mark.parametrize("word", [b"", b"\n", b"auto", b"Auto-movable", b"contig-zones \n"])
def test_another_online_policy_is_refused(offline: Kernel, word: bytes) -> None:
    with pytest.raises(KernelError, match="EINVAL"):
        offline.memory_hotplug.set_online_policy(word)
