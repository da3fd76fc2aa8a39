"""Persistent memory as a static dax region (7.2/09-pmem-static-region, KERNEL.md 9 "pmem in iomem")."""

from __future__ import annotations

import errno

import pytest

from fakesysfs.kernel.dax.pmem import PmemMedia
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.profile import PROFILES
from fakesysfs.kernel.range import Range
from fakesysfs.kernel.setup import DaxSetup
from fakesysfs.machine import load
from tests.model import GIB, dax, drive, errno_of, events_since, kmem, log_since

MIB = 1 << 20
ND_MODULES = ("nd_e820", "nd_pmem", "dax_pmem", "device_dax", "kmem")


def oracle(*modules: str, profile: str = "7.2") -> Kernel:
    """The recorded guest with some modules."""
    kernel = Kernel(load("oracle").setup(), PROFILES[profile])
    drive(kernel.boot())
    for name in modules:
        drive(kernel.modprobe(name))
    return kernel


def pmem_lines(kernel: Kernel) -> list[str]:
    """What /proc/iomem has at and below the pmem range."""
    return [
        f"{'  ' * depth}{resource.start:x}-{resource.end:x} : {resource.name}"
        for depth, resource in kernel.iomem.walk()
        if 0x2B0000000 <= resource.start < 0x2C0000000
    ]


def test_a_raw_namespace_is_a_block_device() -> None:
    kernel = oracle(*ND_MODULES)
    assert not kernel.dax_bus.devices
    assert pmem_lines(kernel) == [
        "2b0000000-2bfffffff : Persistent Memory (legacy)",
        "  2b0000000-2bfffffff : namespace0.0",
    ]
    assert "<4>nd_pmem namespace0.0: unable to guarantee persistence of writes" in log_since(kernel, 0)


def test_the_drivers_of_libnvdimm_come_in_the_recorded_order() -> None:
    kernel = oracle()
    sequence = kernel.uevents.sequence
    drive(kernel.modprobe("libnvdimm"))
    assert events_since(kernel, sequence) == [
        "add nd", "add nd_bus", "add nvdimm", "add nd_region", "add libnvdimm",
    ]  # fmt: skip


def test_a_raw_namespace_takes_a_minor_number_while_it_is_bound() -> None:
    """The dax device behind the block device has no directory, but a minor number."""
    kernel = oracle("nd_e820", "nd_pmem", "dax_hmem")
    assert {name: dax(kernel, name).minor for name in ("dax1.0", "dax2.0")} == {"dax1.0": 1, "dax2.0": 2}
    nd = kernel.buses["nd"]
    drive(kernel.rmmod("dax_hmem"))
    drive(nd.unbind_store(nd.drivers["nd_pmem"], b"namespace0.0"))
    drive(kernel.modprobe("dax_hmem"))
    assert {name: dax(kernel, name).minor for name in ("dax1.0", "dax2.0")} == {"dax1.0": 0, "dax2.0": 1}


def test_a_devdax_namespace_is_a_static_region() -> None:
    kernel = oracle(*ND_MODULES)
    sequence = kernel.uevents.sequence
    drive(kernel.create_pmem_devdax())
    device = dax(kernel)
    assert (device.size, device.align, device.resource, device.target_node, device.numa_node) == (
        266338304, 4096, 0x2B0200000, 3, 3,
    )  # fmt: skip
    assert device.region.static
    assert device.driver is kernel.dax_bus.drivers["device_dax"]
    assert pmem_lines(kernel)[1:] == ["  2b0000000-2b01fffff : namespace0.0", "  2b0200000-2bfffffff : dax0.0"]
    # The last two are the nd device that holds the region, of the same name.
    assert [event for event in events_since(kernel, sequence) if event.endswith("dax0.0")] == [
        "add dax0.0", "add dax0.0", "bind dax0.0", "bind dax0.0",
    ]  # fmt: skip


def test_kmem_takes_what_whole_blocks_there_are() -> None:
    kernel = oracle(*ND_MODULES)
    drive(kernel.create_pmem_devdax())
    drive(kernel.dax_bus.unbind_store(kernel.dax_bus.drivers["device_dax"], b"dax0.0\n"))
    assert errno_of(kernel.dax_bus.bind_store(kmem(kernel), b"dax0.0\n")) == errno.ENODEV
    sequence = kernel.printk.sequence
    drive(kmem(kernel).new_id_store(b"dax0.0\n"))
    assert log_since(kernel, sequence) == ["<4>kmem dax0.0: DAX region truncated by 126 MiB due to alignment"]
    assert kernel.memory_blocks.get(87) is not None
    assert pmem_lines(kernel)[1:] == [
        "  2b0000000-2b01fffff : namespace0.0",
        "  2b8000000-2bfffffff : dax0.0",
        "    2b8000000-2bfffffff : System RAM (kmem)",
    ]


def test_regions_of_all_kinds_share_their_numbers() -> None:
    kernel = oracle("dax_hmem", *ND_MODULES)
    drive(kernel.create_pmem_devdax("namespace2.0"))
    assert list(kernel.dax_bus.devices) == ["dax0.0", "dax1.0", "dax2.0"]


def test_nothing_is_left_when_the_modules_go_and_all_comes_back_with_them() -> None:
    kernel = oracle(*ND_MODULES)
    drive(kernel.create_pmem_devdax())
    for name in ("nd_e820", "dax_pmem", "nd_pmem", "nd_btt", "libnvdimm"):
        drive(kernel.rmmod(name))
    assert not kernel.dax_bus.devices
    assert "nd" not in kernel.buses
    assert pmem_lines(kernel) == ["2b0000000-2bfffffff : Persistent Memory (legacy)"]
    for name in ND_MODULES:
        drive(kernel.modprobe(name))
    # What is on the memory outlives the modules: the namespace is devdax.
    assert (dax(kernel).id, dax(kernel).minor, dax(kernel).size) == (0, 0, 266338304)


def test_probing_a_claimed_namespace_again_makes_no_second_device() -> None:
    kernel = oracle(*ND_MODULES)
    drive(kernel.create_pmem_devdax())
    drive(kernel.rmmod("nd_pmem"))
    drive(kernel.modprobe("nd_pmem"))
    assert list(kernel.buses["nd"].devices) == ["ndbus0", "region0", "namespace0.0", "dax0.0"]


@pytest.mark.parametrize(
    ("modules", "name", "align", "expected"),
    [
        ((), "namespace0.0", 4096, errno.ENXIO),
        (("nd_e820",), "namespace1.0", 4096, errno.ENXIO),
        (("nd_e820",), "region0", 4096, errno.ENXIO),
        (("nd_e820",), "namespace0.0", 8192, errno.EINVAL),
        (("nd_e820",), "namespace0.0", 1 << 30, errno.EINVAL),
        (("nd_e820",), "namespace0.0", 2 << 20, 0),
    ],
)
def test_what_can_become_devdax(modules: tuple[str, ...], name: str, align: int, expected: int) -> None:
    assert errno_of(oracle(*modules).create_pmem_devdax(name, align)) == expected


def test_twice_is_busy() -> None:
    kernel = oracle(*ND_MODULES)
    drive(kernel.create_pmem_devdax())
    assert errno_of(kernel.create_pmem_devdax()) == errno.EBUSY


@pytest.mark.parametrize(
    ("start", "size", "align", "first", "end"),
    [
        (0x2B0000000, 256 * MIB, 4096, 0x2B0200000, 0x2C0000000),
        (8 * GIB, 4 * GIB, 2 * MIB, 8 * GIB + 2 * MIB, 12 * GIB),
        (8 * GIB, 4 * GIB, GIB, 9 * GIB, 12 * GIB),
        (8 * GIB + 512 * MIB, 4 * GIB, GIB, 9 * GIB, 12 * GIB),
    ],
)
def test_data_starts_behind_the_info_block(start: int, size: int, align: int, first: int, end: int) -> None:
    setup = DaxSetup(range=Range(start, start + size - 1), target_node=0)
    assert PmemMedia(setup, align).data == Range(first, end - 1)
