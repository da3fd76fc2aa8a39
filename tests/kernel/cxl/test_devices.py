"""Ports and memory devices come and go with their drivers and modules (recordings 7.3-cxl)."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from fakesysfs.kernel.cxl.core.memdev import SANITIZE_SECONDS, CxlMemdev
from fakesysfs.kernel.cxl.core.port import CxlSwitchDecoder
from fakesysfs.kernel.dax.bus import DevDax
from fakesysfs.kernel.dax.kmem import Kmem
from tests.cxl_model import ONE, PMEM, QUARTER, SWITCH, TWO_PORTS, Machine, device, machine, refused
from tests.model import drive

DECODERS = [f"decoder2.{number}" for number in range(4)]


def memory(found: Machine) -> int:
    return found.kernel.nodes[1].zones["Movable"].present


def test_modules_make_the_tree_from_above() -> None:
    found = machine(ONE, ("libnvdimm",))
    before = found.kernel.uevents.sequence
    for module in ("cxl_pmem", "cxl_acpi", "cxl_mem", "cxl_pci"):
        drive(found.kernel.modprobe(module))
    events = [event for event in found.events(before) if "wakeup" not in event and "ndbus" not in event]
    assert events[events.index("add root0") :] == [
        "add root0", "add decoder0.0", "add port1", "bind port1", "add nvdimm-bridge0", "bind nvdimm-bridge0",
        "bind ACPI0017:00", "add cxl_acpi", "add cxl_acpi", "add cxl_mem", "add cxl_mem", "add cxl_pci", "add cxl_pci",
        "add mem0", "add decoder1.0", "add endpoint2", *(f"add {name}" for name in DECODERS), "bind endpoint2",
        "bind mem0", "add mem0", "bind 0000:0d:00.0",
    ]  # fmt: skip


def test_a_region_becomes_a_dax_device_in_the_background() -> None:
    """The write to bind returns before the dax device is there."""
    found = machine()
    waiting: list[Coroutine[Any, Any, None]] = []
    region = found.committed("decoder2.0")
    found.kernel.background = waiting.append
    before = found.kernel.uevents.sequence
    found.bind("cxl_region", "region0")
    assert found.events(before) == ["add dax_region0", "bind region0"]
    assert not found.kernel.dax_bus.devices
    (work,) = waiting
    drive(work)
    events = found.events(before)
    assert events[2] == "add dax0.0"
    assert events[-2:] == ["bind dax0.0", "bind dax_region0"]
    assert found.kernel.dax_bus.devices["dax0.0"].devpath == f"{region.devpath}/dax_region0/dax0.0"
    assert found.iomem()[-3:] == ["  region0", "    dax0.0", "      System RAM (kmem)"]


def test_flush_takes_a_1_and_no_other_word_for_true() -> None:
    found = machine()
    bus = found.kernel.cxl_bus
    for word in (b"1", b"1\n"):
        drive(bus.flush_store(word))
    for word in (b"on\n", b"y", b"11", b"0", b"\n", b""):
        assert refused(lambda word=word: drive(bus.flush_store(word))) == "EINVAL"  # type: ignore[misc]


def test_while_a_device_erases_itself_it_takes_no_command_and_its_decoders_no_commit() -> None:
    """Recorded on guest t1; the time is QEMU's for 1 GiB and the kernel's, which asks twice."""
    found = machine()
    kernel, memdev = found.kernel, found.kernel.cxl_bus.devices["mem0"]
    assert isinstance(memdev, CxlMemdev)
    now = 100.0
    kernel.printk.clock = lambda: now
    region = found.sized()
    found.reserve("decoder2.0")
    found.attach(region, "decoder2.0")
    found.unbind("cxl_mem", "mem0")
    assert refused(lambda: memdev.security_sanitize_store(b"1\n")) == "EBUSY", "cxl_mem is not bound"
    found.bind("cxl_mem", "mem0")
    found.reserve("decoder2.0")
    found.attach(region, "decoder2.0")
    for word in (b"0", b"x"):
        assert refused(lambda word=word: memdev.security_sanitize_store(word)) == "EINVAL"  # type: ignore[misc]
    memdev.security_sanitize_store(b"1\n")
    before = kernel.printk.sequence
    assert memdev.security_state == "sanitize"
    poison = found.kernel.cxl_bus.debugfs["mem0"]
    for refusal in (
        lambda: memdev.security_sanitize_store(b"1"),
        lambda: memdev.trigger_poison_list_store(b"1"),
        lambda: poison.poison_store(b"0x1000", "inject"),
        lambda: drive(region.commit_store(b"1")),
    ):
        assert refused(refusal) == "EBUSY"
    logged = [record.text for record in kernel.printk.since(before)]
    assert logged == ["cxl_pci 0000:0d:00.0: Failed to get security state : -16"]
    now += SANITIZE_SECONDS
    assert memdev.security_state == "disabled"
    drive(region.commit_store(b"1"))
    assert refused(lambda: memdev.security_sanitize_store(b"1")) == "EBUSY", "a decoder is committed"


def test_poison_in_a_region_is_logged_once_for_each_action() -> None:
    """dev_warn_once, with the address in the memory device (differential, guest t1)."""
    found = machine(TWO_PORTS)
    found.reserve("decoder2.0", 2 * QUARTER)
    found.reserve("decoder3.0", 2 * QUARTER)
    region = found.sized(2, 2 * QUARTER, granularity=1024)
    found.attach(region, "decoder2.0", "decoder3.0")
    debugfs, before = found.kernel.cxl_bus.debugfs, found.kernel.printk.sequence
    debugfs["mem0"].poison_store(b"0x40", "inject")
    assert [record.text for record in found.kernel.printk.since(before)] == [], "no decoder is committed"
    drive(region.commit_store(b"1"))
    found.bind("cxl_region", "region0")
    before = found.kernel.printk.sequence
    debugfs["region0"].poison_store(b"0x1440", "inject")
    debugfs["region0"].poison_store(b"0x1480", "inject")
    debugfs["mem0"].poison_store(b"0x0", "clear")
    for offset in (b"0x40000000", b"0x1"):
        assert refused(lambda offset=offset: debugfs["region0"].poison_store(offset, "clear")) == "EINVAL"  # type: ignore[misc]
    assert [(record.level, record.text) for record in found.kernel.printk.since(before)] == [
        (4, "cxl_pci 0000:0e:00.0: poison inject dpa:0x840 region: region0"),
        (4, "cxl_pci 0000:0d:00.0: poison clear dpa:0x0 region: region0"),
        (3, "cxl_region region0: Offset 0x40000000 exceeds region size 0x0000000040000000"),
    ]


def test_unbinding_takes_the_memory_along_before_it_returns() -> None:
    found = machine()
    found.bound("decoder2.0")
    kmem, dev_dax = found.kernel.dax_bus.drivers["kmem"], found.kernel.dax_bus.devices["dax0.0"]
    assert isinstance(kmem, Kmem)
    assert isinstance(dev_dax, DevDax)
    before = found.kernel.uevents.sequence
    drive(kmem.hotplug_store(dev_dax, b"unplugged"))
    found.unbind("cxl_region", "region0")
    assert found.events(before)[-5:] == [
        "unbind dax0.0", "remove dax0.0", "unbind dax_region0", "remove dax_region0", "unbind region0",
    ]  # fmt: skip
    assert found.kernel.nodes.online() == [0]


def test_memory_that_is_online_stays_where_it_is() -> None:
    """It keeps its addresses: the region gets no dax device again, and the next region other addresses."""
    found = machine()
    region = found.bound("decoder2.0")
    there = memory(found)
    assert there
    found.unbind("cxl_region", "region0")
    found.bind("cxl_region", "region0")
    assert "dax_region0" not in found.kernel.cxl_bus.devices
    start = region.hpa_range.start
    found.delete(region)
    assert memory(found) == there
    assert found.iomem()[-3:] == ["CXL Window 0", "  dax0.0", "    System RAM (kmem)"]
    assert found.sized().hpa_range.start > start


def test_a_memory_device_takes_its_decoders_and_regions_along() -> None:
    found = machine()
    region = found.bound("decoder2.0")
    before = found.kernel.uevents.sequence
    found.unbind("cxl_mem", "mem0")
    assert found.events(before) == [
        "remove decoder2.3", "remove decoder2.2", "remove decoder2.1",
        "unbind dax0.0", "remove dax0.0", "unbind dax_region0", "remove dax_region0", "unbind region0",
        "remove decoder2.0", "unbind endpoint2", "remove endpoint2", "unbind mem0",
    ]  # fmt: skip
    assert (region.size, region.target_show(0)) == (256 << 20, "")
    found.bind("cxl_mem", "mem0")
    assert found.endpoint("decoder2.0").mode == "none"


def test_a_memory_device_follows_its_endpoint_and_its_port() -> None:
    found = machine()
    memdev = found.kernel.cxl_bus.devices["mem0"]
    found.unbind("cxl_port", "endpoint2")
    assert memdev.driver is None
    assert "endpoint2" not in found.kernel.cxl_bus.devices
    found.bind("cxl_mem", "mem0")
    found.unbind("cxl_port", "port1")
    assert memdev.driver is None
    assert "decoder1.0" not in found.kernel.cxl_bus.devices
    assert refused(lambda: found.bind("cxl_mem", "mem0")) == "ENXIO"
    found.bind("cxl_port", "port1")
    found.bind("cxl_mem", "mem0")
    assert found.port("endpoint2").driver is not None


def test_a_switch_lives_as_long_as_an_endpoint_below_it() -> None:
    found = machine(SWITCH)
    assert found.port("endpoint3").devpath.endswith("/port1/port2/endpoint3")
    found.unbind("cxl_mem", "mem0")
    assert "port2" in found.kernel.cxl_bus.devices
    found.unbind("cxl_mem", "mem1")
    assert "port2" not in found.kernel.cxl_bus.devices
    found.bind("cxl_mem", "mem1")
    assert [dport.port_id for dport in found.port("port2").dports.values()] == [1]


def test_an_interleaved_region_below_a_switch() -> None:
    found = machine(SWITCH)
    found.committed("decoder4.0", "decoder3.0", granularity=512)
    decoder = found.decoder("decoder2.0")
    assert isinstance(decoder, CxlSwitchDecoder)
    assert decoder.target_list == "1,0"
    assert [found.decoder(name).interleave_ways for name in ("decoder1.0", "decoder2.0")] == [1, 2]


def test_persistent_memory_has_a_device_of_its_own() -> None:
    found = machine(PMEM)
    assert found.kernel.cxl_bus.devices["pmem0"].driver is not None
    region = found.create(mode="pmem")
    region.interleave_granularity_store(b"256")
    region.interleave_ways_store(b"1")
    region.uuid_store(b"abcdef78-1234-5678-1234-567812345678\n")
    region.size_store(b"0x10000000")
    found.reserve("decoder2.0", mode="pmem")
    found.attach(region, "decoder2.0")
    drive(region.commit_store(b"1"))
    found.bind("cxl_region", "region0")
    assert found.kernel.cxl_bus.devices["pmem_region0"].driver is not None
    assert found.iomem()[-2:] == ["  Persistent Memory", "    region0"]
    found.delete(region)
    assert found.iomem()[-1] == "CXL Window 0"


def test_modules_that_are_in_use_stay() -> None:
    found = machine()
    assert refused(lambda: drive(found.kernel.rmmod("cxl_mem"))) == "EAGAIN"
    assert refused(lambda: drive(found.kernel.rmmod("cxl_pmem"))) == "EAGAIN"


def test_all_but_the_memory_devices_goes_with_cxl_acpi_and_returns() -> None:
    found = machine(TWO_PORTS)
    found.bound("decoder2.0")
    living = len(found.kernel.objects)
    drive(found.kernel.rmmod("cxl_acpi"))
    assert sorted(found.kernel.cxl_bus.devices) == ["mem0", "mem1"]
    assert "CXL Window 0" not in found.iomem()
    drive(found.kernel.modprobe("cxl_acpi"))
    assert found.port("endpoint2").driver is not None
    assert len(found.kernel.objects) < living


def test_numbers_of_ports_are_used_again() -> None:
    found = machine(TWO_PORTS)
    found.unbind("cxl_mem", "mem0")
    found.unbind("cxl_mem", "mem1")
    found.bind("cxl_mem", "mem1")
    endpoint = found.port("endpoint2")
    assert isinstance(endpoint.memdev, CxlMemdev)
    assert endpoint.memdev.name == "mem1"


def test_a_port_has_no_room_for_more_regions_than_decoders() -> None:
    """32 devices below one bridge: four regions are committed, the fifth is refused."""
    paths = [(f"0000:0c:{port:02x}.0", f"0000:{port + 13:02x}:00.0") for port in range(32)]
    found = machine(tuple(device(12, path, (port,)) for port, path in enumerate(paths)))
    for number in range(4):
        found.committed(f"decoder{number + 2}.0")
    fifth = found.sized()
    found.reserve("decoder33.0")
    assert refused(lambda: found.attach(fifth, "decoder33.0")) == "EBUSY"
