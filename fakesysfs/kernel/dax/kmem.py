"""kmem: dax devices as system memory, and the whole-device attribute.

drivers/dax/kmem.c and the series in its forms.

A bound device has a state. It is unplugged (its memory blocks do not exist), or plugged as one of
the online types (offline: the blocks exist and are offline). The probe or a write sets the state;
it never follows from the states of the blocks. The profile has the states and their words. The
transitions are:

    written, state:   unplugged   offline   online_X           online_Y
    unplug            nothing     unplug    unplug             unplug
    online_X          plug        EBUSY     nothing (success)  EBUSY

A write takes the active reference of the attribute, then the device's kmem mutex (uninterruptible),
then device_hotplug_lock. It parses the word before it takes a lock. So an unknown word fails at
once, even while another writer is stuck. A read takes no lock.

The functions bear the names in patches 7 and 8 of the series.
"""

from __future__ import annotations

import errno

from fakesysfs.kernel.dax.bus import DaxBus, DaxDriver, DevDax
from fakesysfs.kernel.device import Device
from fakesysfs.kernel.kstrtox import sysfs_match_string
from fakesysfs.kernel.memory_block import MemoryGroup
from fakesysfs.kernel.memory_tiers import MEMTIER_DEFAULT_LOWTIER_ADISTANCE, MemoryDevType, MemoryTiers
from fakesysfs.kernel.node import Nodes
from fakesysfs.kernel.printk import ERR, INFO, WARNING
from fakesysfs.kernel.profile import (
    DAX_KMEM_UNPLUGGED,
    Mmop,
    PolicyCaptured,
    RangeFailure,
    Reservation,
    Reserving,
    Unbind,
)
from fakesysfs.kernel.range import Range
from fakesysfs.kernel.resource import IomemResource, Resource
from fakesysfs.kernel.zones import PAGE_SHIFT
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import ActiveReferences, Mutex, Preempt, ask

KMEM_NAME = "System RAM (kmem)"
FREED_NAME = "freed"
"""Stands in /proc/iomem for a name that the posted series frees too early.

A real kernel shows arbitrary bytes.
"""

WARN_PLACE = "drivers/dax/kmem.c:353 at dax_kmem_cleanup_resources [kmem]"
"""Place of a WARN in the log.

The line number is an example: it differs from build to build, and the recordings have no number.
"""


def memory_block_align_range(span: Range, block_size: int) -> Range:
    """The whole memory blocks inside a range (patch 2). Without any, the end is below the start."""
    start = -(-span.start // block_size) * block_size
    end = (span.end + 1) // block_size * block_size - 1
    return Range(start, end)


class DaxKmemData:
    """struct dax_kmem_data: kmem's data of a bound device. `block_size` is in bytes."""

    def __init__(self, dev_dax: DevDax, mtype: MemoryDevType, block_size: int) -> None:
        self.kobj = self.dev_dax = dev_dax
        self.serial = 0
        self.index = 0
        self.mtype = mtype
        self.state: int = DAX_KMEM_UNPLUGGED
        self.lock = Mutex(f"{dev_dax.name} kmem", dev_dax.kernel.lock_observers)
        self.stores = ActiveReferences()
        self.resources: dict[int, Resource] = {}
        """The reservations in /proc/iomem, by the number of the mapping."""
        self._block_size = block_size
        total = sum(span.length for _, span in self.usable())
        self.memory_group = MemoryGroup(dev_dax.target_node, total >> PAGE_SHIFT)
        """The whole blocks of all mappings at the time of the probe."""

    @property
    def attribute_exists(self) -> bool:
        """Does the whole-device attribute exist?"""
        return self.serial != 0

    @property
    def ranges(self) -> list[Range | None]:
        """For each mapping its whole memory blocks, None without any (dax_kmem_range).

        A user can add a mapping to a bound device (mapping_store does not check). The next plug
        includes it.
        """
        aligned = (memory_block_align_range(mapping.range, self._block_size) for mapping in self.dev_dax.mappings)
        return [span if span.start < span.end else None for span in aligned]

    def usable(self) -> list[tuple[int, Range]]:
        """(number, whole blocks) of each mapping that has whole blocks."""
        return [(number, span) for number, span in enumerate(self.ranges) if span is not None]

    def reserved(self) -> list[tuple[int, Range]]:
        """(number, whole blocks) of each mapping that is reserved."""
        return [(number, span) for number, span in self.usable() if number in self.resources]


class Kmem(DaxDriver):
    """The driver kmem."""

    name = "kmem"
    takes_kmem_regions = True

    def __init__(
        self, bus: DaxBus, module: str, nodes: Nodes, tiers: MemoryTiers, iomem: IomemResource, block_size: int
    ) -> None:
        super().__init__(bus, module)
        self._memory_hotplug = bus.memory_hotplug
        self._nodes = nodes
        self._tiers = tiers
        self._iomem = iomem
        self._block_size = block_size

    # Probe --------------------------------------------------------------------------------------------------------

    async def probe_dax(self, dev_dax: DevDax) -> None:
        """Reserve the ranges, add the memory and online it by the policy (dev_dax_kmem_probe).

        Raises KernelError: EINVAL for an unknown node, no whole block or a policy that the driver
        cannot plug with; EBUSY for a range that is taken.
        """
        core, profile, tiers = self.kernel, self.kernel.profile, self._tiers
        if dev_dax.target_node not in self._nodes:
            core.printk(WARNING, f"kmem {dev_dax.name}: rejecting DAX region with invalid node: {dev_dax.target_node}")
            raise KernelError(errno.EINVAL, f"unknown node {dev_dax.target_node}", "dev_dax_kmem_probe")
        adistance = tiers.mt_calc_adistance(dev_dax.target_node, MEMTIER_DEFAULT_LOWTIER_ADISTANCE)
        data = DaxKmemData(dev_dax, tiers.mt_get_memory_type(adistance), self._block_size)
        self._check_ranges(data)
        tiers.init_node_memory_type(dev_dax.target_node, data.mtype)
        try:
            plugged_as = self._type_at_probe(dev_dax)
            if profile.reserving is not Reserving.EACH_BEFORE_ITS_ADD:
                self.dax_kmem_init_resources(data)
            if plugged_as is not None:
                await self.dax_kmem_do_hotplug(data, plugged_as)
                data.state = self._state_of(plugged_as)
        except KernelError:
            self._release(data)
            tiers.clear_node_memory_type(dev_dax.target_node, data.mtype)
            raise
        dev_dax.driver_data = data
        if profile.attribute is not None:
            data.serial = core.new_serial()
            core.register(data)
            core.changed("hotplug", dev_dax)

    def _type_at_probe(self, dev_dax: DevDax) -> Mmop | None:
        """The online type at bind, None if the device starts unplugged."""
        profile = self.kernel.profile
        system = self._memory_hotplug.mhp_get_default_online_type()
        if profile.policy_captured is not PolicyCaptured.AT_CREATION:
            return system
        created = dev_dax.online_type
        if profile.created_offline_stays_unplugged and created is Mmop.OFFLINE and created is not system:
            return None
        return created

    def _state_of(self, online_type: Mmop) -> int:
        """The state after a plug: the first one that reads as the same word as the online type."""
        words = self.kernel.profile.words_read
        word = words.get(online_type)
        return next((state for state in words if words[state] == word), online_type)

    def _check_ranges(self, data: DaxKmemData) -> None:
        printk, dev_dax = self.kernel.printk, data.dev_dax
        total = original = 0
        for number, (mapping, aligned) in enumerate(zip(dev_dax.mappings, data.ranges, strict=True)):
            span = mapping.range
            original += span.length
            if aligned is None:
                printk(
                    INFO,
                    f"kmem {dev_dax.name}: mapping{number}: {span.start:#x}-{span.end:#x} too small after alignment",
                )
            else:
                total += aligned.length
        if not total:
            printk(WARNING, f"kmem {dev_dax.name}: rejecting DAX region without any memory after alignment")
            raise KernelError(errno.EINVAL, "no range has a whole memory block", "dev_dax_kmem_probe")
        if total != original:
            printk(
                WARNING,
                f"kmem {dev_dax.name}: DAX region truncated by {string_get_size(original - total)} due to alignment",
            )

    # Resources (patch 7) --------------------------------------------------------------------------------------------

    def dax_kmem_init_resources(self, data: DaxKmemData) -> None:
        """Reserve the ranges that are not reserved.

        After a failure the caller releases the new reservations. Raises KernelError EBUSY, and logs
        it, if a range is taken and the profile does not skip it.
        """
        mapped = False
        for number, span in data.usable():
            if number not in data.resources:
                mapped |= self._reserve(data, number, span, "dax_kmem_init_resources", mapped=mapped)

    def _reserve(self, data: DaxKmemData, number: int, span: Range, where: str, *, mapped: bool) -> bool:
        """Reserve one range.

        Returns False for a range that is taken if the profile skips it because others are `mapped`.
        """
        core, name = self.kernel, data.dev_dax.name
        resource = self._iomem.request_region(span.start, span.end, name)
        if resource is None:
            core.printk(
                WARNING, f"kmem {name}: mapping{number}: {span.start:#x}-{span.end:#x} could not reserve region"
            )
            if mapped and core.profile.range_failure is RangeFailure.SKIP_LATER:
                return False
            raise KernelError(errno.EBUSY, f"mapping{number} is taken by another resource", where)
        resource.busy = False
        data.resources[number] = resource
        return True

    def _release(self, data: DaxKmemData, *numbers: int) -> None:
        """Release the reservations of these mappings, without arguments all."""
        for number in numbers or list(data.resources):
            self._iomem.release(data.resources.pop(number))

    # Hotplug and hotremove (patches 7 and 8) ------------------------------------------------------------------------

    async def dax_kmem_do_hotplug(self, data: DaxKmemData, online_type: Mmop) -> None:
        """Add the memory of every range and online it.

        Raises KernelError: EINVAL for a type that the driver cannot plug with, or the error of the
        range that failed.
        """
        core, profile, dev_dax = self.kernel, self.kernel.profile, data.dev_dax
        if online_type not in profile.plug_types:
            raise KernelError(
                errno.EINVAL, f"kmem cannot plug memory as {online_type.name.lower()}", "dax_kmem_do_hotplug"
            )
        at_add = None if profile.policy_captured is PolicyCaptured.AT_ADD else online_type
        added: list[Range] = []
        for number, span in data.usable():
            if profile.reserving is Reserving.EACH_BEFORE_ITS_ADD:
                self._reserve(data, number, span, "dev_dax_kmem_probe", mapped=bool(added))
            if number not in data.resources and profile.reserving is not Reserving.ALL_FIRST_UNHEEDED:
                continue
            try:
                await self._memory_hotplug.add_memory_driver_managed(
                    data.memory_group, span, KMEM_NAME, at_add, memmap_on_memory=dev_dax.memmap_on_memory
                )
            except KernelError:
                core.printk(
                    WARNING, f"kmem {dev_dax.name}: mapping{number}: {span.start:#x}-{span.end:#x} memory add failed"
                )
                if profile.range_failure is RangeFailure.UNDO_ALL:
                    await self._undo(added)
                    raise
                if profile.reserving is not Reserving.ALL_FIRST_UNHEEDED:
                    self._release(data, number)
                if added:
                    continue
                raise
            added.append(span)

    async def _undo(self, added: list[Range]) -> None:
        try:
            await self._memory_hotplug.offline_and_remove_memory(added)
        except KernelError as error:
            self.kernel.note_ignored(error)

    async def dax_kmem_do_hotremove(self, data: DaxKmemData) -> None:
        """Offline and remove the memory of every range, then set the state to unplugged.

        Raises KernelError: EBUSY without MEMORY_HOTREMOVE, or the error of the first block that
        failed. Range by range, a failure is only logged.
        """
        core = self.kernel
        if not core.config.memory_hotremove:
            if core.profile.unplug_failure_names_range:
                core.printk(WARNING, f"kmem {data.dev_dax.name}: hotplug state is inconsistent")
            raise KernelError(errno.EBUSY, "the kernel was built without MEMORY_HOTREMOVE", "dax_kmem_do_hotremove")
        if core.profile.unplug_all_ranges_at_once:
            await self._hotremove_at_once(data)
        else:
            await self._hotremove_range_by_range(data)

    async def _hotremove_at_once(self, data: DaxKmemData) -> None:
        core, name = self.kernel, data.dev_dax.name
        plugged = data.reserved()
        try:
            await self._memory_hotplug.offline_and_remove_memory([span for _, span in plugged])
        except KernelError as error:
            if core.profile.unplug_failure_names_range:
                number, span = self._failing_range(plugged, error)
                core.printk(ERR, f"kmem {name}: mapping{number}: {span.start:#x}-{span.end:#x} hotremove failed")
            else:
                core.printk(ERR, f"kmem {name}: hotremove failed, device left online: {-error.errno}")
            raise
        if core.profile.reservation is Reservation.WHILE_PLUGGED:
            self._release(data)
        data.state = DAX_KMEM_UNPLUGGED

    def _failing_range(self, plugged: list[tuple[int, Range]], error: KernelError) -> tuple[int, Range]:
        """The mapping with the block that failed."""
        size = self._block_size
        block = error.block
        for number, span in plugged:
            if block is not None and span.start <= block * size <= span.end:
                return number, span
        return plugged[0]

    async def _hotremove_range_by_range(self, data: DaxKmemData) -> None:
        """Unplug range by range, as in the posted series (KERNEL.md 7).

        Each removed range loses its reservation. A failed range does not stop the others.
        """
        core, name = self.kernel, data.dev_dax.name
        success = 0
        for number, span in data.reserved():
            if core.device_hotplug_lock.wanted:
                # The lock is free between two ranges, so a writer that waits for it runs now (KERNEL.md 7, bug 10).
                await ask(Preempt("hotremove_range"))
            try:
                await self._memory_hotplug.offline_and_remove_memory([span])
            except KernelError as error:
                core.note_ignored(error)
                core.printk(ERR, f"kmem {name}: mapping{number}: {span.start:#x}-{span.end:#x} hotremove failed")
                continue
            self._release(data, number)
            success += 1
        wanted = len(data.ranges) if core.profile.unplug_counts_skipped_ranges else len(data.usable())
        if success < wanted:
            core.printk(WARNING, f"kmem {name}: partial hotremove: {success} of {wanted} ranges removed")
        else:
            data.state = DAX_KMEM_UNPLUGGED

    # Remove -------------------------------------------------------------------------------------------------------

    async def remove(self, device: Device) -> None:
        """Release a device (dev_dax_kmem_remove).

        First it removes the attribute and waits for its writers.
        """
        assert isinstance(device, DevDax)
        core, data = self.kernel, device.driver_data
        assert isinstance(data, DaxKmemData)
        if data.attribute_exists:
            core.unregister(data)
            data.serial = 0
            core.changed("hotplug", device)
            await data.stores.drain()
        device.driver_data = None
        if not core.config.memory_hotremove:
            return  # Linux leaks the reservation and the memory on purpose
        if core.profile.unbind is Unbind.WARN_UNLESS_OFFLINE and data.state not in {DAX_KMEM_UNPLUGGED, Mmop.OFFLINE}:
            self._leak_with_warning(data)
            return
        if data.state == DAX_KMEM_UNPLUGGED or await self._remove_memory(data):
            self._release(data)
            self._tiers.clear_node_memory_type(
                device.target_node, None if core.profile.unbind_drops_any_memory_type else data.mtype
            )

    def _leak_with_warning(self, data: DaxKmemData) -> None:
        """Leave a plugged device's memory in place until reboot, as the series does.

        dax_kmem_cleanup_resources.
        """
        core = self.kernel
        core.warn("Hotplug memory regions stuck online until reboot", WARN_PLACE)
        if core.profile.leak_frees_name:
            for resource in data.resources.values():
                resource.name = FREED_NAME
        if core.profile.leak_forgets_memory_type:
            self._tiers.clear_node_memory_type(data.dev_dax.target_node, data.mtype)

    async def _remove_memory(self, data: DaxKmemData) -> bool:
        """Remove the ranges whose blocks are all offline; returns whether it removed all ranges."""
        core, name = self.kernel, data.dev_dax.name
        stock = core.profile.unbind is Unbind.REMOVE_STOCK
        leaked = False
        for number, span in data.reserved():
            try:
                await self._memory_hotplug.remove_memory(span)
            except KernelError as error:
                core.note_ignored(error)
                leaked = True
                core.printk(
                    ERR if stock else WARNING,
                    f"kmem {name}: mapping{number}: {span.start:#x}-{span.end:#x} "
                    + ("cannot be hotremoved until the next reboot" if stock else "stuck online until reboot"),
                )
            else:
                self._release(data, number)
        if leaked and not stock:
            core.printk(ERR, f"kmem {name}: Hotplug regions stuck online until reboot")
        return not leaked

    # The attribute (patch 8) ------------------------------------------------------------------------------------------

    def dax_kmem_parse_state(self, buffer: bytes) -> int:
        """The state for a written word.

        Raises KernelError EINVAL for a word that the profile does not have.
        """
        return sysfs_match_string(self.kernel.profile.words_written, buffer, "dax_kmem_parse_state")

    def hotplug_show(self, dev_dax: DevDax) -> str:
        """The word for the state. Takes no lock. Raises KernelError ENXIO if kmem is not bound."""
        data = dev_dax.driver_data
        if not isinstance(data, DaxKmemData):
            raise KernelError(errno.ENXIO, f"{dev_dax.name} has no kmem data", "hotplug_show")
        return self.kernel.profile.words_read.get(data.state, "unknown")

    async def hotplug_store(self, dev_dax: DevDax, buffer: bytes) -> None:
        """A write to the attribute, by the table above.

        Raises KernelError: ENXIO if kmem is not bound, EINVAL, EBUSY, or the error of the
        transition.
        """
        data = dev_dax.driver_data
        if not isinstance(data, DaxKmemData):
            raise KernelError(errno.ENXIO, f"{dev_dax.name} has no kmem data", "hotplug_store")
        with data.stores:
            wanted = self.dax_kmem_parse_state(buffer)
            async with data.lock:
                if wanted == data.state:
                    return
                if wanted == DAX_KMEM_UNPLUGGED:
                    await self.dax_kmem_do_hotremove(data)
                elif data.state != DAX_KMEM_UNPLUGGED:
                    state = self.kernel.profile.words_read.get(data.state, "plugged")
                    raise KernelError(errno.EBUSY, f"{dev_dax.name} is {state}: unplug it first", "hotplug_store")
                else:
                    await self._plug(data, Mmop(wanted))
                    data.state = wanted

    async def _plug(self, data: DaxKmemData, online_type: Mmop) -> None:
        """Reserve the ranges, if the profile does so after the probe, and add the memory."""
        held = set(data.resources)
        try:
            if self.kernel.profile.reservation is not Reservation.UNTIL_FIRST_UNPLUG:
                self.dax_kmem_init_resources(data)
            await self.dax_kmem_do_hotplug(data, online_type)
        except KernelError:
            for number in set(data.resources) - held:
                self._release(data, number)
            raise


def check_kmem_protected(bus: DaxBus, index: int, block_size: int, where: str) -> None:
    """With DEV_DAX_KMEM_PROTECTED only kmem changes the blocks of its devices (KERNEL.md 8).

    Raises KernelError EBUSY for the state of such a block.
    """
    if not bus.kernel.config.dev_dax_kmem_protected:
        return
    address = index * block_size
    for device in bus.devices.values():
        data = device.driver_data
        if isinstance(data, DaxKmemData) and any(span.start <= address <= span.end for _, span in data.usable()):
            raise KernelError(
                errno.EBUSY, f"memory{index} belongs to {device.name} (DEV_DAX_KMEM_PROTECTED)", where, index
            )


_KIB = 1024
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_THREE_DIGITS = 100
_TWO_DIGITS = 10


def string_get_size(size: int) -> str:
    """A size as the kernel prints it, three significant digits: 216 MiB, 64.0 MiB, 8.00 MiB.

    lib/string_helpers.c.
    """
    unit, divisor = 0, 1
    while size // divisor >= _KIB and unit < len(_UNITS) - 1:
        unit += 1
        divisor *= _KIB
    if not unit:
        return f"{size} B"
    whole = size // divisor
    digits = 0 if whole >= _THREE_DIGITS else 1 if whole >= _TWO_DIGITS else 2
    scaled = (size * 10**digits * 2 + divisor) // (divisor * 2)
    text = str(scaled)
    number = f"{text[:-digits]}.{text[-digits:]}" if digits else text
    return f"{number} {_UNITS[unit]}"
