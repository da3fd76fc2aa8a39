"""The dax bus: regions, devices, their ranges and the attributes that change them.

drivers/dax/bus.c.

A region is a piece of physical memory that a driver offers (hmem, cxl, pmem). A device has ranges
of one region. A user can create, delete and resize the devices of a dynamic region; a static region
is one device. Space is allocated first-fit (KERNEL.md 9, dev_dax_resize).
"""

from __future__ import annotations

import errno
import re
from typing import NamedTuple

from fakesysfs.kernel.core import Core
from fakesysfs.kernel.device import Bus, Device, Driver
from fakesysfs.kernel.ida import Ida
from fakesysfs.kernel.kstrtox import c_string, kstrtobool, kstrtoint, kstrtoull, word_of
from fakesysfs.kernel.memory_hotplug import MemoryHotplug
from fakesysfs.kernel.profile import Mmop
from fakesysfs.kernel.range import Range
from fakesysfs.ops.errors import KernelError

PAGE_SIZE = 4096
COMPAT_ALIGN = 2 << 20
"""memremap_compat_align(): sizes are multiples of it, even if a device is aligned to less."""
ALIGNMENTS = (PAGE_SIZE, 2 << 20, 1 << 30)
_ID = re.compile(rb"dax(-?\d{1,10})\.(-?\d{1,10})")
_INT = range(-(1 << 31), 1 << 31)

WARN_PLACE = "drivers/dax/bus.c:867 at alloc_dev_dax_range"
"""Place of a WARN in the log. The line number is an example: it differs from build to build, and no
recording has one."""


class DaxBus(Bus):
    """The dax bus, with the minor numbers of its devices and the memory hotplug that they use."""

    def __init__(self, core: Core, memory_hotplug: MemoryHotplug) -> None:
        super().__init__(core, "dax")
        self.memory_hotplug = memory_hotplug
        self.minors = Ida()


class Allocation(NamedTuple):
    """A piece of a region that belongs to a device."""

    range: Range
    device: DevDax


class DaxRegion:
    """struct dax_region.

    The driver of `device` offers it; the group dax_region/ is in that device's directory.
    """

    def __init__(
        self,
        bus: DaxBus,
        device: Device,
        number: int,
        span: Range,
        target_node: int,
        align: int,
        *,
        static: bool,
        kmem: bool,
    ) -> None:
        self.bus = bus
        self.kobj = self.device = device
        self.serial = 0
        self.index = 0
        self.id = number
        self.range = span
        self.target_node = target_node
        self.align = align
        self.static = static
        self.kmem = kmem
        """IORESOURCE_DAX_KMEM: kmem matches its devices without new_id."""
        self.driver_at_start: str | None = None
        """The driver that boot binds the first device to."""
        self.allocations: list[Allocation] = []
        """Ascending by address."""
        self.seed: DevDax | None = None
        """The first device from `create` that was never bound.

        The region's own first device never is the seed.
        """
        self.youngest: DevDax | None = None
        """The last device from `create`. The region's own first device never is the youngest."""
        self.ids = Ida()
        """The numbers Y of the region's devices daxX.Y."""

    @property
    def available_size(self) -> int:
        """Bytes that belong to no device."""
        return self.range.length - sum(allocation.range.length for allocation in self.allocations)

    def devices(self) -> list[DevDax]:
        """The region's devices, in the order of creation."""
        return [child for child in self.device.children.values() if isinstance(child, DevDax)]

    def insert(self, span: Range, device: DevDax) -> None:
        """Give a device a range. Raises KernelError ENOMEM if it is not free (__request_region)."""
        taken = any(span.start <= other.range.end and other.range.start <= span.end for other in self.allocations)
        if taken or span.start < self.range.start or span.end > self.range.end or span.length <= 0:
            raise KernelError(errno.ENOMEM, "the range is not free in the region", "alloc_dev_dax_range")
        self.allocations.append(Allocation(span, device))
        self.allocations.sort()

    def remove(self, span: Range) -> None:
        """Free a range."""
        self.allocations = [allocation for allocation in self.allocations if allocation.range != span]


class DaxMapping(Device):
    """The device `mappingN`, for one range of a dax device."""

    def __init__(self, number: int, dev_dax: DevDax, span: Range, pgoff: int) -> None:
        super().__init__(dev_dax.kernel, f"mapping{number}", None, dev_dax)
        self.number = number
        self.range = span
        self.pgoff = pgoff
        """How many pages of the device are before this range."""


class DevDax(Device):
    """A dax device, `daxX.Y`."""

    def __init__(
        self, region: DaxRegion, number: int, minor: int, online_type: Mmop, *, memmap_on_memory: bool
    ) -> None:
        super().__init__(region.bus.kernel, f"dax{region.id}.{number}", region.bus, region.device)
        self.region = region
        self.id = number
        self.minor = minor
        self.align = region.align
        self.target_node = region.target_node
        self.memmap_on_memory = memmap_on_memory
        self.online_type = online_type
        """The policy at the creation of the device (patch 6)."""
        self.mappings: list[DaxMapping] = []
        """In the order of allocation, not of addresses."""
        self.pgmap = False
        """A page map exists (drivers/dax/device.c)."""

    @property
    def size(self) -> int:
        """Bytes of all ranges."""
        return sum(mapping.range.length for mapping in self.mappings)

    @property
    def modalias(self) -> str:
        """The same for all dax devices."""
        return "dax:t0"

    def environment(self) -> list[str]:
        """Major, minor and name of the character device."""
        return [f"MAJOR={self.kernel.config.dax_major}", f"MINOR={self.minor}", f"DEVNAME={self.name}"]

    @property
    def resource(self) -> int:
        """The start of the first range, or of the region if the device is empty."""
        return self.mappings[0].range.start if self.mappings else self.region.range.start


class DaxDriver(Driver):
    """A driver on the dax bus.

    It matches by the flag of the region, or by the ids written to `new_id`.
    """

    takes_kmem_regions = False

    def __init__(self, bus: DaxBus, module: str) -> None:
        super().__init__(bus, module)
        self.ids: list[bytes] = []

    def matches(self, device: Device) -> bool:
        """By id, or by the kind of the region (dax_bus_match)."""
        if not isinstance(device, DevDax):
            return False
        return device.name.encode() in self.ids or self.matches_kind(device)

    def matches_kind(self, dev_dax: DevDax) -> bool:
        """By the kind of the region (dax_match_type).

        kmem takes the regions with its flag, device_dax the other ones. In a kernel without kmem
        device_dax takes all.
        """
        if not self.kernel.config.memory_hotplug:
            return not self.takes_kmem_regions
        return dev_dax.region.kmem == self.takes_kmem_regions

    async def probe(self, device: Device) -> None:
        """Probe a device that is not empty (dax_bus_probe).

        Raises KernelError: ENXIO, or the error of the driver.
        """
        assert isinstance(device, DevDax)
        if not device.size:
            raise KernelError(errno.ENXIO, f"{device.name} has size 0", "dax_bus_probe")
        await self.probe_dax(device)
        if device.region.seed is device:
            device.region.seed = None

    async def probe_dax(self, dev_dax: DevDax) -> None:
        """The driver's own probe."""
        raise NotImplementedError

    async def new_id_store(self, buffer: bytes) -> None:
        """A write to new_id: adds the name and probes all devices that match now (do_id_store).

        Raises KernelError EINVAL.
        """
        name = self._parse(buffer)
        if name not in self.ids:
            self.ids.append(name)
        await self.bus.driver_attach(self)

    def remove_id_store(self, buffer: bytes) -> None:
        """A write to remove_id: removes the name, if it is there (do_id_store).

        Raises KernelError EINVAL.
        """
        name = self._parse(buffer)
        if name in self.ids:
            self.ids.remove(name)

    @staticmethod
    def _parse(buffer: bytes) -> bytes:
        text = c_string(buffer).removesuffix(b"\n")
        match = _ID.fullmatch(text)
        numbers = [int(group) for group in match.groups()] if match else []
        # Linux scans two ints, prints them again and compares the text.
        if not numbers or not all(number in _INT for number in numbers) or text != b"dax%d.%d" % tuple(numbers):
            raise KernelError(errno.EINVAL, f"{word_of(buffer)!r} is not of the form daxX.Y", "do_id_store")
        return text


# Devices ----------------------------------------------------------------------------------------------------------


async def create_dev_dax(
    region: DaxRegion, size: int, *, memmap_on_memory: bool, online_type: Mmop | None = None
) -> DevDax:
    """Make a device of `size` bytes, 0 for an empty one (__devm_create_dev_dax).

    `online_type` is the policy of the region's driver; None means the system's. Raises KernelError
    ENOMEM if the start of the region is not free.
    """
    bus = region.bus
    if online_type is None:
        online_type = bus.memory_hotplug.mhp_get_default_online_type()
    number = region.ids.take()
    dev_dax = DevDax(region, number, bus.minors.take(), online_type, memmap_on_memory=memmap_on_memory)
    if size:
        _alloc_range(dev_dax, Range(region.range.start, region.range.start + size - 1))
    for mapping in dev_dax.mappings:
        _register_mapping(mapping)
    await bus.add(dev_dax)
    return dev_dax


async def unregister_dev_dax(dev_dax: DevDax) -> None:
    """Unregister a device and free its ranges (unregister_dev_dax, free_dev_dax_ranges)."""
    region, bus = dev_dax.region, dev_dax.region.bus
    mappings = list(dev_dax.mappings)
    await bus.detach(dev_dax)
    for mapping in reversed(mappings):
        _trim(mapping)
    await bus.remove(dev_dax)
    region.ids.release(dev_dax.id)
    bus.minors.release(dev_dax.minor)


def _register_mapping(mapping: DaxMapping) -> None:
    core = mapping.kernel
    assert mapping.parent is not None
    mapping.serial = core.new_serial()
    core.register(mapping)
    mapping.parent.children[mapping.name] = mapping
    core.changed("mapping", mapping)


def _alloc_range(dev_dax: DevDax, span: Range) -> None:
    dev_dax.region.insert(span, dev_dax)
    used = {mapping.number for mapping in dev_dax.mappings}
    number = next(number for number in range(len(used) + 1) if number not in used)
    mapping = DaxMapping(number, dev_dax, span, dev_dax.size // PAGE_SIZE)
    dev_dax.mappings.append(mapping)
    if dev_dax.alive:
        _register_mapping(mapping)


def _trim(mapping: DaxMapping) -> None:
    dev_dax = mapping.parent
    assert isinstance(dev_dax, DevDax)
    dev_dax.mappings.remove(mapping)
    dev_dax.region.remove(mapping.range)
    dev_dax.children.pop(mapping.name, None)
    dev_dax.kernel.changed("mapping", mapping)
    dev_dax.kernel.unregister(mapping)
    mapping.serial = 0


def _adjust(mapping: DaxMapping, length: int) -> None:
    dev_dax = mapping.parent
    assert isinstance(dev_dax, DevDax)
    dev_dax.region.remove(mapping.range)
    mapping.range = Range(mapping.range.start, mapping.range.start + length - 1)
    dev_dax.region.insert(mapping.range, dev_dax)


# Attributes -------------------------------------------------------------------------------------------------------


def _aligned(dev_dax: DevDax, size: int) -> bool:
    return size % max(dev_dax.align, COMPAT_ALIGN) == 0


def _region_alive(dev_dax: DevDax, where: str) -> None:
    if dev_dax.region.device.driver is None:
        raise KernelError(errno.ENXIO, "the region has lost its driver", where)


def size_store(dev_dax: DevDax, buffer: bytes) -> None:
    """A write to daxX.Y/size.

    Raises KernelError, checked in this order: EINVAL, ENXIO, EBUSY, ENOSPC.
    """
    size = kstrtoull(buffer, 0, "size_store")
    if not _aligned(dev_dax, size):
        raise KernelError(errno.EINVAL, f"{size} is not a multiple of {max(dev_dax.align, COMPAT_ALIGN)}", "size_store")
    _region_alive(dev_dax, "size_store")
    if dev_dax.driver is not None:
        raise KernelError(errno.EBUSY, f"{dev_dax.name} is bound to {dev_dax.driver.name}", "dev_dax_resize")
    current = dev_dax.size
    if size < current:
        _shrink(dev_dax, current - size)
    elif size > current:
        if size - current > dev_dax.region.available_size:
            raise KernelError(errno.ENOSPC, "the region does not have that much free space", "dev_dax_resize")
        _grow(dev_dax, size - current)


def _shrink(dev_dax: DevDax, to_shrink: int) -> None:
    for mapping in reversed(list(dev_dax.mappings)):
        if to_shrink >= mapping.range.length:
            to_shrink -= mapping.range.length
            _trim(mapping)
        else:
            _adjust(mapping, mapping.range.length - to_shrink)
            to_shrink = 0
        if not to_shrink:
            break


def _grow(dev_dax: DevDax, to_alloc: int) -> None:
    while to_alloc:
        to_alloc -= _grow_once(dev_dax, to_alloc)


def _grow_once(dev_dax: DevDax, wanted: int) -> int:
    """Allocate the first free piece of up to `wanted` bytes; returns its size.

    the loop of dev_dax_resize.
    """
    region = dev_dax.region
    taken = region.allocations
    if not taken:
        _alloc_range(dev_dax, Range(region.range.start, region.range.start + wanted - 1))
        return wanted
    if taken[0].range.start > region.range.start:
        length = min(taken[0].range.start - region.range.start, wanted)
        _alloc_range(dev_dax, Range(region.range.start, region.range.start + length - 1))
        return length
    for position, (span, owner) in enumerate(taken):
        end = taken[position + 1].range.start if position + 1 < len(taken) else region.range.end + 1
        gap = min(end - span.end - 1, wanted)
        if gap <= 0:
            continue
        last = dev_dax.mappings[-1] if dev_dax.mappings else None
        if owner is dev_dax and last is not None and last.range == span:
            _adjust(last, span.length + gap)
        else:
            _alloc_range(dev_dax, Range(span.end + 1, span.end + gap))
        return gap
    raise KernelError(errno.ENOSPC, "the region has no free space left", "dev_dax_resize")


def align_store(dev_dax: DevDax, buffer: bytes) -> None:
    """A write to daxX.Y/align. Raises KernelError: ENXIO for any text that is no 64-bit number, EINVAL, EBUSY."""
    align = kstrtoull(buffer, 0, "align_store", otherwise=errno.ENXIO)
    if align not in ALIGNMENTS:
        raise KernelError(errno.EINVAL, f"{align} is not one of {', '.join(map(str, ALIGNMENTS))}", "align_store")
    _region_alive(dev_dax, "align_store")
    if dev_dax.driver is not None:
        raise KernelError(errno.EBUSY, f"{dev_dax.name} is bound to {dev_dax.driver.name}", "align_store")
    before, dev_dax.align = dev_dax.align, align
    if not _aligned(dev_dax, dev_dax.size) or any(not _aligned(dev_dax, m.range.length) for m in dev_dax.mappings):
        dev_dax.align = before
        raise KernelError(
            errno.EINVAL, f"a range of {dev_dax.name} is not a multiple of {align}", "dev_dax_validate_align"
        )


def mapping_store(dev_dax: DevDax, buffer: bytes) -> None:
    """A write of "start-end" (hex) to daxX.Y/mapping.

    A length that is not aligned succeeds without effect. The device may be bound (recorded). Raises
    KernelError: EINVAL for junk, ENXIO, ENOMEM for a range that is not free, EBUSY with a WARN for
    a length of 0 if the device already has a range.
    """
    start_text, dash, end_text = c_string(buffer).removesuffix(b"\n").partition(b"-")
    if not dash:
        raise KernelError(errno.EINVAL, f"{word_of(buffer)!r} is not of the form start-end", "range_parse")
    start = kstrtoull(start_text, 16, "range_parse")
    end = kstrtoull(end_text, 16, "range_parse")
    _region_alive(dev_dax, "mapping_store")
    span = Range(start, end)
    if not span.length:
        if dev_dax.mappings:
            driver = dev_dax.driver.name if dev_dax.driver else "dax"
            dev_dax.kernel.warn_once(
                f"{driver} {dev_dax.name}: 0-size allocation must be first",
                WARN_PLACE,
            )
            raise KernelError(errno.EBUSY, f"{dev_dax.name} already has a range", "alloc_dev_dax_range")
    elif _aligned(dev_dax, span.length):
        _alloc_range(dev_dax, span)


async def memmap_on_memory_store(dev_dax: DevDax, buffer: bytes) -> None:
    """A write to daxX.Y/memmap_on_memory.

    Raises KernelError: EINVAL, EOPNOTSUPP, EBUSY while kmem is bound.

    Waits while the device is being bound or unbound.
    """
    value = kstrtobool(buffer, "memmap_on_memory_store")
    if value and not dev_dax.region.bus.memory_hotplug.parameters.memmap_on_memory:
        raise KernelError(errno.EOPNOTSUPP, "memory_hotplug.memmap_on_memory is off", "memmap_on_memory_store")
    async with dev_dax.lock:
        driver = dev_dax.driver
        if dev_dax.memmap_on_memory != value and isinstance(driver, DaxDriver) and driver.takes_kmem_regions:
            raise KernelError(errno.EBUSY, f"{dev_dax.name} is bound to {driver.name}", "memmap_on_memory_store")
        dev_dax.memmap_on_memory = value


async def create_store(region: DaxRegion, buffer: bytes) -> None:
    """A write of "1" to dax_region/create: makes an empty device.

    Raises KernelError: EINVAL, ERANGE for a number of more than 32 bits, ENOSPC.
    """
    value = kstrtoint(buffer, 0, "create_store")
    if value != 1:
        raise KernelError(errno.EINVAL, f"{value} is not 1", "create_store")
    if not region.available_size:
        raise KernelError(errno.ENOSPC, "the region has no free space", "create_store")
    region.youngest = await create_dev_dax(region, 0, memmap_on_memory=False)
    if region.seed is None:
        region.seed = region.youngest


async def delete_store(region: DaxRegion, buffer: bytes) -> None:
    """A write of a device's name to dax_region/delete: removes the device.

    Raises KernelError: ENXIO, EBUSY (bound, not empty, or daxX.0).
    """
    name = word_of(buffer)
    victim = next((device for device in region.devices() if device.name == name), None)
    if victim is None:
        raise KernelError(errno.ENXIO, f"the region has no device {name!r}", "delete_store")
    async with victim.lock:
        if victim.driver is not None or victim.size:
            raise KernelError(errno.EBUSY, f"{name} is bound or not empty", "delete_store")
        if not victim.id:
            raise KernelError(errno.EBUSY, "the first device of a region cannot be deleted", "delete_store")
    if region.seed is victim:
        region.seed = None
    if region.youngest is victim:
        region.youngest = None
    await unregister_dev_dax(victim)
