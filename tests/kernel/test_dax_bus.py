"""Space in a dax region: what daxctl-create.sh asks for, and the attributes' errors (KERNEL.md 4)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakesysfs.kernel.dax import bus
from fakesysfs.kernel.dax.bus import DaxRegion, DevDax
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.profile import Mmop
from fakesysfs.ops.errors import KernelError
from tests.model import (
    BLOCK,
    DAX_START,
    GIB,
    bind,
    booted,
    dax,
    drive,
    errno_of,
    kmem,
    log_since,
    name_of,
    region_of,
    span,
    unbind,
)

MIB = 1 << 20
SIZE = 16 * BLOCK
QUARTER, EIGHTH = SIZE // 4, SIZE // 8


def refusal(call: object, *arguments: object) -> str:
    try:
        call(*arguments)  # type: ignore[operator]
    except KernelError as error:
        return error.name
    return "ok"


def resize(device: DevDax, size: int | bytes) -> str:
    return refusal(bus.size_store, device, size if isinstance(size, bytes) else b"%d\n" % size)


def create(kernel: Kernel, size: int = 0) -> DevDax:
    """As daxctl does: create, then size."""
    drive(bus.create_store(region_of(kernel), b"1\n"))
    youngest = region_of(kernel).youngest
    assert youngest is not None
    if size:
        assert resize(youngest, size) == "ok"
    return youngest


def delete(kernel: Kernel, name: str | bytes) -> str:
    buffer = name.encode() if isinstance(name, str) else name
    return name_of(errno_of(bus.delete_store(region_of(kernel), buffer)))


def destroy(kernel: Kernel, device: DevDax) -> None:
    """As daxctl does: size 0, then delete."""
    assert resize(device, 0) == "ok"
    assert delete(kernel, device.name) == "ok"


def pieces(device: DevDax) -> list[tuple[int, int]]:
    """The device's ranges in eighths of the region: (first, how many)."""
    return [((m.range.start - DAX_START) // EIGHTH, m.range.length // EIGHTH) for m in device.mappings]


def pages(device: DevDax) -> list[tuple[str, int]]:
    return [(mapping.name, mapping.pgoff * 4096 // EIGHTH) for mapping in device.mappings]


@pytest.fixture
def kernel() -> Kernel:
    """An empty region of 2 GiB: dax0.0 has size 0."""
    kernel = booted("7.2", policy=Mmop.OFFLINE, blocks=16)
    assert unbind(kernel) == "ok"
    assert resize(dax(kernel), 0) == "ok"
    return kernel


def test_size_0_gives_all_space_back(kernel: Kernel) -> None:
    """test0. A size-0 device has no mapping, and shows the region's start."""
    device = dax(kernel)
    assert (region_of(kernel).available_size, device.mappings, device.children) == (SIZE, [], {})
    assert device.resource == DAX_START


def test_all_space_is_one_mapping_and_destroying_frees_it(kernel: Kernel) -> None:
    """test1."""
    device = create(kernel, SIZE)
    assert (pieces(device), region_of(kernel).available_size) == ([(0, 8)], 0)
    assert name_of(errno_of(bus.create_store(region_of(kernel), b"1"))) == "ENOSPC"
    destroy(kernel, device)
    assert region_of(kernel).available_size == SIZE


def test_two_quarters_in_the_gaps_of_the_middle_ones(kernel: Kernel) -> None:
    """test2: four quarters, the two middle ones destroyed, two made again: 2 mappings in all."""
    four = [create(kernel, QUARTER) for _ in range(4)]
    assert [device.name for device in four] == ["dax0.1", "dax0.2", "dax0.3", "dax0.4"]
    for device in four[1:3]:
        destroy(kernel, device)
    again = [create(kernel, QUARTER) for _ in range(2)]
    assert [device.name for device in again] == ["dax0.2", "dax0.3"]
    assert [pieces(device) for device in again] == [[(2, 2)], [(4, 2)]]
    assert region_of(kernel).available_size == 0


def test_a_half_in_two_gaps_has_two_mappings(kernel: Kernel) -> None:
    """test3: first-fit from the region's start, then the gaps, then the tail."""
    four = [create(kernel, QUARTER) for _ in range(4)]
    destroy(kernel, four[0])
    destroy(kernel, four[2])
    half = create(kernel, 2 * QUARTER)
    assert pieces(half) == [(0, 2), (4, 2)]
    assert pages(half) == [("mapping0", 0), ("mapping1", 2)]
    assert region_of(kernel).available_size == 0


def test_two_devices_grown_in_turns_have_four_mappings_each(kernel: Kernel) -> None:
    """test4: growth that does not touch the last range makes a new one."""
    one, other = create(kernel), create(kernel)
    for step in range(1, 5):
        assert resize(one, step * EIGHTH) == "ok"
        assert resize(other, step * EIGHTH) == "ok"
    assert pieces(one) == [(0, 1), (2, 1), (4, 1), (6, 1)]
    assert pieces(other) == [(1, 1), (3, 1), (5, 1), (7, 1)]
    assert pages(one) == [("mapping0", 0), ("mapping1", 1), ("mapping2", 2), ("mapping3", 3)]


def test_growth_into_space_before_and_behind(kernel: Kernel) -> None:
    """test5: before is a new mapping, behind the own last range extends it in place."""
    one, other = create(kernel, QUARTER), create(kernel, QUARTER)
    destroy(kernel, one)
    assert resize(other, 2 * QUARTER) == "ok"
    assert pieces(other) == [(2, 2), (0, 2)]
    destroy(kernel, other)
    device = create(kernel, QUARTER)
    assert resize(device, 2 * QUARTER) == "ok"
    assert pieces(device) == [(0, 4)]
    assert pages(device) == [("mapping0", 0)]


def test_the_recorded_growth_in_order_of_allocation(kernel: Kernel) -> None:
    """KERNEL.md 4: a device at 0x1c0000000 grown after its lower neighbour went: 1c.., 180000000.., 1f.."""
    low, device, high = (create(kernel, QUARTER) for _ in range(3))
    assert pieces(high) == [(4, 2)]
    destroy(kernel, low)
    assert resize(device, 3 * QUARTER) == "ok"
    assert pieces(device) == [(2, 2), (0, 2), (6, 2)]
    assert pages(device) == [("mapping0", 0), ("mapping1", 2), ("mapping2", 4)]
    assert device.resource == DAX_START + QUARTER


def test_shrinking_takes_the_last_ranges_first(kernel: Kernel) -> None:
    low, device, _ = (create(kernel, QUARTER) for _ in range(3))
    destroy(kernel, low)
    resize(device, 3 * QUARTER)
    assert resize(device, QUARTER + EIGHTH) == "ok"
    assert pieces(device) == [(2, 2), (0, 1)]
    assert list(device.children) == ["mapping0", "mapping1"]
    assert resize(device, QUARTER) == "ok"
    assert list(device.children) == ["mapping0"]


def test_mappings_written_by_hand(kernel: Kernel) -> None:
    """test7: "0xS-0xE" in hexadecimal, four of them in any order; ids follow the order of writing."""
    device = create(kernel)
    for first in (4, 0, 6, 2):
        start = DAX_START + first * EIGHTH
        bus.mapping_store(device, b"0x%x-0x%x\n" % (start, start + EIGHTH - 1))
    assert pieces(device) == [(4, 1), (0, 1), (6, 1), (2, 1)]
    assert [mapping.name for mapping in device.mappings] == ["mapping0", "mapping1", "mapping2", "mapping3"]


MAPPINGS = [
    (b"", "EINVAL"),
    (b"junk", "EINVAL"),
    (b"180000000", "EINVAL"),
    (b"-", "EINVAL"),
    (b"180000000-", "EINVAL"),
    (b"x-y", "EINVAL"),
    (b"1-2-3", "EINVAL"),
    (b"0x180000000 - 0x1801fffff", "EINVAL"),
    (b"\xff-\xff", "EINVAL"),
    (b"1-2", "ok"),
    (b"180000000-180000fff", "ok"),
    (b"180000000-1801fffff", "ENOMEM"),
    (b"0-1fffff", "ENOMEM"),
    (b"1ffe00000-2001fffff", "ENOMEM"),
    (b"17fe00000-1801fffff", "ENOMEM"),
    (b"fffffffffffffffffffff-1", "ERANGE"),
]


@pytest.mark.parametrize(("buffer", "outcome"), MAPPINGS)
def test_what_mapping_says_to_other_writes(kernel: Kernel, buffer: bytes, outcome: str) -> None:
    """KERNEL.md 4: junk EINVAL; taken or outside ENOMEM; a size that is not aligned returns len and does nothing."""
    create(kernel, EIGHTH)
    device = create(kernel)
    assert refusal(bus.mapping_store, device, buffer) == outcome
    assert device.size == 0


def test_a_mapping_whose_end_is_before_its_start(kernel: Kernel) -> None:
    device = create(kernel)
    for buffer, outcome in (
        (b"1a0000000-19fffffff", "ok"),
        (b"1a0000000-180000000", "ok"),
        (b"1a0200000-19fffffff", "ENOMEM"),
    ):
        assert refusal(bus.mapping_store, device, buffer) == outcome
        assert device.size == 0


def test_a_mapping_of_length_0_of_a_device_that_has_one_is_a_warning(kernel: Kernel) -> None:
    """alloc_dev_dax_range: nothing happens but the WARN, and that once."""
    device = create(kernel, EIGHTH)
    log = kernel.printk.sequence
    for _ in range(2):
        assert refusal(bus.mapping_store, device, b"1a0000000-19fffffff") == "EBUSY"
    assert log_since(kernel, log) == [
        "<4>dax dax0.1: 0-size allocation must be first",
        "<4>WARNING: drivers/dax/bus.c:867 at alloc_dev_dax_range",
    ]
    assert kernel.tainted == 512


def test_a_bound_device_is_no_obstacle_to_a_mapping(kernel: Kernel) -> None:
    """Recorded; in the source there is no check. What is bound does not change."""
    device = create(kernel, EIGHTH)
    assert bind(kernel, device.name) == "ok"
    blocks = kernel.memory_blocks.count
    bus.mapping_store(device, b"%x-%x" % (DAX_START + QUARTER, DAX_START + QUARTER + EIGHTH - 1))
    assert len(device.mappings) == 2
    assert kernel.memory_blocks.count == blocks
    assert unbind(kernel, device.name) == "ok"
    assert bind(kernel, device.name) == "ok"
    assert kernel.memory_blocks.count == blocks + EIGHTH // BLOCK


# size and align -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("buffer", "outcome"),
    [
        (b"junk", "EINVAL"),
        (b"", "EINVAL"),
        (b"-2097152", "EINVAL"),
        (b"4096", "EINVAL"),
        (b"2097153", "EINVAL"),
        (b"1", "EINVAL"),
        (b"2097152", "ok"),
        (b"0x200000\n", "ok"),
        (b"%d" % SIZE, "ok"),
        (b"%d" % (SIZE + 2 * MIB), "ENOSPC"),
        (b"%d" % (1 << 60), "ENOSPC"),
        (b"99999999999999999999999", "ERANGE"),
    ],
)
def test_size(kernel: Kernel, buffer: bytes, outcome: str) -> None:
    assert resize(dax(kernel), buffer) == outcome


def test_size_of_a_bound_device(kernel: Kernel) -> None:
    """In the order of the checks: junk and misaligned before bound; the same size too is EBUSY."""
    device = create(kernel, QUARTER)
    bind(kernel, device.name)
    assert [resize(device, size) for size in (b"junk", b"4096", QUARTER, 0)] == ["EINVAL", "EINVAL", "EBUSY", "EBUSY"]


def test_the_same_size_is_fine(kernel: Kernel) -> None:
    device = create(kernel, QUARTER)
    assert resize(device, QUARTER) == "ok"
    assert pieces(device) == [(0, 2)]


@pytest.mark.parametrize(
    ("buffer", "outcome"),
    [
        (b"junk", "ENXIO"),
        (b"", "ENXIO"),
        (b"-1", "ENXIO"),
        (b"18446744073709551616", "ENXIO"),
        (b"0x10000000000000000", "ENXIO"),
        (b"18446744073709551615", "EINVAL"),
        (b"0", "EINVAL"),
        (b"8192", "EINVAL"),
        (b"4096", "ok"),
        (b"2097152\n", "ok"),
        (b"0x40000000", "ok"),
    ],
)
def test_align(kernel: Kernel, buffer: bytes, outcome: str) -> None:
    device = create(kernel, GIB)
    assert refusal(bus.align_store, device, buffer) == outcome


def test_align_that_the_ranges_do_not_have_or_while_bound(kernel: Kernel) -> None:
    device = create(kernel, QUARTER)
    assert refusal(bus.align_store, device, b"%d" % GIB) == "EINVAL"
    assert device.align == 2 * MIB
    bind(kernel, device.name)
    assert refusal(bus.align_store, device, b"4096") == "EBUSY"
    assert refusal(bus.align_store, device, b"junk") == "ENXIO"


def test_a_size_must_be_a_multiple_of_the_align(kernel: Kernel) -> None:
    device = create(kernel, GIB)
    bus.align_store(device, b"%d" % GIB)
    assert resize(device, GIB + 2 * MIB) == "EINVAL"


# create, delete, seed, ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer", [b"", b"\n", b"0", b"2", b"-1", b"junk", b"1x", b"1\n\n"])
def test_create_takes_1_and_nothing_else(kernel: Kernel, buffer: bytes) -> None:
    assert name_of(errno_of(bus.create_store(region_of(kernel), buffer))) == "EINVAL"


@pytest.mark.parametrize("buffer", [b"2147483648", b"-2147483649", b"18446744073709551616"])
def test_create_takes_an_int(kernel: Kernel, buffer: bytes) -> None:
    assert name_of(errno_of(bus.create_store(region_of(kernel), buffer))) == "ERANGE"


def test_delete(kernel: Kernel) -> None:
    """KERNEL.md 4: with or without newline; unknown ENXIO; bound or not empty EBUSY; daxX.0 always EBUSY."""
    one, other, third = create(kernel, QUARTER), create(kernel), create(kernel)
    assert bind(kernel, one.name) == "ok"
    assert delete(kernel, one.name) == "EBUSY"
    unbind(kernel, one.name)
    assert delete(kernel, one.name) == "EBUSY"
    assert delete(kernel, "dax0.0") == "EBUSY"
    for name in ("dax9.9", "", "junk", "dax0.2 ", b"\xff"):
        assert delete(kernel, name) == "ENXIO"
    assert delete(kernel, f"{other.name}\n") == "ok"
    assert delete(kernel, other.name) == "ENXIO"
    assert delete(kernel, third.name.encode() + b"\0") == "ok"


def test_the_lowest_free_id_and_minor_are_taken_again(kernel: Kernel) -> None:
    devices = [create(kernel) for _ in range(4)]
    assert [device.minor for device in devices] == [1, 2, 3, 4]
    destroy(kernel, devices[1])
    destroy(kernel, devices[0])
    assert [(device.name, device.minor) for device in (create(kernel), create(kernel), create(kernel))] == [
        ("dax0.1", 1),
        ("dax0.2", 2),
        ("dax0.5", 5),
    ]


def test_the_seed_clears_at_its_first_probe(kernel: Kernel) -> None:
    """seed must clear after the first successful probe; the device that comes with the region is none."""
    region = region_of(kernel)
    seen = [(region.seed, region.youngest)]
    one, other = create(kernel, QUARTER), create(kernel, QUARTER)
    seen.append((region.seed, region.youngest))
    for device in (other, one):
        assert bind(kernel, device.name) == "ok"
        seen.append((region.seed, region.youngest))
    assert seen == [(None, None), (one, other), (one, other), (None, other)]


def test_an_attribute_of_a_region_whose_driver_is_gone(kernel: Kernel) -> None:
    device = dax(kernel)
    device.region.device.driver = None
    assert resize(device, QUARTER) == "ENXIO"
    assert resize(device, b"junk") == "EINVAL"
    assert refusal(bus.align_store, device, b"4096") == "ENXIO"
    assert refusal(bus.mapping_store, device, b"180000000-1801fffff") == "ENXIO"


@pytest.mark.parametrize(
    ("buffer", "outcome"), [(b"1", "ENOTSUP"), (b"0", "ok"), (b"y", "ENOTSUP"), (b"junk", "EINVAL"), (b"", "EINVAL")]
)
def test_memmap_on_memory_without_the_boot_parameter(kernel: Kernel, buffer: bytes, outcome: str) -> None:
    """KERNEL.md 4: 95, which the kernel calls EOPNOTSUPP and Python ENOTSUP."""
    assert name_of(errno_of(bus.memmap_on_memory_store(dax(kernel), buffer))) == outcome


# Whatever is done ---------------------------------------------------------------------------------------------------


def sound(region: DaxRegion) -> None:
    """Ranges are disjoint, each one device's mapping; what is free and what is taken is all there is."""
    spans = [allocation.range for allocation in region.allocations]
    assert spans == sorted(spans)
    for one, other in itertools.pairwise(spans):
        assert one.end < other.start
    mapped = sorted((mapping.range, device.name) for device in region.devices() for mapping in device.mappings)
    assert mapped == [(allocation.range, allocation.device.name) for allocation in region.allocations]
    for device in region.devices():
        assert [mapping.pgoff * 4096 for mapping in device.mappings] == [
            sum(before.range.length for before in device.mappings[:position])
            for position in range(len(device.mappings))
        ]
        assert {mapping.name for mapping in device.mappings} == set(device.children)
    assert region.available_size == region.range.length - sum(device.size for device in region.devices())


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "size", "size", "size", "mapping", "delete"]),
        st.integers(0, 4),
        st.integers(0, 8),
        st.integers(1, 3),
    ),
    max_size=30,
)


@given(STEPS)
def test_no_sequence_breaks_the_region(steps: list[tuple[str, int, int, int]]) -> None:
    kernel = booted("7.2", policy=Mmop.OFFLINE, blocks=16, modules=("dax_hmem",))
    region = region_of(kernel)
    for what, which, number, length in steps:
        device = kernel.dax_bus.devices.get(f"dax0.{which}")
        if what == "create":
            errno_of(bus.create_store(region, b"1"))
        elif what == "delete":
            delete(kernel, f"dax0.{which}")
        elif isinstance(device, DevDax):
            before = device.size
            if what == "size":
                outcome = resize(device, number * EIGHTH)
                assert device.size == (number * EIGHTH if outcome == "ok" else before)
            else:
                start = DAX_START + number * EIGHTH
                refusal(bus.mapping_store, device, b"%x-%x" % (start, start + length * EIGHTH - 1))
        sound(region)


def test_ids_of_kmem_and_regions_of_two_ranges_do_not_mix() -> None:
    kernel = booted("7.2", blocks=4, second=span(60, 63), policy=Mmop.OFFLINE)
    assert [region_of(kernel, number).id for number in (0, 1)] == [0, 1]
    assert dax(kernel, "dax1.0").resource == 60 * BLOCK
    assert kmem(kernel).devices == [dax(kernel), dax(kernel, "dax1.0")]
