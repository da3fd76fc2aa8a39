"""The dax bus: regions, devices, their ranges and the attributes that change them (drivers/dax/bus.c).

A region is a piece of physical memory that a driver offers (hmem, cxl, pmem); devices are made of ranges of it. A
dynamic region lets a user create, delete and resize devices; a static one is one device for good. Space is given out
first-fit, in the gaps before, between and after what is taken (KERNEL.md 9, dev_dax_resize).
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, NamedTuple

from fakesysfs.kernel.device import Bus, Device, Driver
from fakesysfs.kernel.ida import Ida
from fakesysfs.kernel.kstrtox import c_string, kstrtobool, kstrtoint, kstrtoull, word_of
from fakesysfs.kernel.memory_hotplug import Range
from fakesysfs.kernel.profile import Mmop
from fakesysfs.ops.errors import KernelError

if TYPE_CHECKING:
    from fakesysfs.kernel.kernel import Kernel

PAGE_SIZE = 4096
COMPAT_ALIGN = 2 << 20
"""memremap_compat_align(): sizes are multiples of it whatever the device's alignment."""
ALIGNMENTS = (PAGE_SIZE, 2 << 20, 1 << 30)
_ID = re.compile(rb"dax(-?\d{1,10})\.(-?\d{1,10})")
_INT = range(-(1 << 31), 1 << 31)


class Allocation(NamedTuple):
    """A piece of a region that a device holds."""

    range: Range
    device: DevDax


class DaxRegion:
    """struct dax_region. `device` is the device whose driver offers it; the group dax_region/ is shown there."""

    def __init__(
        self, device: Device, number: int, span: Range, target_node: int, align: int, *, static: bool, kmem: bool
    ) -> None:
        self.kobj = self.device = device
        self.serial = 0
        self.index = 0
        self.id = number
        self.range = span
        self.target_node = target_node
        self.align = align
        self.static = static
        self.kmem = kmem
        """IORESOURCE_DAX_KMEM: kmem matches its devices by itself."""
        self.driver_at_start: str | None = None
        """The driver that the machine wants the first device bound to while it boots."""
        self.allocations: list[Allocation] = []
        """By address."""
        self.seed: DevDax | None = None
        """The first device made through `create` that was never bound."""
        self.youngest: DevDax | None = None
        """The last device made through `create`; the device that comes with the region is none of both."""
        self.ids = Ida()
        """The Y of the region's daxX.Y."""

    @property
    def available_size(self) -> int:
        """Bytes that no device holds."""
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
        """Take a range back."""
        self.allocations = [allocation for allocation in self.allocations if allocation.range != span]


class DaxMapping(Device):
    """The device `mappingN` of one range."""

    def __init__(self, kernel: Kernel, number: int, dev_dax: DevDax, span: Range, pgoff: int) -> None:
        super().__init__(kernel, f"mapping{number}", None, dev_dax)
        self.number = number
        self.range = span
        self.pgoff = pgoff
        """Pages of the device before this range."""


class DevDax(Device):
    """A dax device, `daxX.Y`."""

    def __init__(
        self, kernel: Kernel, region: DaxRegion, number: int, minor: int, online_type: Mmop, *, memmap_on_memory: bool
    ) -> None:
        super().__init__(kernel, f"dax{region.id}.{number}", kernel.dax_bus, region.device)
        self.region = region
        self.id = number
        self.minor = minor
        self.align = region.align
        self.target_node = region.target_node
        self.memmap_on_memory = memmap_on_memory
        self.online_type = online_type
        """The policy that creation gave it (patch 6)."""
        self.mappings: list[DaxMapping] = []
        """In the order of allocation, which is not that of addresses."""
        self.pgmap = False
        """A page map was set up and not taken down (drivers/dax/device.c)."""

    @property
    def size(self) -> int:
        """Bytes in all ranges."""
        return sum(mapping.range.length for mapping in self.mappings)

    @property
    def modalias(self) -> str:
        """All dax devices have the same."""
        return "dax:t0"

    def environment(self) -> list[str]:
        """Major, minor and name of the character device."""
        return [f"MAJOR={self.kernel.config.dax_major}", f"MINOR={self.minor}", f"DEVNAME={self.name}"]

    @property
    def resource(self) -> int:
        """The start of the first range, or of the region while there is none."""
        return self.mappings[0].range.start if self.mappings else self.region.range.start


class DaxDriver(Driver):
    """A driver on the dax bus: matches by region flag or by the ids written to `new_id`."""

    takes_kmem_regions = False

    def __init__(self, kernel: Kernel, module: str) -> None:
        super().__init__(kernel, kernel.dax_bus, module)
        self.ids: list[bytes] = []

    def matches(self, device: Device) -> bool:
        """By id, or by the region's kind (dax_bus_match)."""
        if not isinstance(device, DevDax):
            return False
        return device.name.encode() in self.ids or self.matches_kind(device)

    def matches_kind(self, dev_dax: DevDax) -> bool:
        """Only kmem takes regions flagged for it, device_dax the others, or all in a kernel without kmem.

        dax_match_type.
        """
        if not self.kernel.config.memory_hotplug:
            return not self.takes_kmem_regions
        return dev_dax.region.kmem == self.takes_kmem_regions

    async def probe(self, device: Device) -> None:
        """Refuse what has no size, else let the driver probe (dax_bus_probe)."""
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
        """A write to new_id: remembers the name and probes all that match now (do_id_store).

        Raises KernelError EINVAL.
        """
        name = self._parse(buffer)
        if name not in self.ids:
            self.ids.append(name)
        await self.bus.driver_attach(self)

    def remove_id_store(self, buffer: bytes) -> None:
        """A write to remove_id: forgets the name, known or not. Raises KernelError EINVAL."""
        name = self._parse(buffer)
        if name in self.ids:
            self.ids.remove(name)

    @staticmethod
    def _parse(buffer: bytes) -> bytes:
        text = c_string(buffer).removesuffix(b"\n")
        match = _ID.fullmatch(text)
        numbers = [int(group) for group in match.groups()] if match else []
        # Scanned as two ints and printed again: it must be the same text.
        if not numbers or not all(number in _INT for number in numbers) or text != b"dax%d.%d" % tuple(numbers):
            raise KernelError(errno.EINVAL, f"{word_of(buffer)!r} is not of the form daxX.Y", "do_id_store")
        return text


# Devices ----------------------------------------------------------------------------------------------------------


async def create_dev_dax(
    region: DaxRegion, size: int, *, memmap_on_memory: bool, online_type: Mmop | None = None
) -> DevDax:
    """Make a device of `size` bytes, 0 for an empty one (__devm_create_dev_dax).

    `online_type` is the region driver's policy; None takes the system's.
    """
    kernel = region.device.kernel
    if online_type is None:
        online_type = kernel.memory_hotplug.mhp_get_default_online_type()
    number = region.ids.take()
    dev_dax = DevDax(kernel, region, number, kernel.dax_minors.take(), online_type, memmap_on_memory=memmap_on_memory)
    if size:
        _alloc_range(dev_dax, Range(region.range.start, region.range.start + size - 1))
    for mapping in dev_dax.mappings:
        _register_mapping(mapping)
    await kernel.dax_bus.add(dev_dax)
    return dev_dax


async def unregister_dev_dax(dev_dax: DevDax) -> None:
    """Take a device away (unregister_dev_dax, free_dev_dax_ranges)."""
    region, kernel = dev_dax.region, dev_dax.kernel
    mappings = list(dev_dax.mappings)
    await kernel.dax_bus.detach(dev_dax)
    for mapping in reversed(mappings):
        _trim(mapping)
    await kernel.dax_bus.remove(dev_dax)
    region.ids.release(dev_dax.id)
    kernel.dax_minors.release(dev_dax.minor)


def _register_mapping(mapping: DaxMapping) -> None:
    kernel = mapping.kernel
    assert mapping.parent is not None
    mapping.serial = kernel.new_serial()
    kernel.register(mapping)
    mapping.parent.children[mapping.name] = mapping
    kernel.changed("mapping", mapping)


def _alloc_range(dev_dax: DevDax, span: Range) -> None:
    dev_dax.region.insert(span, dev_dax)
    used = {mapping.number for mapping in dev_dax.mappings}
    number = next(number for number in range(len(used) + 1) if number not in used)
    mapping = DaxMapping(dev_dax.kernel, number, dev_dax, span, dev_dax.size // PAGE_SIZE)
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
        raise KernelError(errno.ENXIO, "the region's driver is gone", where)


def size_store(dev_dax: DevDax, buffer: bytes) -> None:
    """A write to daxX.Y/size. Raises KernelError: EINVAL, ENXIO, EBUSY, ENOSPC in this order of checks."""
    size = kstrtoull(buffer, 0, "size_store")
    if not _aligned(dev_dax, size):
        raise KernelError(errno.EINVAL, f"{size} is no multiple of {max(dev_dax.align, COMPAT_ALIGN)}", "size_store")
    _region_alive(dev_dax, "size_store")
    if dev_dax.driver is not None:
        raise KernelError(errno.EBUSY, f"{dev_dax.name} is bound to {dev_dax.driver.name}", "dev_dax_resize")
    current = dev_dax.size
    if size < current:
        _shrink(dev_dax, current - size)
    elif size > current:
        if size - current > dev_dax.region.available_size:
            raise KernelError(errno.ENOSPC, "the region has not that much free", "dev_dax_resize")
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
    """Take one piece: before the first allocation, between two, after the last (dev_dax_resize's loop)."""
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
    raise KernelError(errno.ENOSPC, "the region has no gap left", "dev_dax_resize")


def align_store(dev_dax: DevDax, buffer: bytes) -> None:
    """A write to daxX.Y/align. Raises KernelError: ENXIO for junk, EINVAL, EBUSY."""
    align = kstrtoull(buffer, 0, "align_store", otherwise=errno.ENXIO)
    if align not in ALIGNMENTS:
        raise KernelError(errno.EINVAL, f"{align} is none of {', '.join(map(str, ALIGNMENTS))}", "align_store")
    _region_alive(dev_dax, "align_store")
    if dev_dax.driver is not None:
        raise KernelError(errno.EBUSY, f"{dev_dax.name} is bound to {dev_dax.driver.name}", "align_store")
    before, dev_dax.align = dev_dax.align, align
    if not _aligned(dev_dax, dev_dax.size) or any(not _aligned(dev_dax, m.range.length) for m in dev_dax.mappings):
        dev_dax.align = before
        raise KernelError(
            errno.EINVAL, f"a range of {dev_dax.name} is no multiple of {align}", "dev_dax_validate_align"
        )


def mapping_store(dev_dax: DevDax, buffer: bytes) -> None:
    """A write of "start-end" (hex) to daxX.Y/mapping.

    Raises KernelError: EINVAL for junk, ENXIO, ENOMEM for what is not free, EBUSY with a WARN for a length of 0 of a
    device that has a range already.

    A length that is not aligned does nothing and succeeds; a bound device is no obstacle (recorded).
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
                "drivers/dax/bus.c:<line> at alloc_dev_dax_range",
            )
            raise KernelError(errno.EBUSY, f"{dev_dax.name} has a range already", "alloc_dev_dax_range")
    elif _aligned(dev_dax, span.length):
        _alloc_range(dev_dax, span)


async def memmap_on_memory_store(dev_dax: DevDax, buffer: bytes) -> None:
    """A write to daxX.Y/memmap_on_memory. Raises KernelError: EINVAL, EOPNOTSUPP, EBUSY while kmem is bound.

    Waits while the device is being bound or unbound.
    """
    value = kstrtobool(buffer, "memmap_on_memory_store")
    if value and not dev_dax.kernel.memory_hotplug.parameters.memmap_on_memory:
        raise KernelError(errno.EOPNOTSUPP, "memory_hotplug.memmap_on_memory is off", "memmap_on_memory_store")
    async with dev_dax.lock:
        driver = dev_dax.driver
        if dev_dax.memmap_on_memory != value and isinstance(driver, DaxDriver) and driver.takes_kmem_regions:
            raise KernelError(errno.EBUSY, f"{dev_dax.name} is bound to {driver.name}", "memmap_on_memory_store")
        dev_dax.memmap_on_memory = value


async def create_store(region: DaxRegion, buffer: bytes) -> None:
    """A write of "1" to dax_region/create makes an empty device.

    Raises KernelError: EINVAL, ERANGE for a number of more than 32 bits, ENOSPC.
    """
    value = kstrtoint(buffer, 0, "create_store")
    if value != 1:
        raise KernelError(errno.EINVAL, f"{value} is not 1", "create_store")
    if not region.available_size:
        raise KernelError(errno.ENOSPC, "the region has nothing free", "create_store")
    region.youngest = await create_dev_dax(region, 0, memmap_on_memory=False)
    if region.seed is None:
        region.seed = region.youngest


async def delete_store(region: DaxRegion, buffer: bytes) -> None:
    """A write of a device's name to dax_region/delete.

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
            raise KernelError(errno.EBUSY, "the first device of a region stays", "delete_store")
    if region.seed is victim:
        region.seed = None
    if region.youngest is victim:
        region.youngest = None
    await unregister_dev_dax(victim)


def new_dax_bus(kernel: Kernel) -> Bus:
    """The bus."""
    return Bus(kernel, "dax")
