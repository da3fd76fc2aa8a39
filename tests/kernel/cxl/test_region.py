"""Regions: their states, the refusals in each, addresses and numbers (recordings 7.3-cxl)."""

from __future__ import annotations

from functools import partial

import pytest

from fakesysfs.kernel.cxl.core.port import CxlSwitchDecoder
from fakesysfs.kernel.cxl.core.region import CxlConfig
from fakesysfs.kernel.printk import WARNING
from tests.cxl_model import ONE, PMEM, QUARTER, TWO_BRIDGES, TWO_PORTS, WINDOW, machine, refused
from tests.model import drive


@pytest.mark.parametrize(
    ("written", "refusal"),
    [
        (b"\n", "EINVAL"),
        (b"x", "EINVAL"),
        (b"region\n", "EINVAL"),
        (b"region1", "EBUSY"),
        (b"region-1", "EBUSY"),
        (b"region+0", "EINVAL"),
    ],
)
def test_create_wants_the_name_that_it_shows(written: bytes, refusal: str) -> None:
    found = machine()
    hardware = found.kernel.cxl
    assert hardware is not None
    assert refused(lambda: drive(hardware.regions.create_region_store(found.window(), "ram", written))) == refusal
    assert found.window().region_id == 0, "a refused name costs no number"
    drive(hardware.regions.create_region_store(found.window(), "ram", b"region0x"))
    assert found.region(0).mode == "ram"


@pytest.mark.parametrize(
    ("written", "refusal"),
    [(b"", "EINVAL"), (b"x", "EINVAL"), (b"region\n", "EINVAL"), (b"region9\n", "ENODEV"), (b"region0x", "ENODEV"),
     (b"region 0", "ENODEV"), (b"region-1", "ENODEV")],
)  # fmt: skip
def test_delete_wants_the_whole_name_of_a_region(written: bytes, refusal: str) -> None:
    found = machine()
    region = found.create()
    hardware = found.kernel.cxl
    assert hardware is not None
    assert refused(lambda: drive(hardware.regions.delete_region_store(found.window(), written))) == refusal
    assert region.alive


def test_numbers_come_from_one_pool_for_all_windows() -> None:
    """Each window holds the number that it shows; a number that is given back below it is shown next."""
    found = machine(TWO_BRIDGES)
    assert [found.window(number).region_id for number in range(3)] == [0, 1, 2]
    first = found.create(0)
    assert found.window(0).region_id == 3
    found.create(0)
    assert found.window(0).region_id == 4
    found.delete(first)
    assert found.window(0).region_id == 0
    assert found.create(1).id == 1
    assert found.window(1).region_id == 4, "the number that window 0 gave back"


@pytest.mark.parametrize(
    ("written", "refusal"),
    [
        (b"", "EINVAL"),
        (b"0", "EINVAL"),
        (b"5", "EINVAL"),
        (b"-1", "EINVAL"),
        (b" 1", "EINVAL"),
        (b"2147483648", "ERANGE"),
    ],
)
def test_ways_that_are_refused(written: bytes, refusal: str) -> None:
    region = machine().create()
    assert refused(lambda: region.interleave_ways_store(written)) == refusal


def test_ways_and_granularity_follow_an_interleaved_window() -> None:
    region = machine(TWO_BRIDGES).create(2)
    for ways in (b"1", b"3", b"6"):
        assert refused(partial(region.interleave_ways_store, ways)) == "EINVAL"
    assert refused(lambda: region.interleave_granularity_store(b"256")) == "EINVAL"
    region.interleave_ways_store(b"4")
    region.interleave_granularity_store(b"1024")


def test_a_size_needs_ways_and_granularity_and_fits_a_hole() -> None:
    found = machine()
    region = found.create()
    assert refused(lambda: region.size_store(b"0x10000000")) == "ENXIO"
    region.interleave_ways_store(b"1")
    region.interleave_granularity_store(b"256")
    assert refused(lambda: region.size_store(b"0x1000")) == "EINVAL"
    assert refused(lambda: region.size_store(b"0x200000000")) == "ERANGE"
    region.size_store(b"0x100000000")
    assert region.hpa_range.start == WINDOW
    region.size_store(b"0x100000000")
    assert refused(lambda: region.size_store(b"0x10000000")) == "EBUSY"
    assert refused(lambda: region.interleave_ways_store(b"1")) == "EBUSY"
    region.size_store(b"0")
    assert (region.size, region.state) == (0, CxlConfig.IDLE)


def test_addresses_are_the_first_hole_of_the_window() -> None:
    found = machine(TWO_PORTS)
    first, second, third = (found.sized() for _ in range(3))
    assert [region.hpa_range.start - WINDOW for region in (first, second, third)] == [0, QUARTER, 2 * QUARTER]
    second.size_store(b"0")
    assert found.sized().hpa_range.start == WINDOW + QUARTER
    assert found.iomem() == ["System RAM", "CXL Window 0", "  region0", "  region3", "  region2"]


def test_each_refusal_of_a_target_in_its_order() -> None:
    """Every one is logged, except for a name that is no endpoint decoder."""
    found = machine()
    region = found.create()
    region.interleave_ways_store(b"1")
    region.interleave_granularity_store(b"256")

    def attached(name: bytes = b"decoder2.0") -> str:
        return refused(lambda: drive(region.target_store(0, name)))

    assert attached(b"x") == "ENODEV"
    assert attached(b"mem0") == "EINVAL"
    before = found.kernel.printk.sequence
    assert attached() == "ENODEV", "no mode"
    found.endpoint("decoder2.0").mode_store(b"ram")
    assert attached() == "ENXIO", "the region has no size"
    region.size_store(b"%d" % (2 * QUARTER))
    assert attached() == "ENXIO", "no device memory"
    found.reserve("decoder2.0")
    assert attached() == "EINVAL", "the sizes differ"
    found.reserve("decoder2.0", 2 * QUARTER)
    drive(region.target_store(0, b"decoder2.0"))
    assert attached() == "EBUSY", "all targets are there"
    logged = [(record.level, record.text) for record in found.kernel.printk.since(before)]
    assert logged == [
        (WARNING, f"cxl_port endpoint2: failed to attach decoder2.0 to region0: -{number}")
        for number in (19, 6, 6, 22, 16)
    ]


def test_a_region_is_bound_only_when_committed() -> None:
    found = machine()
    region = found.sized()
    found.reserve("decoder2.0")
    assert refused(lambda: drive(region.commit_store(b"1"))) == "ENXIO"
    assert refused(lambda: drive(region.commit_store(b"2"))) == "EINVAL"
    found.attach(region, "decoder2.0")
    assert region.state == CxlConfig.ACTIVE
    assert refused(lambda: found.bind("cxl_region", "region0")) == "ENXIO"
    assert refused(lambda: region.size_store(b"0")) == "EBUSY"
    drive(region.commit_store(b"1"))
    found.bind("cxl_region", "region0")
    assert "dax0.0" in found.kernel.dax_bus.devices
    assert refused(lambda: found.bind("cxl_region", "region0")) == "EBUSY"


def test_commit_0_releases_the_driver_and_keeps_the_targets() -> None:
    found = machine()
    region = found.bound("decoder2.0")
    drive(region.commit_store(b"0"))
    assert (region.state, region.driver, region.target_show(0)) == (CxlConfig.ACTIVE, None, "decoder2.0")
    assert not found.endpoint("decoder2.0").enabled
    drive(region.commit_store(b"1"))


def test_a_target_that_goes_takes_the_driver_along() -> None:
    found = machine()
    region = found.bound("decoder2.0")
    drive(region.target_store(0, b"\n"))
    assert (region.state, region.driver, region.target_show(0)) == (CxlConfig.INTERLEAVE_ACTIVE, None, "")
    decoder = found.endpoint("decoder2.0")
    assert (decoder.region, decoder.hpa_range.length, decoder.interleave_granularity) == (None, 0, 256)


def test_a_region_goes_in_any_state() -> None:
    found = machine()
    region = found.bound("decoder2.0")
    found.delete(region)
    assert "region0" not in found.kernel.cxl_bus.devices
    assert found.endpoint("decoder2.0").region is None
    assert found.window().region_id == 0
    assert "  region0" not in found.iomem()


def test_a_pass_through_port_has_room_for_one_region() -> None:
    found = machine()
    found.committed("decoder2.0")
    second = found.sized()
    found.reserve("decoder2.1")
    assert refused(lambda: found.attach(second, "decoder2.1")) == "EBUSY"


def test_positions_over_two_bridges_follow_the_window() -> None:
    found = machine(TWO_BRIDGES)
    region = found.sized(2, window=2, granularity=1024)
    for name in ("decoder3.0", "decoder4.0"):
        found.reserve(name)
    assert refused(lambda: drive(region.target_store(0, b"decoder4.0"))) == "ENXIO"
    found.attach(region, "decoder3.0", "decoder4.0")
    assert [found.decoder(name).interleave_granularity for name in ("decoder1.0", "decoder3.0")] == [2048, 1024]
    other = found.sized(window=0)
    found.reserve("decoder4.1")
    assert refused(lambda: found.attach(other, "decoder4.1")) == "ENXIO", "window 0 does not reach that bridge"
    found.reserve("decoder4.1", 2 * QUARTER)
    assert refused(lambda: found.attach(other, "decoder4.1")) == "EINVAL", "sizes are compared before bridges"


def test_targets_of_an_earlier_region_stay_behind_the_ways_of_the_next_one() -> None:
    """They show when a third region has more ways, and not all of its targets are set up (differential, guest t6)."""
    found = machine(TWO_PORTS)
    decoder = found.decoder("decoder1.0")
    assert isinstance(decoder, CxlSwitchDecoder)
    found.delete(found.committed("decoder2.0", "decoder3.0"))
    assert decoder.target_list == "0,1"
    for name in ("decoder2.0", "decoder3.0"):
        found.endpoint(name).dpa_size_store(b"0")
    found.committed("decoder3.0")
    assert decoder.target_list == "1"
    decoder.interleave_ways = 2
    assert decoder.target_list == "1,1"


def test_two_newlines_detach_a_target() -> None:
    """sysfs_streq takes one of them for the end of the text."""
    found = machine()
    region = found.committed("decoder2.0")
    assert refused(lambda: drive(region.target_store(0, b"\n\n\n"))) == "ENODEV"
    drive(region.target_store(0, b"\n\n"))
    assert region.target_show(0) == ""


def test_detaching_and_attaching_below_one_port_fails_as_in_the_kernel() -> None:
    """The kernel's count of targets does not fall: then 3 is no power of 2 (recording t2-ports)."""
    found = machine(TWO_PORTS)
    region = found.committed("decoder2.0", "decoder3.0")
    drive(region.target_store(0, b""))
    assert refused(lambda: drive(region.target_store(0, b"decoder2.0"))) == "EINVAL"
    assert region.target_show(0) == "decoder2.0"
    assert refused(lambda: drive(region.commit_store(b"1"))) == "ENXIO"
    for pos in (0, 1):
        drive(region.target_store(pos, b""))
    found.attach(region, "decoder2.0", "decoder3.0")
    drive(region.commit_store(b"1"))


def test_a_uuid_is_for_persistent_memory_and_for_one_region() -> None:
    found = machine(PMEM)
    name = b"abcdef78-1234-5678-1234-567812345678\n"
    first, second = found.create(mode="pmem"), found.create(mode="pmem")
    for wrong in (b"\n", name[:-1], b"00000000-0000-0000-0000-000000000000\n", name[:-2] + b"X\n"):
        assert refused(partial(first.uuid_store, wrong)) == "EINVAL"
    first.interleave_granularity_store(b"256")
    first.interleave_ways_store(b"1")
    assert refused(lambda: first.size_store(b"0x10000000")) == "ENXIO"
    first.uuid_store(name)
    first.uuid_store(name)
    assert refused(lambda: second.uuid_store(name)) == "EBUSY"
    first.size_store(b"0x10000000")


def test_one_machine_without_a_device_has_an_idle_tree() -> None:
    found = machine(ONE, ("cxl_acpi",))
    assert list(found.kernel.cxl_bus.devices) == ["root0", "decoder0.0", "port1", "nvdimm-bridge0"]
