"""The driver cxl_mem: drivers/cxl/mem.c, and devm_cxl_enumerate_ports of drivers/cxl/core/port.c.

It puts a memory device into the tree of ports: makes the switches on the way that are not there, and its endpoint.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping

from fakesysfs.kernel.cxl.core.debugfs import CxlDebugfsDir
from fakesysfs.kernel.cxl.core.memdev import CxlMemdev
from fakesysfs.kernel.cxl.core.port import (
    CXL_DEVICE_MEMORY_EXPANDER,
    CxlBus,
    CxlDport,
    CxlDriver,
    CxlEp,
    CxlPort,
)
from fakesysfs.kernel.cxl.pci import PciTopology
from fakesysfs.kernel.cxl.pmem import CxlNvdimm
from fakesysfs.kernel.cxl.port import add_dport, unregister_port
from fakesysfs.kernel.device import Device
from fakesysfs.kernel.resource import IomemResource
from fakesysfs.ops.errors import KernelError


def _ports(devices: Mapping[str, Device]) -> Iterator[CxlPort]:
    return (device for device in devices.values() if isinstance(device, CxlPort))


class CxlMemDriver(CxlDriver):
    """The driver cxl_mem."""

    name = "cxl_mem"
    type_number = CXL_DEVICE_MEMORY_EXPANDER

    def __init__(self, bus: CxlBus, module: str, topology: PciTopology, iomem: IomemResource) -> None:
        super().__init__(bus, module)
        self._cxl_bus = bus
        self._topology = topology
        self._iomem = iomem

    async def probe(self, device: Device) -> None:
        """Make the ports above a memory device and its endpoint (cxl_mem_probe).

        Raises KernelError ENXIO while the host bridge's port is not there or not bound.
        """
        assert isinstance(device, CxlMemdev)
        port, dport = await self._enumerate_ports(device)
        bus = self._cxl_bus
        if device.partition("pmem") is not None and "nvdimm-bridge0" in bus.devices:
            nvdimm = CxlNvdimm(bus, f"pmem{device.id}", device)
            device.release_actions.append(lambda: bus.remove(nvdimm))
            await bus.add(nvdimm)
        CxlDebugfsDir(device).add()
        endpoint = CxlPort(self._cxl_bus, "endpoint", port, f"/sys{device.devpath}", dport, device.hardware.registers)
        endpoint.memdev = device
        device.endpoint = endpoint
        await self._cxl_bus.add(endpoint)

    async def _enumerate_ports(self, memdev: CxlMemdev) -> tuple[CxlPort, CxlDport]:
        """The port right above a memory device, and its downstream port. Raises KernelError ENXIO."""
        bus, setup, topology = self._cxl_bus, memdev.setup, self._topology
        bridge = topology.bridge_path(setup.bridge)
        port = next((port for port in _ports(bus.devices) if port.uport == bridge), None)
        if port is None or port.driver is None:
            raise KernelError(errno.ENXIO, f"the port of {bridge} is not there or not bound", "cxl_mem_probe")
        way: list[tuple[CxlPort, CxlDport]] = []
        for step, number in enumerate(setup.ports):
            dport = await add_dport(port, topology.path(setup, 2 * step), number, self._iomem)
            way.append((port, dport))
            if step + 1 < len(setup.ports):
                port = await self._switch(port, dport, topology.path(setup, 2 * step + 1))
        for position, (above, dport) in enumerate(way):
            memdev.ports.append(above)
            above.endpoints[memdev] = CxlEp(dport, way[position + 1][0] if position + 1 < len(way) else None)
        return way[-1]

    async def _switch(self, above: CxlPort, dport: CxlDport, uport: str) -> CxlPort:
        found = next((port for port in _ports(above.children) if port.uport == uport), None)
        if found is None:
            found = CxlPort(self._cxl_bus, "port", above, uport, dport, self._topology.registers(uport))
            await self._cxl_bus.add(found)
        if found.driver is None:
            raise KernelError(errno.ENXIO, f"{found.name} is not bound", "cxl_mem_probe")
        return found

    async def remove(self, device: Device) -> None:
        """Remove the endpoint, and each switch that has no other (delete_endpoint, cxl_detach_ep)."""
        assert isinstance(device, CxlMemdev)
        if device.endpoint is not None:
            await unregister_port(device.endpoint)
        for port in reversed(device.ports):
            port.endpoints.pop(device, None)
            if not port.endpoints and not port.dead and not port.above.is_root:
                await unregister_port(port)
        device.ports.clear()
