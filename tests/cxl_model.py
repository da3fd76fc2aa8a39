"""What the tests of CXL share: small machines with CXL hardware, and short names for what one does to them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fakesysfs.kernel.config import Config
from fakesysfs.kernel.cxl.core.hdm import CxlEndpointDecoder
from fakesysfs.kernel.cxl.core.port import CxlDecoder, CxlPort, CxlRootDecoder
from fakesysfs.kernel.cxl.core.region import CxlRegion
from fakesysfs.kernel.cxl.setup import CxlDeviceSetup, CxlSetup, CxlWindow
from fakesysfs.kernel.device import Driver
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.profile import PROFILES, Mmop
from fakesysfs.kernel.range import Range
from fakesysfs.kernel.setup import CxlRegionSetup, NodeSetup, Setup
from fakesysfs.ops.errors import KernelError
from tests.model import GIB, drive

QUARTER = 256 << 20
WINDOW = 16 * GIB
MODULES = ("cxl_pmem", "cxl_acpi", "cxl_mem", "cxl_pci", "device_dax", "dax_cxl", "kmem")


def device(bridge: int, path: tuple[str, ...], ports: tuple[int, ...], **more: int) -> CxlDeviceSetup:
    return CxlDeviceSetup(bridge=bridge, path=path, ports=ports, **{"ram": GIB, **more})


ONE = (device(12, ("0000:0c:00.0", "0000:0d:00.0"), (0,)),)
PMEM = (device(12, ("0000:0c:00.0", "0000:0d:00.0"), (0,), pmem=GIB),)
TWO_PORTS = (*ONE, device(12, ("0000:0c:01.0", "0000:0e:00.0"), (1,)))
TWO_BRIDGES = (*ONE, device(222, ("0000:de:00.0", "0000:df:00.0"), (0,)))
SWITCH = tuple(
    device(12, ("0000:0c:00.0", "0000:0d:00.0", f"0000:0e:0{port}.0", f"0000:{0xF + port:02x}:00.0"), (0, port))
    for port in (0, 1)
)


class Machine:
    """A booted kernel with CXL devices, and its files by their names on the CXL bus."""

    def __init__(
        self,
        devices: tuple[CxlDeviceSetup, ...],
        modules: tuple[str, ...],
        regions: tuple[CxlRegionSetup, ...] = (),
        *,
        decoding: bool = True,
    ) -> None:
        bridges = tuple(dict.fromkeys(entry.bridge for entry in devices))
        windows = [
            CxlWindow(range=self.span(number), targets=(bridge,), node=number + 1)
            for number, bridge in enumerate(bridges)
        ]
        if len(bridges) > 1:
            windows.append(
                CxlWindow(range=self.span(len(bridges)), targets=bridges, granularity=1024, node=len(bridges) + 1)
            )
        setup = Setup(
            block_size=128 << 20,
            nodes=(
                NodeSetup(nid=0, cpus=(0,), ranges=(Range(0, GIB - 1),)),
                *(NodeSetup(nid=number + 1) for number in range(len(windows))),
            ),
            cxl=CxlSetup(
                windows=tuple(windows),
                bridges=bridges,
                registers=(),
                devices=devices,
                memdevs=tuple(entry.path[-1] for entry in devices),
                decoding=frozenset(bridges if regions and decoding else ()),
            ),
            cxl_regions=regions,
            default_online_type=Mmop.ONLINE_MOVABLE,
            modules=tuple((module, ()) for module in modules),
            config=Config(kernel_allocations_on_hotplugged_nodes=False),
        )
        self.kernel = Kernel(setup, PROFILES["7.3"])
        drive(self.kernel.boot())

    @staticmethod
    def span(number: int) -> Range:
        start = WINDOW + number * 4 * GIB
        return Range(start, start + 4 * GIB - 1)

    def window(self, number: int = 0) -> CxlRootDecoder:
        found = self.kernel.cxl_bus.devices[f"decoder0.{number}"]
        assert isinstance(found, CxlRootDecoder)
        return found

    def region(self, number: int = 0) -> CxlRegion:
        found = self.kernel.cxl_bus.devices[f"region{number}"]
        assert isinstance(found, CxlRegion)
        return found

    def decoder(self, name: str) -> CxlDecoder:
        found = self.kernel.cxl_bus.devices[name]
        assert isinstance(found, CxlDecoder)
        return found

    def endpoint(self, name: str) -> CxlEndpointDecoder:
        found = self.kernel.cxl_bus.devices[name]
        assert isinstance(found, CxlEndpointDecoder)
        return found

    def port(self, name: str) -> CxlPort:
        found = self.kernel.cxl_bus.devices[name]
        assert isinstance(found, CxlPort)
        return found

    def driver(self, name: str) -> Driver:
        return self.kernel.cxl_bus.drivers[name]

    def bind(self, driver: str, name: str) -> None:
        drive(self.kernel.cxl_bus.bind_store(self.driver(driver), name.encode()))

    def unbind(self, driver: str, name: str) -> None:
        drive(self.kernel.cxl_bus.unbind_store(self.driver(driver), name.encode()))

    def create(self, window: int = 0, mode: str = "ram") -> CxlRegion:
        decoder = self.window(window)
        number = decoder.region_id
        assert self.kernel.cxl is not None
        drive(self.kernel.cxl.regions.create_region_store(decoder, mode, f"region{number}\n".encode()))
        return self.region(number)

    def delete(self, region: CxlRegion) -> None:
        assert self.kernel.cxl is not None
        drive(self.kernel.cxl.regions.delete_region_store(region.root_decoder, region.name.encode()))

    def sized(self, ways: int = 1, size: int = QUARTER, window: int = 0, granularity: int = 256) -> CxlRegion:
        region = self.create(window)
        region.interleave_granularity_store(b"%d" % granularity)
        region.interleave_ways_store(b"%d" % ways)
        region.size_store(b"%d" % (size * ways))
        return region

    def reserve(self, name: str, size: int = QUARTER, mode: str = "ram") -> CxlEndpointDecoder:
        decoder = self.endpoint(name)
        decoder.mode_store(mode.encode())
        decoder.dpa_size_store(b"%d" % size)
        return decoder

    def attach(self, region: CxlRegion, *names: str) -> None:
        for pos, name in enumerate(names):
            drive(region.target_store(pos, name.encode()))

    def committed(self, *names: str, window: int = 0, granularity: int = 256) -> CxlRegion:
        """A region of 256 MiB for each of these decoders, committed."""
        region = self.sized(len(names), window=window, granularity=granularity)
        for name in names:
            self.reserve(name)
        self.attach(region, *names)
        drive(region.commit_store(b"1"))
        return region

    def bound(self, *names: str) -> CxlRegion:
        region = self.committed(*names)
        self.bind("cxl_region", region.name)
        return region

    def events(self, after: int) -> list[str]:
        """`ACTION NAME` of each uevent since a sequence number."""
        found = [lines[0].partition("@") for lines in self.kernel.uevents.since(after)]
        return [f"{action} {path.rpartition('/')[2]}" for action, _, path in found]

    def iomem(self) -> list[str]:
        return [f"{'  ' * depth}{resource.name}" for depth, resource in self.kernel.iomem.walk()]


def refused(action: Callable[[], object]) -> str:
    """The name of the errno with which an action fails."""
    with pytest.raises(KernelError) as error:
        action()
    return error.value.name


def machine(
    devices: tuple[CxlDeviceSetup, ...] = ONE,
    modules: tuple[str, ...] = MODULES,
    regions: tuple[CxlRegionSetup, ...] = (),
    *,
    decoding: bool = True,
) -> Machine:
    """`decoding`: bridges with one root port have decoders if there are regions of firmware."""
    return Machine(devices, modules, regions, decoding=decoding)
