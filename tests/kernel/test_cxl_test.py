"""The module cxl_test and its regions."""

from __future__ import annotations

import pytest

from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.profile import PROFILES, Mmop
from fakesysfs.kernel.range import Range
from fakesysfs.kernel.setup import DaxSetup, NodeSetup, Setup
from tests.model import GIB, drive

DRIVERS = ("device_dax", "dax_cxl", "kmem")


def boot(*modules: str, kernel: str = "7.2") -> Kernel:
    setup = Setup(
        block_size=128 << 20,
        nodes=(NodeSetup(nid=0, cpus=(0,), ranges=(Range(0, GIB - 1),)), NodeSetup(nid=1)),
        cxl_test=tuple(DaxSetup(range=Range(at * GIB, (at + 1) * GIB - 1), target_node=1) for at in (4, 6)),
        default_online_type=Mmop.ONLINE_MOVABLE,
        modules=tuple((module, ()) for module in modules),
    )
    booted = Kernel(setup, PROFILES[kernel])
    drive(booted.boot())
    return booted


@pytest.mark.parametrize("modules", [("cxl_test", *DRIVERS[:2]), (*DRIVERS[:2], "cxl_test")])
def test_its_regions_come_and_go_with_it(modules: tuple[str, ...]) -> None:
    """As often as one likes, with the same names, and all that hangs below them goes with a uevent."""
    kernel = boot(*modules)
    for _ in range(2):
        assert list(kernel.dax_bus.devices) == ["dax0.0", "dax1.0"]
        before = kernel.uevents.sequence
        living = len(kernel.objects)
        drive(kernel.rmmod("cxl_test"))
        removed = [lines[0] for lines in kernel.uevents.since(before) if lines[1] == "ACTION=remove"]
        assert not kernel.dax_bus.devices
        assert not kernel.buses["cxl"].devices
        assert "cxl_acpi.0" not in kernel.platform_bus.devices
        assert removed[-2:] == ["remove@/devices/platform/cxl_acpi.0", "remove@/module/cxl_test"]
        assert len(kernel.objects) < living
        drive(kernel.modprobe("cxl_test"))


def test_without_the_module_at_boot_its_regions_stay() -> None:
    kernel = boot(*DRIVERS)
    devices = dict(kernel.dax_bus.devices)
    drive(kernel.modprobe("cxl_test"))
    assert kernel.dax_bus.devices == devices
    drive(kernel.rmmod("cxl_test"))
    assert kernel.dax_bus.devices == devices


def test_memory_that_is_online_survives_it() -> None:
    """As it does any unbinding: the region goes, its blocks stay online until reboot, and nobody can add them again."""
    kernel = boot(*DRIVERS[1:], "cxl_test")
    assert kernel.nodes[1].zones["Movable"].present
    drive(kernel.rmmod("cxl_test"))
    assert not kernel.dax_bus.devices
    assert kernel.nodes[1].zones["Movable"].present
    drive(kernel.modprobe("cxl_test"))
    assert [device.driver for device in kernel.dax_bus.devices.values()] == [None, None]
