"""Regions whose decoders firmware has committed: what a 7.3-rc7 showed after kexec from one that had made regions."""

from __future__ import annotations

import pytest

from fakesysfs.kernel.cxl.core.region import CxlConfig
from fakesysfs.kernel.dax.bus import DevDax
from fakesysfs.kernel.profile import Mmop
from fakesysfs.kernel.range import Range
from fakesysfs.kernel.setup import CxlRegionSetup, DaxSetup
from tests.cxl_model import (
    MODULES,
    ONE,
    PMEM,
    QUARTER,
    TWO_BRIDGES,
    TWO_PORTS,
    Machine,
    machine,
    refused,
)
from tests.model import GIB, drive, log_since

FIRST, SECOND = "0000:0d:00.0", "0000:df:00.0"


def region(
    *targets: str, window: int = 0, size: int = QUARTER, at: int = 0, mode: str = "ram", **dax: object
) -> CxlRegionSetup:
    """A region of `size` bytes for each target, `at` bytes behind the start of its window."""
    start = Machine.span(window).start + at
    return CxlRegionSetup(
        window=window,
        targets=targets,
        granularity=1024 if len(targets) > 1 else 256,
        mode=mode,
        dax=DaxSetup(range=Range(start, start + size * len(targets) - 1), target_node=window + 1, **dax),  # type: ignore[arg-type]
    )


def dax(found: Machine) -> DevDax:
    device = found.kernel.dax_bus.devices["dax0.0"]
    assert isinstance(device, DevDax)
    return device


def test_it_is_there_when_its_memory_device_is() -> None:
    found = machine(ONE, regions=(region(FIRST, size=GIB, device_size=QUARTER),))
    made = found.region()
    assert (made.state, made.size, made.target_show(0)) == (CxlConfig.COMMIT, GIB, "decoder2.0")
    assert [found.port(name).decoders_committed for name in ("port1", "endpoint2")] == [1, 1]
    decoder = found.endpoint("decoder2.0")
    assert (decoder.mode, decoder.dpa_resource, decoder.dpa_size) == ("ram", 0, GIB)
    assert decoder.hpa_range == made.hpa_range
    assert found.iomem()[-4:] == ["CXL Window 0", "  region0", "    dax0.0", "      System RAM (kmem)"]
    assert (dax(found).size, dax(found).region.available_size) == (QUARTER, GIB - QUARTER)
    assert found.window().region_id == 1


def test_it_is_made_and_bound_while_its_memory_device_is_probed() -> None:
    found = machine(TWO_PORTS, MODULES[:3], (region("0000:0e:00.0"),))
    before = found.kernel.uevents.sequence
    for module in MODULES[3:]:
        drive(found.kernel.modprobe(module))
    events = found.events(before)
    assert events[events.index("add endpoint3") :][:11] == [
        "add endpoint3", *(f"add decoder3.{number}" for number in range(4)),
        "add region0", "add dax_region0", "bind region0", "bind endpoint3", "bind mem1", "add mem1",
    ]  # fmt: skip
    assert events.index("bind 0000:0e:00.0") < events.index("add dax0.0")


def test_it_comes_with_the_last_of_its_memory_devices() -> None:
    found = machine(TWO_BRIDGES, MODULES[:2], (region(FIRST, SECOND, window=2),))
    before = found.kernel.uevents.sequence
    assert "region2" not in found.kernel.cxl_bus.devices
    for module in MODULES[2:]:
        drive(found.kernel.modprobe(module))
    events = found.events(before)
    assert events.index("add mem1") < events.index("add region2") < events.index("bind region2")
    assert events.index("bind region2") < events.index("bind mem1") < events.index("add dax2.0")
    made = found.region(2)
    assert [made.target_show(pos) for pos in (0, 1)] == ["decoder3.0", "decoder4.0"]
    assert (made.interleave_ways, made.interleave_granularity) == (2, 1024)
    assert [found.decoder(name).interleave_granularity for name in ("decoder1.0", "decoder3.0")] == [2048, 1024]


def test_several_share_a_port_and_a_memory_device() -> None:
    first, other = FIRST, "0000:0e:00.0"
    found = machine(TWO_PORTS, regions=(region(first), region(other, at=QUARTER), region(first, at=2 * QUARTER)))
    assert [found.region(number).target_show(0) for number in range(3)] == ["decoder2.0", "decoder3.0", "decoder2.1"]
    assert found.port("port1").decoders_committed == 3
    assert found.endpoint("decoder2.1").dpa_resource == QUARTER
    assert list(found.kernel.dax_bus.devices) == ["dax0.0", "dax1.0", "dax2.0"]


def test_one_of_persistent_memory_has_no_dax_device() -> None:
    found = machine(PMEM, regions=(region(FIRST, mode="pmem"),))
    assert found.endpoint("decoder2.0").dpa_resource == GIB, "behind the volatile memory"
    assert found.iomem()[-3:] == ["CXL Window 0", "  Persistent Memory", "    region0"]
    assert not found.kernel.dax_bus.devices


def test_linux_finds_none_behind_a_bridge_without_decoders() -> None:
    """`cxl_mem mem0: failed to find decoder mapping`: the only decoder of such a bridge has no addresses."""
    found = machine(ONE, regions=(region(FIRST),), decoding=False)
    assert found.kernel.cxl is not None
    ((_, error),) = found.kernel.cxl.regions.failed
    assert error.name == "ENXIO"
    assert not found.kernel.dax_bus.devices


def test_one_that_cannot_be_is_reported_and_leaves_no_region() -> None:
    found = machine(ONE, regions=(region(FIRST, size=2 * GIB), region(FIRST)))
    assert found.kernel.cxl is not None
    ((setup, error),) = found.kernel.cxl.regions.failed
    assert (setup.dax.range.length, error.name) == (2 * GIB, "ENOSPC")
    assert found.region().size == QUARTER


def test_what_the_machine_says_of_its_dax_region_lasts_as_long_as_it() -> None:
    setup = region(FIRST, device_size=128 << 20, online_type=Mmop.OFFLINE, driver="device_dax")
    found = machine(ONE, regions=(setup,))
    assert (dax(found).size, dax(found).online_type) == (128 << 20, Mmop.OFFLINE)
    found.unbind("cxl_region", "region0")
    found.bind("cxl_region", "region0")
    assert (dax(found).size, dax(found).online_type) == (128 << 20, Mmop.OFFLINE)
    found.delete(found.region())
    found.reserve("decoder2.0", 0)
    found.bound("decoder2.0")
    assert (dax(found).size, dax(found).online_type) == (QUARTER, Mmop.ONLINE_MOVABLE)


@pytest.mark.parametrize("away", ["cxl_mem", "cxl_acpi"])
def test_its_decoders_are_reset_when_it_goes(away: str) -> None:
    """So it does not come back with its memory device."""
    found = machine(ONE, regions=(region(FIRST),))
    if away == "cxl_mem":
        found.unbind("cxl_mem", "mem0")
        assert found.region().state < CxlConfig.ACTIVE
        found.bind("cxl_mem", "mem0")
    else:
        drive(found.kernel.rmmod("cxl_acpi"))
        drive(found.kernel.modprobe("cxl_acpi"))
        assert "region0" not in found.kernel.cxl_bus.devices
    assert [found.port(name).decoders_committed for name in ("port1", "endpoint2")] == [0, 0]
    assert not found.kernel.dax_bus.devices


def test_the_decoders_of_ports_keep_its_addresses() -> None:
    """Those of a region that a user made lose them (cxl_region_teardown_targets)."""
    found = machine(ONE, regions=(region(FIRST),))
    span = found.region().hpa_range
    found.delete(found.region())
    assert [found.decoder(name).hpa_range for name in ("decoder1.0", "decoder2.0")] == [span, Range(0, -1)]
    assert found.decoder("decoder1.0").region is None


def test_a_target_that_was_taken_away_does_not_come_back() -> None:
    found = machine(TWO_PORTS, regions=(region(FIRST, "0000:0e:00.0"),))
    drive(found.region().target_store(1, b"\n"))
    assert found.region().state == CxlConfig.INTERLEAVE_ACTIVE
    log = found.kernel.printk.sequence
    assert refused(lambda: drive(found.region().target_store(1, b"decoder3.0"))) == "EINVAL"
    assert log_since(found.kernel, log)[-2:] == [
        "<3>cxl region0: decoder3.0: unable to add decoder to autodetected region",
        "<4>cxl_port endpoint3: failed to attach decoder3.0 to region0: -22",
    ]
    found.delete(found.region())
    found.reserve("decoder2.0")
    assert found.sized().size == QUARTER
    found.attach(found.region(), "decoder2.0")


def test_device_dax_maps_its_memory_on_the_node_of_a_processor() -> None:
    """A CXL dax device is on no node: numa_node is -1 (memremap_pages)."""
    found = machine(ONE, regions=(region(FIRST, driver="device_dax"),))
    assert dax(found).numa_node == -1
    assert dax(found).driver is found.kernel.dax_bus.drivers["device_dax"]
    zone, span = found.kernel.nodes[0].zones.device, found.region().hpa_range
    assert (zone.start << 12, zone.end << 12) == (span.start, span.end + 1)
