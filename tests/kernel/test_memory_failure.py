"""Pages that are taken out of use (KERNEL.md 2, "Poisoned pages")."""

from __future__ import annotations

from dataclasses import astuple

import pytest

from fakesysfs.kernel.dax.bus import DaxDriver
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.profile import PROFILES
from fakesysfs.machine import load
from fakesysfs.ops.errors import KernelError
from tests.model import block_state, block_table, booted, drive, errno_of, log_since, name_of, unbind, write_state

MODULES = ("device_dax", "dax_hmem", "kmem")
BOTH = pytest.mark.parametrize("how", ["memory_failure", "soft_offline_page"])


@pytest.fixture(params=list(PROFILES))
def guest(request: pytest.FixtureRequest) -> Kernel:
    """The recorded guest, dax0.0 (memory48 to 79, node2) and dax1.0 (memory81 to 83, node3) in zone Movable."""
    return recorded(request.param)


def recorded(profile: str) -> Kernel:
    kernel = booted(profile, load("oracle-boot-policy-online_movable").setup())
    for module in MODULES:
        drive(kernel.modprobe(module))
    return kernel


def offline_page(kernel: Kernel, how: str, pfn: int) -> tuple[str, list[str]]:
    """ "ok" or the errno of taking a page out of use, and the log."""
    log = kernel.printk.sequence
    try:
        getattr(kernel.memory_failure, how)(pfn)
    except KernelError as error:
        return error.name, log_since(kernel, log)
    return "ok", log_since(kernel, log)


def stats(kernel: Kernel, nid: int) -> tuple[int, ...]:
    """total, ignored, failed, delayed, recovered."""
    return astuple(kernel.memory_failure.stats[nid])


def test_a_free_page_is_recovered_and_counted_on_its_node(guest: Kernel) -> None:
    assert offline_page(guest, "memory_failure", 0x18C000) == (
        "ok",
        ["<3>Memory failure: 0x18c000: recovery action for free buddy page: Recovered"],
    )
    assert [stats(guest, nid) for nid in range(4)] == [(0,) * 5, (0,) * 5, (1, 0, 0, 0, 1), (0,) * 5]
    assert guest.memory_failure.num_poisoned_pages == 1


def test_soft_offlining_a_free_page_is_no_memory_error(guest: Kernel) -> None:
    assert offline_page(guest, "soft_offline_page", 0x190000) == ("ok", [])
    assert stats(guest, 2) == (0,) * 5
    assert guest.memory_failure.num_poisoned_pages == 1


@BOTH
def test_a_poisoned_page_stays_poisoned(guest: Kernel, how: str) -> None:
    assert offline_page(guest, how, 0x188000)[0] == "ok"
    before = stats(guest, 2)
    assert offline_page(guest, "memory_failure", 0x188000) == (
        "EHWPOISON",
        ["<3>Memory failure: 0x188000: recovery action for already poisoned page: Failed"],
    )
    assert offline_page(guest, "soft_offline_page", 0x188000) == (
        "ok",
        ["<6>Soft offline: 0x188000: page already poisoned"],
    )
    assert stats(guest, 2) == before
    assert guest.memory_failure.num_poisoned_pages == 1


@BOTH
def test_a_block_with_a_poisoned_page_goes_offline_but_not_online(guest: Kernel, how: str) -> None:
    assert offline_page(guest, how, 0x188000)[0] == "ok"
    assert block_state(guest, 49, "offline") == "ok"
    blocks = guest.memory_blocks
    for word in ("online", "online_kernel", "online_movable"):
        assert block_state(guest, 49, word) == "EHWPOISON"
    assert name_of(errno_of(blocks.online_store(49, b"1"))) == "EHWPOISON"
    assert block_table(guest)[49] == "offline"
    assert blocks.valid_zones(49) == ["Movable", "Normal"]
    assert block_state(guest, 50, "offline") == "ok"
    assert block_state(guest, 50, "online_movable") == "ok", "a block without a poisoned page"


def test_boot_memory_is_the_same(guest: Kernel) -> None:
    assert offline_page(guest, "memory_failure", 0x150000)[0] == "ok"
    assert stats(guest, 1) == (1, 0, 0, 0, 1)
    assert block_state(guest, 42, "offline") == "ok"
    assert block_state(guest, 42, "online") == "EHWPOISON"


@BOTH
def test_new_memory_has_no_poisoned_pages(how: str) -> None:
    """The flag is in the memory map, which goes with the block; the statistics are the node's, and stay."""
    kernel = recorded("7.3")
    assert offline_page(kernel, how, 0x188000)[0] == "ok"
    before = stats(kernel, 2)
    assert write_state(kernel, "unplugged") == "ok"
    assert kernel.memory_failure.num_poisoned_pages == 0
    assert write_state(kernel, "online_movable") == "ok"
    assert block_table(kernel)[49] == "Movable"
    assert offline_page(kernel, how, 0x188000)[0] == "ok"
    assert stats(kernel, 2) == tuple(2 * count for count in before)


@BOTH
def test_memory_that_is_not_online_has_no_page_to_take(guest: Kernel, how: str) -> None:
    assert block_state(guest, 60, "offline") == "ok"
    expected = {
        "memory_failure": ("ENXIO", ["<3>Memory failure: 0x1e0000: memory outside kernel control"]),
        "soft_offline_page": ("EIO", []),
    }
    assert offline_page(guest, how, 0x1E0000) == expected[how]
    assert block_state(guest, 60, "online_movable") == "ok"


@pytest.mark.parametrize("pfn", [0x282000, 0x287FFF, 0x2A0000])
def test_a_hole_of_a_section_with_ram_has_a_memory_map_that_is_not_online(guest: Kernel, pfn: int) -> None:
    """Recorded on node3, around dax1.0: RAM to 0x281ffffff and from 0x2a7800000."""
    assert offline_page(guest, "memory_failure", pfn) == (
        "ENXIO",
        [f"<3>Memory failure: {pfn:#x}: memory outside kernel control"],
    )
    assert offline_page(guest, "soft_offline_page", pfn) == ("EIO", [])


@pytest.mark.parametrize("pfn", [0x80000, 0xB0000, 0x2B0000, 0x2C0000, 0xFD00000, 0x100000000, (1 << 52) - 1])
def test_no_memory_no_page(guest: Kernel, pfn: int) -> None:
    assert offline_page(guest, "memory_failure", pfn) == (
        "EBUSY",
        [f"<3>Memory failure: {pfn:#x}: recovery action for non struct page pfn: Ignored"],
    )
    assert offline_page(guest, "soft_offline_page", pfn) == ("ENXIO", [])
    assert [sum(stats(guest, nid)) for nid in range(4)] == [0] * 4
    assert guest.memory_failure.num_poisoned_pages == 0


@pytest.mark.parametrize(
    ("profile", "page_type", "refusal"),
    [("7.2", "get hwpoison page", "EIO"), ("7.3", "reserved kernel page", "ENOTRECOVERABLE")],
)
@pytest.mark.parametrize("pfn", [0x0, 0x9F, 0xA0, 0x7FFE0])
def test_a_page_of_the_firmware_beside_ram_cannot_be_handled(
    profile: str, page_type: str, refusal: str, pfn: int
) -> None:
    kernel = recorded(profile)
    unhandlable = f"<3>Memory failure: {pfn:#x}: unhandlable page."
    assert offline_page(kernel, "soft_offline_page", pfn) == (refusal, [unhandlable])
    assert offline_page(kernel, "memory_failure", pfn) == (
        "EBUSY",
        [unhandlable, f"<3>Memory failure: {pfn:#x}: recovery action for {page_type}: Ignored"],
    )
    assert stats(kernel, 0) == (1, 1, 0, 0, 0)
    assert offline_page(kernel, "memory_failure", pfn)[0] == "EHWPOISON"


@pytest.mark.parametrize(
    ("profile", "page_type", "refusal"),
    [
        ("7.2", "get hwpoison page", "EIO"),
        ("7.3", "reserved kernel page", "ENOTRECOVERABLE"),
        ("hotplug-v3", "get hwpoison page", "EIO"),
        ("hotplug-v3-as-posted", "get hwpoison page", "EIO"),
    ],
)
def test_the_first_page_of_a_block_with_unmovable_pages_is_the_kernel_s(
    profile: str, page_type: str, refusal: str
) -> None:
    """Recorded with 7.3: dax0.0 plugged as `online` on a node without memory, page 0x180000."""
    kernel = booted(profile, load("oracle-boot-policy-online").setup())
    for module in MODULES:
        drive(kernel.modprobe(module))
    for nid, pfn in ((2, 0x180000), (1, 0x140000)):
        assert offline_page(kernel, "soft_offline_page", pfn)[0] == refusal
        assert offline_page(kernel, "memory_failure", pfn) == (
            "EBUSY",
            [
                f"<3>Memory failure: {pfn:#x}: unhandlable page.",
                f"<3>Memory failure: {pfn:#x}: recovery action for {page_type}: Ignored",
            ],
        )
        assert stats(kernel, nid) == (1, 1, 0, 0, 0)
    assert offline_page(kernel, "memory_failure", 0x188000)[0] == "ok"


def test_a_page_of_a_dax_device_that_no_program_maps_cannot_be_handled() -> None:
    kernel = booted("7.3", load("oracle").setup())
    for module in ("device_dax", "dax_hmem"):
        drive(kernel.modprobe(module))
    device_dax = kernel.dax_bus.drivers["device_dax"]
    assert isinstance(device_dax, DaxDriver)
    drive(device_dax.new_id_store(b"dax0.0"))
    for _ in range(2):
        assert offline_page(kernel, "memory_failure", 0x188000) == (
            "EBUSY",
            ["<3>Memory failure: 0x188000: recovery action for dax page: Failed"],
        )
    # The page map is on the device's node, the nearest one that was online.
    assert stats(kernel, 0) == (2, 0, 2, 0, 0)
    assert kernel.memory_failure.num_poisoned_pages == 2
    assert offline_page(kernel, "soft_offline_page", 0x188000) == ("EIO", [])
    assert unbind(kernel, "dax0.0", "device_dax") == "ok"
    assert offline_page(kernel, "memory_failure", 0x188000)[0] == "EBUSY"
    assert offline_page(kernel, "soft_offline_page", 0x188000)[0] == "ENXIO"


def test_a_failed_unplug_says_which_block_stays_offline() -> None:
    """The rollback cannot put a block with a poisoned page back; the blocks behind it are tried all the same."""
    kernel = recorded("7.3")
    assert offline_page(kernel, "memory_failure", 0x188000)[0] == "ok"
    kernel.memory_blocks.unmovable.add(52)
    log = kernel.printk.sequence
    assert write_state(kernel, "unplugged") == "EBUSY"
    assert "<4>try_reonline_memory_block: Failed to re-online memory: -133" in log_since(kernel, log)
    assert {index: zone for index, zone in block_table(kernel).items() if 48 <= index <= 53} == {
        48: "Movable", 49: "offline", 50: "Movable", 51: "Movable", 52: "Movable", 53: "Movable",
    }  # fmt: skip
