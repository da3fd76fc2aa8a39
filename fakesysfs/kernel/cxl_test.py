"""The CXL hardware that leads to a dax region, from firmware or from the module cxl_test.

cxl_test (tools/testing/cxl/test/cxl.c) is for machines without CXL: it registers a platform device cxl_acpi.0 with
regions below, which go when it is unloaded. In a machine whose `modules` name it the CXL regions are its own. Else they
are firmware's, there before any module; loading cxl_test then adds nothing, because all regions of a machine are those
of its description.

Differs knowingly: cxl_test's regions are those of the machine, not its own topology of mocked memory devices; cxl_mock
and cxl_mock_mem, which it needs, are not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fakesysfs.kernel.platform import CxlDevice, PlatformDevice

if TYPE_CHECKING:
    from fakesysfs.kernel.kernel import Kernel
    from fakesysfs.kernel.module import Module

CXL_ACPI = "cxl_acpi.0"
CXL_TEST = "cxl_test"


def is_from_firmware(kernel: Kernel) -> bool:
    """Are the machine's CXL regions there without any module?"""
    return all(name != CXL_TEST for name, _ in kernel.setup.modules)


async def register_cxl(kernel: Kernel) -> None:
    """Register the machine's CXL regions and what is above them."""
    if not kernel.setup.cxl_regions:
        return
    cxl = kernel.buses["cxl"]
    acpi = PlatformDevice(kernel, CXL_ACPI, "ACPI0017")
    await kernel.platform_bus.add(acpi)
    root = CxlDevice(kernel, "root0", "cxl_port", cxl, acpi)
    await cxl.add(root)
    for setup in kernel.setup.cxl_regions:
        number = kernel.memregions.take()
        decoder = CxlDevice(kernel, f"decoder{3 + number}.0", "cxl_decoder_root", cxl, root)
        await cxl.add(decoder)
        region = CxlDevice(kernel, f"region{number}", "cxl_region", cxl, decoder)
        await cxl.add(region)
        dax_region = CxlDevice(kernel, f"dax_region{number}", "cxl_dax_region", cxl, region, number=number)
        dax_region.dax_setup = setup
        dax_region.numa_node = kernel.nodes.nearest_online(setup.target_node)
        await cxl.add(dax_region)


async def cxl_test_init(module: Module) -> None:
    """Loading cxl_test."""
    if not is_from_firmware(module.kernel):
        await register_cxl(module.kernel)


async def cxl_test_exit(module: Module) -> None:
    """Unloading cxl_test: its regions go, with their devices."""
    kernel = module.kernel
    acpi = kernel.platform_bus.devices.get(CXL_ACPI)
    if acpi is None or is_from_firmware(kernel):
        return
    regions = [device for device in kernel.buses["cxl"].devices.values() if isinstance(device, CxlDevice)]
    await kernel.platform_bus.remove(acpi)
    for device in regions:
        if device.dax_setup is not None:
            kernel.memregions.release(device.number)
