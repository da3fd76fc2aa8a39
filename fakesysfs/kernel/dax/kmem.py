"""kmem: dax devices as system memory, and the whole-device attribute (drivers/dax/kmem.c and the series in its forms).

A bound device has a state: unplugged (its memory blocks do not exist), or plugged as one of the online types (offline:
the blocks exist and are offline). The state is what was last decided or written; it is never derived from the blocks.
Which states, words and promises there are is the profile's; the transitions are one table:

    asked, in state:  unplugged   offline   online_X           online_Y
    unplug            nothing     unplug    unplug             unplug
    online_X          plug        EBUSY     nothing (success)  EBUSY

Locks: active reference of the attribute, then the device's kmem mutex (uninterruptible), then device_hotplug_lock.
Words are read before any lock, so junk is refused at once even while another writer is stuck; reading the attribute
takes no lock.

The functions have the names of the series' patches 7 and 8.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from fakesysfs.kernel.dax.bus import DaxDriver, DevDax
from fakesysfs.kernel.kstrtox import sysfs_match_string
from fakesysfs.kernel.memory_hotplug import Range
from fakesysfs.kernel.memory_tiers import MEMTIER_DEFAULT_LOWTIER_ADISTANCE, MemoryDevType
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
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import ActiveReferences, Mutex, Preempt, ask

if TYPE_CHECKING:
    from fakesysfs.kernel.device import Device
    from fakesysfs.kernel.kernel import Kernel
    from fakesysfs.kernel.resource import Resource

KMEM_NAME = "System RAM (kmem)"
FREED_NAME = "freed"
"""What /proc/iomem shows for a name that the posted series frees too early: in a real kernel arbitrary bytes."""

TAINT_WARN = 512


def memory_block_align_range(span: Range, block_size: int) -> Range:
    """The whole memory blocks inside a range (patch 2); its end is below its start if there are none."""
    start = -(-span.start // block_size) * block_size
    end = (span.end + 1) // block_size * block_size - 1
    return Range(start, end)


class DaxKmemData:
    """struct dax_kmem_data: what kmem keeps of a bound device."""

    def __init__(self, kernel: Kernel, dev_dax: DevDax, mtype: MemoryDevType) -> None:
        self.kobj = self.dev_dax = dev_dax
        self.serial = 0
        self.index = 0
        self.mtype = mtype
        self.state: int = DAX_KMEM_UNPLUGGED
        self.lock = Mutex(f"{dev_dax.name} kmem")
        self.stores = ActiveReferences()
        self.resources: dict[int, Resource] = {}
        """What is reserved in /proc/iomem, by number of the mapping."""
        self._block_size = kernel.memory_blocks.block_size

    @property
    def attribute_exists(self) -> bool:
        """Is the whole-device attribute there?"""
        return self.serial != 0

    @property
    def ranges(self) -> list[Range | None]:
        """By mapping: its whole memory blocks, None for a range without any (dax_kmem_range).

        A bound device may get another mapping, which the next plug finds (mapping_store has no check).
        """
        aligned = (memory_block_align_range(mapping.range, self._block_size) for mapping in self.dev_dax.mappings)
        return [span if span.start < span.end else None for span in aligned]

    def usable(self) -> list[tuple[int, Range]]:
        """(number of the mapping, its whole blocks) of the ranges that have any."""
        return [(number, span) for number, span in enumerate(self.ranges) if span is not None]

    def reserved(self) -> list[tuple[int, Range]]:
        """The same of those that are reserved."""
        return [(number, span) for number, span in self.usable() if number in self.resources]


class Kmem(DaxDriver):
    """The driver kmem."""

    name = "kmem"
    takes_kmem_regions = True

    # Probe --------------------------------------------------------------------------------------------------------

    async def probe_dax(self, dev_dax: DevDax) -> None:
        """Reserve the ranges, add the memory, online it by the policy (dev_dax_kmem_probe).

        Raises KernelError: EINVAL for a bad node, no whole block or a policy the driver cannot plug with; EBUSY for a
        range that is taken.
        """
        kernel, profile = self.kernel, self.kernel.profile
        if dev_dax.target_node not in kernel.nodes:
            kernel.printk(
                WARNING, f"kmem {dev_dax.name}: rejecting DAX region with invalid node: {dev_dax.target_node}"
            )
            raise KernelError(errno.EINVAL, f"there is no node {dev_dax.target_node}", "dev_dax_kmem_probe")
        adistance = kernel.tiers.mt_calc_adistance(dev_dax.target_node, MEMTIER_DEFAULT_LOWTIER_ADISTANCE)
        data = DaxKmemData(kernel, dev_dax, kernel.tiers.mt_get_memory_type(adistance))
        self._check_ranges(data)
        kernel.tiers.init_node_memory_type(dev_dax.target_node, data.mtype)
        try:
            plugged_as = self._type_at_probe(dev_dax)
            if profile.reserving is not Reserving.EACH_BEFORE_ITS_ADD:
                self.dax_kmem_init_resources(data)
            if plugged_as is not None:
                await self.dax_kmem_do_hotplug(data, plugged_as)
                data.state = self._state_of(plugged_as)
        except KernelError:
            self._release(data)
            kernel.tiers.clear_node_memory_type(dev_dax.target_node, data.mtype)
            raise
        dev_dax.driver_data = data
        if profile.attribute is not None:
            data.serial = kernel.new_serial()
            kernel.register(data)
            kernel.changed("hotplug", dev_dax)

    def _type_at_probe(self, dev_dax: DevDax) -> Mmop | None:
        """What the memory is onlined as at bind; None: the device starts unplugged."""
        profile = self.kernel.profile
        system = self.kernel.memory_hotplug.mhp_get_default_online_type()
        if profile.policy_captured is not PolicyCaptured.AT_CREATION:
            return system
        created = dev_dax.online_type
        if profile.created_offline_stays_unplugged and created is Mmop.OFFLINE and created is not system:
            return None
        return created

    def _state_of(self, online_type: Mmop) -> int:
        """The state after plugging.

        A type that the profile has no own word for counts as the one whose word it reads as.
        """
        words = self.kernel.profile.words_read
        word = words.get(online_type)
        return next((state for state in words if words[state] == word), online_type)

    def _check_ranges(self, data: DaxKmemData) -> None:
        kernel, dev_dax = self.kernel, data.dev_dax
        total = original = 0
        for number, (mapping, aligned) in enumerate(zip(dev_dax.mappings, data.ranges, strict=True)):
            span = mapping.range
            original += span.length
            if aligned is None:
                kernel.printk(
                    INFO,
                    f"kmem {dev_dax.name}: mapping{number}: {span.start:#x}-{span.end:#x} too small after alignment",
                )
            else:
                total += aligned.length
        if not total:
            kernel.printk(WARNING, f"kmem {dev_dax.name}: rejecting DAX region without any memory after alignment")
            raise KernelError(errno.EINVAL, "no range has a whole memory block", "dev_dax_kmem_probe")
        if total != original:
            kernel.printk(
                WARNING,
                f"kmem {dev_dax.name}: DAX region truncated by {string_get_size(original - total)} due to alignment",
            )

    # Resources (patch 7) --------------------------------------------------------------------------------------------

    def dax_kmem_init_resources(self, data: DaxKmemData) -> None:
        """Reserve the ranges that are not; whoever calls this gives back what it reserved if it fails.

        Raises KernelError EBUSY, with a message, as the profile has it.
        """
        mapped = False
        for number, span in data.usable():
            if number not in data.resources:
                mapped |= self._reserve(data, number, span, "dax_kmem_init_resources", mapped=mapped)

    def _reserve(self, data: DaxKmemData, number: int, span: Range, where: str, *, mapped: bool) -> bool:
        """Reserve one range; False: it is taken, go on with the next, as others are `mapped` already."""
        kernel, name = self.kernel, data.dev_dax.name
        resource = kernel.iomem.request_region(span.start, span.end, name)
        if resource is None:
            kernel.printk(
                WARNING, f"kmem {name}: mapping{number}: {span.start:#x}-{span.end:#x} could not reserve region"
            )
            if mapped and kernel.profile.range_failure is RangeFailure.SKIP_LATER:
                return False
            raise KernelError(errno.EBUSY, f"mapping{number} is taken by another resource", where)
        resource.busy = False
        data.resources[number] = resource
        return True

    def _release(self, data: DaxKmemData, *numbers: int) -> None:
        """Give up the reservations of these mappings, without any of all."""
        for number in numbers or list(data.resources):
            self.kernel.iomem.release(data.resources.pop(number))

    # Hotplug and hotremove (patches 7 and 8) ------------------------------------------------------------------------

    async def dax_kmem_do_hotplug(self, data: DaxKmemData, online_type: Mmop) -> None:
        """Add the memory of every range and online it.

        Raises KernelError: EINVAL for a type that the driver cannot plug with, else what the range that failed said.
        """
        kernel, profile, dev_dax = self.kernel, self.kernel.profile, data.dev_dax
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
                await kernel.memory_hotplug.add_memory_driver_managed(
                    dev_dax.target_node, span, KMEM_NAME, at_add, memmap_on_memory=dev_dax.memmap_on_memory
                )
            except KernelError:
                kernel.printk(
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
            await self.kernel.memory_hotplug.offline_and_remove_memory(added)
        except KernelError as error:
            self.kernel.note_ignored(error)

    async def dax_kmem_do_hotremove(self, data: DaxKmemData) -> None:
        """Offline and remove the memory of every range; sets the state when it is done.

        Raises KernelError: EBUSY without MEMORY_HOTREMOVE, else the first block's refusal, if the profile reports it.
        """
        kernel = self.kernel
        if not kernel.config.memory_hotremove:
            if kernel.profile.unplug_failure_names_range:
                kernel.printk(WARNING, f"kmem {data.dev_dax.name}: hotplug state is inconsistent")
            raise KernelError(errno.EBUSY, "the kernel was built without MEMORY_HOTREMOVE", "dax_kmem_do_hotremove")
        if kernel.profile.unplug_all_ranges_at_once:
            await self._hotremove_at_once(data)
        else:
            await self._hotremove_range_by_range(data)

    async def _hotremove_at_once(self, data: DaxKmemData) -> None:
        kernel, name = self.kernel, data.dev_dax.name
        plugged = data.reserved()
        try:
            await kernel.memory_hotplug.offline_and_remove_memory([span for _, span in plugged])
        except KernelError as error:
            if kernel.profile.unplug_failure_names_range:
                number, span = self._failing_range(plugged, error)
                kernel.printk(ERR, f"kmem {name}: mapping{number}: {span.start:#x}-{span.end:#x} hotremove failed")
            else:
                kernel.printk(ERR, f"kmem {name}: hotremove failed, device left online: {-error.errno}")
            raise
        if kernel.profile.reservation is Reservation.WHILE_PLUGGED:
            self._release(data)
        data.state = DAX_KMEM_UNPLUGGED

    def _failing_range(self, plugged: list[tuple[int, Range]], error: KernelError) -> tuple[int, Range]:
        """The mapping whose block refused."""
        size = self.kernel.memory_blocks.block_size
        block = error.block
        for number, span in plugged:
            if block is not None and span.start <= block * size <= span.end:
                return number, span
        return plugged[0]

    async def _hotremove_range_by_range(self, data: DaxKmemData) -> None:
        """As posted: each range by itself, the reservation lost with it, what cannot be counted never removed.

        KERNEL.md 7.
        """
        kernel, name = self.kernel, data.dev_dax.name
        success = 0
        for number, span in data.reserved():
            if kernel.device_hotplug_lock.wanted:
                # Between two ranges the lock is free: who waits to toggle a block gets his turn (KERNEL.md 7, bug 10).
                await ask(Preempt("hotremove_range"))
            try:
                await kernel.memory_hotplug.offline_and_remove_memory([span])
            except KernelError as error:
                kernel.note_ignored(error)
                kernel.printk(ERR, f"kmem {name}: mapping{number}: {span.start:#x}-{span.end:#x} hotremove failed")
                continue
            self._release(data, number)
            success += 1
        wanted = len(data.ranges) if kernel.profile.unplug_counts_skipped_ranges else len(data.usable())
        if success < wanted:
            kernel.printk(WARNING, f"kmem {name}: partial hotremove: {success} of {wanted} ranges removed")
        else:
            data.state = DAX_KMEM_UNPLUGGED

    # Remove -------------------------------------------------------------------------------------------------------

    async def remove(self, device: Device) -> None:
        """Give up a device (dev_dax_kmem_remove): the attribute goes first and waits for its writers."""
        assert isinstance(device, DevDax)
        kernel, data = self.kernel, device.driver_data
        assert isinstance(data, DaxKmemData)
        if data.attribute_exists:
            kernel.unregister(data)
            data.serial = 0
            kernel.changed("hotplug", device)
            await data.stores.drain()
        device.driver_data = None
        if not kernel.config.memory_hotremove:
            return  # the reservation and the memory are leaked on purpose
        if kernel.profile.unbind is Unbind.WARN_UNLESS_OFFLINE and data.state not in {DAX_KMEM_UNPLUGGED, Mmop.OFFLINE}:
            self._leak_with_warning(data)
            return
        if data.state == DAX_KMEM_UNPLUGGED or await self._remove_memory(data):
            self._release(data)
            kernel.tiers.clear_node_memory_type(
                device.target_node, None if kernel.profile.unbind_drops_any_memory_type else data.mtype
            )

    def _leak_with_warning(self, data: DaxKmemData) -> None:
        """The series: a device that is not unplugged keeps its memory until reboot (dax_kmem_cleanup_resources)."""
        kernel = self.kernel
        kernel.printk(WARNING, "Hotplug memory regions stuck online until reboot")
        kernel.printk(WARNING, "WARNING: drivers/dax/kmem.c:<line> at dax_kmem_cleanup_resources [kmem]")
        kernel.tainted |= TAINT_WARN
        if kernel.profile.leak_frees_name:
            for resource in data.resources.values():
                resource.name = FREED_NAME
        if kernel.profile.leak_forgets_memory_type:
            kernel.tiers.clear_node_memory_type(data.dev_dax.target_node, data.mtype)

    async def _remove_memory(self, data: DaxKmemData) -> bool:
        """Remove the ranges whose blocks are all offline; returns whether all were."""
        kernel, name = self.kernel, data.dev_dax.name
        stock = kernel.profile.unbind is Unbind.REMOVE_STOCK
        leaked = False
        for number, span in data.reserved():
            try:
                await kernel.memory_hotplug.remove_memory(span)
            except KernelError as error:
                kernel.note_ignored(error)
                leaked = True
                kernel.printk(
                    ERR if stock else WARNING,
                    f"kmem {name}: mapping{number}: {span.start:#x}-{span.end:#x} "
                    + ("cannot be hotremoved until the next reboot" if stock else "stuck online until reboot"),
                )
            else:
                self._release(data, number)
        if leaked and not stock:
            kernel.printk(ERR, f"kmem {name}: Hotplug regions stuck online until reboot")
        return not leaked

    # The attribute (patch 8) ------------------------------------------------------------------------------------------

    def dax_kmem_parse_state(self, buffer: bytes) -> int:
        """The state that a word asks for. Raises KernelError EINVAL for a word that the profile does not know."""
        return sysfs_match_string(self.kernel.profile.words_written, buffer, "dax_kmem_parse_state")

    def hotplug_show(self, dev_dax: DevDax) -> str:
        """The word for the state; takes no lock."""
        data = dev_dax.driver_data
        if not isinstance(data, DaxKmemData):
            raise KernelError(errno.ENXIO, f"{dev_dax.name} has no kmem data", "hotplug_show")
        return self.kernel.profile.words_read.get(data.state, "unknown")

    async def hotplug_store(self, dev_dax: DevDax, buffer: bytes) -> None:
        """A write to the attribute: see the table above.

        Raises KernelError: EINVAL, EBUSY, what the transition says.
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
        """Reserve what is not reserved, as far as the profile does that after the probe, and add the memory."""
        held = set(data.resources)
        try:
            if self.kernel.profile.reservation is not Reservation.UNTIL_FIRST_UNPLUG:
                self.dax_kmem_init_resources(data)
            await self.dax_kmem_do_hotplug(data, online_type)
        except KernelError:
            for number in set(data.resources) - held:
                self._release(data, number)
            raise


_KIB = 1024
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_THREE_DIGITS = 100
_TWO_DIGITS = 10


def string_get_size(size: int) -> str:
    """A size as the kernel prints it, three significant digits: 216 MiB, 64.0 MiB, 8.00 MiB (lib/string_helpers.c)."""
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
