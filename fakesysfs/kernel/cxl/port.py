"""The driver cxl_port: drivers/cxl/port.c, and the parts of drivers/cxl/core/port.c that take ports away.

The decoders of an endpoint come when it is bound, those of a host bridge or switch with the first memory device below.
"""

from __future__ import annotations

from fakesysfs.kernel.cxl.core.hdm import CxlEndpointDecoder
from fakesysfs.kernel.cxl.core.memdev import CxlMemdev
from fakesysfs.kernel.cxl.core.port import (
    CXL_DEVICE_PORT,
    CxlBus,
    CxlDecoder,
    CxlDport,
    CxlDriver,
    CxlPort,
    CxlSwitchDecoder,
)
from fakesysfs.kernel.cxl.core.region import CxlRegions, cxl_decoder_detach
from fakesysfs.kernel.cxl.setup import DECODERS
from fakesysfs.kernel.device import Device
from fakesysfs.kernel.resource import IomemResource


class CxlPortDriver(CxlDriver):
    """The driver cxl_port."""

    name = "cxl_port"
    type_number = CXL_DEVICE_PORT

    def __init__(self, bus: CxlBus, module: str, regions: CxlRegions) -> None:
        super().__init__(bus, module)
        self._regions = regions

    async def probe(self, device: Device) -> None:
        """Take a port (cxl_port_probe). With an endpoint the regions come that firmware made of it."""
        assert isinstance(device, CxlPort)
        device.release_actions.append(lambda: self._release(device))
        if device.memdev is not None:
            for number in range(DECODERS):
                await add_decoder(CxlEndpointDecoder(device, number))
            await self._regions.discover_regions()

    async def _release(self, port: CxlPort) -> None:
        """Take away what hangs on a bound port, the last first: endpoints and ports below, decoders, dports."""
        bus = port.bus
        assert isinstance(bus, CxlBus)
        for child in reversed(list(port.children.values())):
            if isinstance(child, CxlPort):
                await unregister_port(child)
            elif isinstance(child, CxlDecoder):
                await _unregister_decoder(child)
        for dport in list(port.dports.values()):
            remove_dport(port, dport)
        if port.memdev is not None and not port.dead:
            bus.kernel.schedule(detach_memdev(port))


async def add_decoder(decoder: CxlDecoder) -> None:
    """Register a decoder."""
    decoder.port.decoders.append(decoder)
    assert decoder.bus is not None
    await decoder.bus.add(decoder)


async def _unregister_decoder(decoder: CxlDecoder) -> None:
    if isinstance(decoder, CxlEndpointDecoder):
        await cxl_decoder_detach(decoder)
        if decoder.dpa is not None:
            decoder.cxl_dpa_release()
    decoder.port.decoders.remove(decoder)
    assert decoder.bus is not None
    await decoder.bus.remove(decoder)


async def unregister_port(port: CxlPort) -> None:
    """Unregister a port; what is below it goes first."""
    bus = port.bus
    assert isinstance(bus, CxlBus)
    memdev = port.memdev
    port.dead = True
    if isinstance(memdev, CxlMemdev):
        memdev.endpoint = None
        bus.kernel.schedule(release_memdev(memdev))
    await bus.remove(port)
    bus.ports.release(port.id)


async def release_memdev(memdev: CxlMemdev) -> None:
    """Unbind a memory device that has lost its endpoint (detach_memdev)."""
    if memdev.alive and memdev.endpoint is None and memdev.driver is not None:
        assert memdev.bus is not None
        await memdev.bus.detach(memdev)


async def detach_memdev(endpoint: CxlPort) -> None:
    """Remove an endpoint without a driver, and unbind its memory device (cxld_unregister, detach_memdev)."""
    memdev = endpoint.memdev
    if not endpoint.dead and endpoint.driver is None and isinstance(memdev, CxlMemdev) and memdev.driver is not None:
        assert memdev.bus is not None
        await memdev.bus.detach(memdev)


# Downstream ports -------------------------------------------------------------------------------------------------


async def add_dport(port: CxlPort, path: str, number: int, iomem: IomemResource) -> CxlDport:
    """Make a downstream port, and with the first one the decoders of the port (cxl_port_add_dport)."""
    dport = port.dports.get(path)
    if dport is None:
        dport = register_dport(port, path, number)
        if not port.decoders:
            registers = port.registers
            _map_registers(port, iomem)
            for position in range(1 if registers is None else DECODERS):
                await add_decoder(CxlSwitchDecoder(port, position, None if registers is None else registers[position]))
        for decoder in port.decoders:
            if isinstance(decoder, CxlSwitchDecoder):
                decoder.note_dport(number)
    return dport


def _map_registers(port: CxlPort, iomem: IomemResource) -> None:
    """Show the registers of a host bridge's decoders in /proc/iomem while the port is bound (devm_cxl_setup_hdm)."""
    span = port.register_span
    resource = iomem.request_region(span.start, span.end, port.name) if span is not None else None
    if resource is not None:

        async def release() -> None:
            iomem.release(resource)

        port.release_actions.append(release)


def register_dport(port: CxlPort, path: str, number: int) -> CxlDport:
    """Note a downstream port and make its link."""
    dport = port.dports[path] = CxlDport(number, path, port.kernel.new_serial())
    port.kernel.register(dport)
    port.kernel.changed("cxl_dport", port, f"dport{number}")
    return dport


def remove_dport(port: CxlPort, dport: CxlDport) -> None:
    """Take a downstream port away."""
    del port.dports[dport.path]
    port.kernel.changed("cxl_dport", port, f"dport{dport.port_id}")
    port.kernel.unregister(dport)
