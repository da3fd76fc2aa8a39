"""Regions: addresses of a window that some decoders map to memory devices: drivers/cxl/core/region.c.

A region has a state (struct cxl_region_params):

    IDLE               size n -> INTERLEAVE_ACTIVE (needs ways, granularity, with mode pmem a uuid)
    INTERLEAVE_ACTIVE  size 0 -> IDLE; the last missing target -> ACTIVE
    ACTIVE             a target taken away -> INTERLEAVE_ACTIVE; commit 1 -> COMMIT
    COMMIT             the only state in which a driver binds; commit 0 -> RESET_PENDING, driver released -> ACTIVE

Firmware has set up and committed the decoders of some regions (CXL_REGION_F_AUTO). What they show was seen on a 7.3-rc7
after kexec from one that had made regions. Differs knowingly: Linux makes such a region with the first of its memory
devices and adds the others as they come; here it comes with the last one, by the code of a region that a user makes.
Its decoders show nothing before.
"""

from __future__ import annotations

import enum
import errno
import re
import uuid
from collections import deque
from collections.abc import Sequence

from fakesysfs.kernel.cxl.core.hdm import SZ_256M, CxlEndpointDecoder, cxl_decoder_commit, cxl_decoder_reset
from fakesysfs.kernel.cxl.core.memdev import CxlMemdev
from fakesysfs.kernel.cxl.core.port import (
    CXL_DEVICE_REGION,
    CxlBus,
    CxlBusDevice,
    CxlDecoder,
    CxlEp,
    CxlPort,
    CxlRegionRef,
    CxlRootDecoder,
    CxlSwitchDecoder,
)
from fakesysfs.kernel.ida import Ida
from fakesysfs.kernel.kstrtox import c_string, kstrtobool, kstrtoint, kstrtoull, word_of
from fakesysfs.kernel.printk import ERR, WARNING
from fakesysfs.kernel.range import Range
from fakesysfs.kernel.resource import IomemResource, Resource
from fakesysfs.kernel.setup import CxlRegionSetup, DaxSetup
from fakesysfs.ops.errors import KernelError

WAYS = (1, 2, 4, 8, 16, 3, 6, 12)
GRANULARITIES = tuple(256 << shift for shift in range(7))
INTERLEAVE_BITS = range(8, 15)
"""The address bits that a decoder can interleave by."""
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_UUID_BYTES = 37
_NAME = re.compile(rb"region\s*(-?\d+)")
"""sscanf("region%d"): what follows the number does not matter."""


class CxlConfig(enum.IntEnum):
    """enum cxl_config_state."""

    IDLE = 0
    INTERLEAVE_ACTIVE = 1
    ACTIVE = 2
    RESET_PENDING = 3
    COMMIT = 4


def _is_power_of_2(number: int) -> bool:
    return number > 0 and not number & (number - 1)


class CxlRegion(CxlBusDevice):
    """struct cxl_region. `mode` is `ram` or `pmem`."""

    devtype = "cxl_region"
    type_number = CXL_DEVICE_REGION

    def __init__(self, decoder: CxlRootDecoder, number: int, mode: str, iomem: IomemResource, memregions: Ida) -> None:
        assert decoder.bus is not None
        super().__init__(decoder.bus, f"region{number}", decoder)
        self.root_decoder = decoder
        self.id = number
        self.mode = mode
        self.state = CxlConfig.IDLE
        self.interleave_ways = 0
        self.interleave_granularity = 0
        self.uuid: uuid.UUID | None = None
        self.resource: Resource | None = None
        self.targets: list[CxlEndpointDecoder | None] = [None] * max(WAYS)
        self.nr_targets = 0
        self.auto = False
        """CXL_REGION_F_AUTO: firmware made it."""
        self.dax_setup: DaxSetup | None = None
        """What the machine says of its dax region. None: Linux's defaults."""
        self._iomem = iomem
        self._memregions = memregions

    # Attributes ---------------------------------------------------------------------------------------------------

    def interleave_ways_store(self, buffer: bytes) -> None:
        """A write to interleave_ways. The files target0.. follow it. Raises KernelError: EINVAL, ERANGE, EBUSY."""
        value = kstrtoint(buffer, 0, "interleave_ways_store")
        if value not in WAYS:
            raise KernelError(errno.EINVAL, f"{value} is not one of {', '.join(map(str, WAYS))}", "ways_to_eiw")
        of_window = self.root_decoder.interleave_ways
        if value % of_window or not _is_power_of_2(value // of_window):
            why = f"{value} is not a power of 2 times the {of_window} ways of {self.root_decoder.name}"
            raise KernelError(errno.EINVAL, why, "interleave_ways_store")
        self._refuse_if_sized("interleave_ways_store")
        self.interleave_ways = value
        self.kernel.changed("region_targets", self)

    def interleave_granularity_store(self, buffer: bytes) -> None:
        """A write to interleave_granularity. Raises KernelError: EINVAL, ERANGE, EBUSY."""
        value = kstrtoint(buffer, 0, "interleave_granularity_store")
        if value not in GRANULARITIES:
            allowed = ", ".join(map(str, GRANULARITIES))
            raise KernelError(errno.EINVAL, f"{value} is not one of {allowed}", "granularity_to_eig")
        decoder = self.root_decoder
        if decoder.interleave_ways > 1 and value != decoder.interleave_granularity:
            why = f"{decoder.name} interleaves by {decoder.interleave_granularity}"
            raise KernelError(errno.EINVAL, why, "interleave_granularity_store")
        self._refuse_if_sized("interleave_granularity_store")
        self.interleave_granularity = value

    def _refuse_if_sized(self, where: str) -> None:
        if self.state >= CxlConfig.INTERLEAVE_ACTIVE:
            raise KernelError(errno.EBUSY, f"{self.name} has a size; write 0 to it first", where)

    def uuid_store(self, buffer: bytes) -> None:
        """A write to uuid, of a region of mode pmem. Raises KernelError: EINVAL, EBUSY."""
        text = word_of(buffer)
        if len(buffer) != _UUID_BYTES or not _UUID.fullmatch(text[: _UUID_BYTES - 1]):
            raise KernelError(errno.EINVAL, f"{text!r} is not a uuid and a newline", "uuid_store")
        value = uuid.UUID(text[: _UUID_BYTES - 1])
        if not value.int:
            raise KernelError(errno.EINVAL, "the uuid is null", "uuid_store")
        if value == self.uuid:
            return
        if self.state >= CxlConfig.ACTIVE:
            raise KernelError(errno.EBUSY, f"{self.name} has all of its targets", "uuid_store")
        assert self.bus is not None
        for other in self.bus.devices.values():
            if isinstance(other, CxlRegion) and other.uuid == value:
                raise KernelError(errno.EBUSY, f"{other.name} has this uuid", "is_dup")
        self.uuid = value

    @property
    def size(self) -> int:
        """Bytes, 0 until it has addresses."""
        return self.resource.size if self.resource else 0

    def size_store(self, buffer: bytes) -> None:
        """A write to size: takes addresses of the window, or gives them back.

        Raises KernelError: EINVAL, ERANGE, EBUSY, ENXIO.
        """
        size = kstrtoull(buffer, 0, "size_store")
        if size:
            self._alloc_hpa(size)
        else:
            self._free_hpa()

    def _alloc_hpa(self, size: int) -> None:
        if self.size == size:
            return
        self._refuse_if_sized("alloc_hpa")
        if not self.interleave_ways or not self.interleave_granularity or (self.mode == "pmem" and not self.uuid):
            missing = "interleave_ways, interleave_granularity" + (" and uuid" if self.mode == "pmem" else "")
            raise KernelError(errno.ENXIO, f"{self.name} needs {missing} first", "alloc_hpa")
        if size % (SZ_256M * self.interleave_ways):
            why = f"{size:#x} is not a multiple of 256 MiB for each of {self.interleave_ways} targets"
            raise KernelError(errno.EINVAL, why, "alloc_hpa")
        start = self._iomem.free_within(self.root_decoder.resource, size, SZ_256M)
        if start is None:
            raise KernelError(errno.ERANGE, f"{self.root_decoder.name} has no hole of that size", "alloc_hpa")
        self.insert_hpa(start, size)

    def insert_hpa(self, start: int, size: int) -> None:
        """Take these addresses of the window."""
        self.resource = self._iomem.insert(start, start + size - 1, self.name, self.root_decoder.resource)
        self.state = CxlConfig.INTERLEAVE_ACTIVE

    def _free_hpa(self) -> None:
        if self.resource is None:
            return
        if self.state >= CxlConfig.ACTIVE:
            raise KernelError(errno.EBUSY, f"{self.name} has all of its targets", "free_hpa")
        self.iomem_release()
        self.state = CxlConfig.IDLE

    def iomem_release(self) -> None:
        """Give the addresses back (cxl_region_iomem_release). What is below them stays."""
        if self.resource is not None:
            self._iomem.remove(self.resource)
            self.resource = None

    @property
    def hpa_range(self) -> Range:
        """Its addresses."""
        assert self.resource is not None
        return Range(self.resource.start, self.resource.end)

    # Commit -------------------------------------------------------------------------------------------------------

    async def commit_store(self, buffer: bytes) -> None:
        """A write to commit: programs all decoders, or releases the driver and resets them.

        Raises KernelError: EINVAL; ENXIO while a target is missing; EBUSY if a decoder is not the next of its port.
        """
        commit = kstrtobool(buffer, "commit_store")
        if commit == (self.state >= CxlConfig.COMMIT):
            return
        if commit:
            if self.state < CxlConfig.ACTIVE:
                raise KernelError(errno.ENXIO, f"{self.name} lacks a target", "__commit")
            cxl_region_decode_commit(self)
            self.state = CxlConfig.COMMIT
            return
        if self.state < CxlConfig.COMMIT:
            return
        self.state = CxlConfig.RESET_PENDING
        assert self.bus is not None
        await self.bus.detach(self)
        if self.state == CxlConfig.RESET_PENDING:
            cxl_region_decode_reset(self)
            self.state = CxlConfig.ACTIVE

    # Targets ------------------------------------------------------------------------------------------------------

    def target_show(self, pos: int) -> str:
        """The name of the decoder at a position, or an empty text."""
        target = self.targets[pos]
        return "" if target is None else target.name

    async def target_store(self, pos: int, buffer: bytes) -> None:
        """A write to targetN: an endpoint decoder's name, or an empty text to detach it (store_targetN).

        Raises KernelError: ENODEV, EINVAL, EBUSY, ENXIO.
        """
        if c_string(buffer) in {b"", b"\n", b"\n\n"}:  # sysfs_streq(buf, "\n")
            target = self.targets[pos]
            if target is not None:
                await cxl_decoder_detach(target)
            return
        assert self.bus is not None
        found = self.bus.find_device(buffer)
        if found is None:
            raise KernelError(errno.ENODEV, f"no device {word_of(buffer)!r}", "store_targetN")
        if not isinstance(found, CxlEndpointDecoder):
            raise KernelError(errno.EINVAL, f"{found.name} is not an endpoint decoder", "store_targetN")
        try:
            self.attach(found, pos)
        except KernelError as error:
            endpoint = found.port
            driver = endpoint.driver.name if endpoint.driver else "cxl"
            self.kernel.printk(
                WARNING,
                f"{driver} {endpoint.name}: failed to attach {found.name} to {self.name}: {-error.errno}",
            )
            raise

    def attach(self, cxled: CxlEndpointDecoder, pos: int) -> None:
        """Attach a decoder (cxl_region_attach). Raises KernelError: EBUSY, EINVAL, ENODEV, ENXIO."""
        check_interleave_cap(cxled, self.interleave_ways, self.interleave_granularity)
        if cxled.partition is None:
            raise KernelError(errno.ENODEV, f"{cxled.name} has no mode", "cxl_region_attach")
        if cxled.mode != self.mode:
            raise KernelError(errno.EINVAL, f"{cxled.name} is of mode {cxled.mode}", "cxl_region_attach")
        if self.state > CxlConfig.INTERLEAVE_ACTIVE:
            raise KernelError(errno.EBUSY, f"{self.name} has all of its targets", "cxl_region_attach")
        if self.state < CxlConfig.INTERLEAVE_ACTIVE:
            raise KernelError(errno.ENXIO, f"{self.name} has no size", "cxl_region_attach")
        if self.nr_targets >= self.interleave_ways:
            raise KernelError(errno.EINVAL, f"{self.name} has {self.nr_targets} targets", "cxl_region_attach")
        if cxled.dpa is None:
            raise KernelError(errno.ENXIO, f"{cxled.name} has no device memory (dpa_size)", "cxl_region_attach")
        if cxled.dpa.size * self.interleave_ways != self.size:
            why = f"{self.interleave_ways} times the dpa_size of {cxled.name} is not the size of {self.name}"
            raise KernelError(errno.EINVAL, why, "cxl_region_attach")
        if self.auto:
            self.kernel.printk(ERR, f"cxl {self.name}: {cxled.name}: unable to add decoder to autodetected region")
            raise KernelError(errno.EINVAL, f"firmware made {self.name}: delete it first", "cxl_region_attach_auto")
        self._validate_position(cxled, pos)
        self._attach_position(cxled, pos)
        self.targets[pos] = cxled
        cxled.pos = pos
        self.nr_targets += 1
        if self.nr_targets == self.interleave_ways:
            cxl_region_setup_targets(self)
            self.state = CxlConfig.ACTIVE
        cxled.interleave_ways = self.interleave_ways
        cxled.interleave_granularity = self.interleave_granularity
        cxled.hpa_range = self.hpa_range

    def _validate_position(self, cxled: CxlEndpointDecoder, pos: int) -> None:
        if self.targets[pos] is cxled:
            return
        taken = self.targets[pos]
        if taken is not None:
            raise KernelError(errno.EBUSY, f"target{pos} is {taken.name}", "cxl_region_validate_position")
        for other in self.targets[: self.interleave_ways]:
            if other is not None and other.memdev is cxled.memdev:
                why = f"{cxled.memdev.name} is a target already, by {other.name}"
                raise KernelError(errno.EBUSY, why, "cxl_region_validate_position")

    def _attach_position(self, cxled: CxlEndpointDecoder, pos: int) -> None:
        window = self.root_decoder.window.targets
        wanted = window[pos % len(window)]
        if cxled.memdev.setup.bridge != wanted:
            why = f"{self.root_decoder.name} needs a target below bridge {wanted} at position {pos}"
            raise KernelError(errno.ENXIO, why, "cxl_region_attach_position")
        try:
            for port in cxled.port.up_to_root():
                cxl_port_attach_region(port, self, cxled)
        except KernelError:
            for port in cxled.port.up_to_root():
                cxl_port_detach_region(port, self, cxled)
            raise


# A region in the ports above its targets --------------------------------------------------------------------------


def check_interleave_cap(decoder: CxlDecoder, ways: int, granularity: int) -> None:
    """Whether the hardware can interleave so. Raises KernelError ENXIO."""
    if decoder.port.registers is None or ways in {1, 3} or not granularity:
        return
    low = granularity.bit_length() - 1
    bits = (ways // 3 if ways % 3 == 0 else ways).bit_length() - 1
    if low + bits - 1 not in INTERLEAVE_BITS:
        raise KernelError(
            errno.ENXIO, f"{ways} ways by {granularity} are too many address bits", "check_interleave_cap"
        )


def _free_decoder(port: CxlPort) -> CxlDecoder | None:
    """The decoder behind the highest committed one, if all below it are committed (match_free_decoder)."""
    number = port.commit_end + 1
    if number >= len(port.decoders) or port.decoders[number].region is not None:
        return None
    return port.decoders[number] if all(decoder.enabled for decoder in port.decoders[:number]) else None


def _alloc_region_ref(port: CxlPort, region: CxlRegion, cxled: CxlEndpointDecoder) -> CxlRegionRef:
    for other in port.regions:
        assert isinstance(other, CxlRegion)
        if other.resource is not None and other.resource.start >= region.hpa_range.start:
            raise KernelError(errno.EBUSY, f"{other.name} at a higher address uses {port.name}", "alloc_region_ref")
    decoder: CxlDecoder | None = cxled if port is cxled.port else _free_decoder(port)
    if decoder is None or decoder.region is not None:
        raise KernelError(errno.EBUSY, f"{port.name} has no decoder free", "cxl_rr_alloc_decoder")
    reference = port.regions[region] = CxlRegionRef(decoder)
    return reference


def cxl_port_attach_region(port: CxlPort, region: CxlRegion, cxled: CxlEndpointDecoder) -> None:
    """Note that a region uses a port to reach a decoder. Raises KernelError: EBUSY, ENXIO."""
    ep = port.endpoints.get(cxled.memdev)
    reference = port.regions.get(region)
    if reference is None:
        reference = _alloc_region_ref(port, region, cxled)
        counted = True
    else:
        shared = ep is not None and any(
            other is not ep and other.next is ep.next for other in reference.endpoints.values()
        )
        counted = not shared or ep is None or ep.next is None
        reference.nr_targets += counted
    decoder = reference.decoder
    try:
        if isinstance(decoder, CxlSwitchDecoder) and reference.nr_targets > decoder.nr_targets:
            raise KernelError(errno.ENXIO, f"{decoder.name} has {decoder.nr_targets} targets", "cxl_port_attach_region")
        if ep is not None:
            if cxled in reference.endpoints:
                raise KernelError(errno.EBUSY, f"{cxled.name} is attached already", "cxl_rr_ep_add")
            reference.endpoints[cxled] = ep
    except KernelError:
        reference.nr_targets -= counted
        _free_unused(port, region, reference)
        raise
    reference.nr_eps += 1
    if decoder.region is None:
        decoder.region = region


def cxl_port_detach_region(port: CxlPort, region: CxlRegion, cxled: CxlEndpointDecoder) -> None:
    """Note that a region no longer uses a port to reach a decoder.

    Of several endpoints directly below a port the count of targets does not fall, as in the kernel (recorded).
    """
    reference = port.regions.get(region)
    if reference is None:
        return
    ep: CxlEp | None = None
    if reference.decoder is cxled:
        reference.nr_eps -= 1
    else:
        ep = reference.endpoints.pop(cxled, None)
    if ep is not None:
        reference.nr_eps -= 1
        if not any(other.next is ep.next for other in reference.endpoints.values()):
            reference.nr_targets -= 1
    _free_unused(port, region, reference)


def _free_unused(port: CxlPort, region: CxlRegion, reference: CxlRegionRef) -> None:
    if not reference.nr_eps:
        if reference.decoder.region is region:
            reference.decoder.region = None
        port.regions.pop(region, None)


def _switches(cxled: CxlEndpointDecoder) -> list[CxlPort]:
    """The ports above an endpoint, from the host bridge down."""
    return list(cxled.port.up_to_root())[:0:-1]


def _find_switch_decoders(cxled: CxlEndpointDecoder) -> None:
    """Raise KernelError ENXIO if a port above has no decoder with the addresses of the region (find_pos_and_ways)."""
    for port in _switches(cxled):
        if port.registers is None:
            raise KernelError(errno.ENXIO, f"{port.name} has no decoder with these addresses", "find_pos_and_ways")


def cxl_region_setup_targets(region: CxlRegion) -> None:
    """Set up the decoders above all targets. Raises KernelError: EINVAL, ENXIO."""
    try:
        for cxled in region.targets[: region.nr_targets]:
            if cxled is not None:
                for port in _switches(cxled):
                    _port_setup_targets(port, region, cxled)
    except KernelError:
        _teardown_targets(region)
        raise


def _port_setup_targets(port: CxlPort, region: CxlRegion, cxled: CxlEndpointDecoder) -> None:
    """cxl_port_setup_targets."""
    reference, ep = port.regions[region], port.endpoints[cxled.memdev]
    decoder = reference.decoder
    assert isinstance(decoder, CxlSwitchDecoder)
    if not _is_power_of_2(reference.nr_targets):
        raise KernelError(
            errno.EINVAL, f"{port.name} would have {reference.nr_targets} targets", "cxl_port_setup_targets"
        )
    if reference.nr_targets_set:
        distance = region.root_decoder.interleave_ways
        for above in port.up_to_root():
            distance *= above.regions[region].nr_targets
        if ep.dport.port_id in decoder.targets[: reference.nr_targets_set]:
            _check_last_peer(port, region, cxled, distance)
            return
    else:
        ways, granularity = _interleave_above(port, region)
        if granularity * ways not in GRANULARITIES:
            raise KernelError(errno.EINVAL, f"{granularity * ways} is no granularity", "cxl_port_setup_targets")
        if reference.nr_targets > decoder.nr_targets:
            raise KernelError(errno.ENXIO, f"{decoder.name} has {decoder.nr_targets} targets", "cxl_port_setup_targets")
        check_interleave_cap(decoder, reference.nr_targets, granularity * ways)
        decoder.interleave_ways = reference.nr_targets
        decoder.interleave_granularity = granularity * ways
        decoder.hpa_range = region.hpa_range
    if reference.nr_targets_set == reference.nr_targets:
        raise KernelError(errno.ENXIO, f"{decoder.name} has all of its targets", "cxl_port_setup_targets")
    decoder.set_target(reference.nr_targets_set, ep.dport.port_id)
    reference.nr_targets_set += 1


def _interleave_above(port: CxlPort, region: CxlRegion) -> tuple[int, int]:
    """Ways and granularity of the decoder above a port."""
    above = port.above
    if above.is_root:
        ways = region.root_decoder.interleave_ways
        return (ways if _is_power_of_2(ways) else ways // 3), region.interleave_granularity
    decoder = above.regions[region].decoder
    return decoder.interleave_ways, decoder.interleave_granularity


def _check_last_peer(port: CxlPort, region: CxlRegion, cxled: CxlEndpointDecoder, distance: int) -> None:
    peer = region.targets[cxled.pos - distance] if cxled.pos >= distance else None
    if peer is None or port.endpoints[peer.memdev].dport is not port.endpoints[cxled.memdev].dport:
        raise KernelError(errno.ENXIO, f"{cxled.memdev.name} cannot be target{cxled.pos}", "check_last_peer")


def _teardown_targets(region: CxlRegion) -> None:
    """Take the addresses of the decoders above all targets away. Those that firmware set up keep them."""
    if region.auto:
        return
    for cxled in region.targets[: region.nr_targets]:
        if cxled is not None:
            for port in _switches(cxled):
                reference = port.regions.get(region)
                if reference is not None:
                    reference.nr_targets_set = 0
                    reference.decoder.hpa_range = Range(0, -1)


def cxl_region_decode_commit(region: CxlRegion) -> None:
    """Program all decoders of a region, for each target from its endpoint up. Raises KernelError EBUSY."""
    done: list[CxlDecoder] = []
    try:
        for cxled in region.targets[: region.nr_targets]:
            if cxled is not None:
                for port in cxled.port.up_to_root():
                    decoder = port.regions[region].decoder
                    cxl_decoder_commit(decoder)
                    done.append(decoder)
    except KernelError:
        for decoder in reversed(done):
            cxl_decoder_reset(decoder)
        raise


def cxl_region_decode_reset(region: CxlRegion) -> None:
    """Take all decoders of a region out of use, the last target's first, for each from the host bridge down."""
    for cxled in reversed(region.targets[: region.interleave_ways]):
        if cxled is not None:
            for port in _switches(cxled):
                reference = port.regions.get(region)
                if reference is not None:
                    cxl_decoder_reset(reference.decoder)
            cxl_decoder_reset(cxled)


async def cxl_decoder_detach(cxled: CxlEndpointDecoder) -> None:
    """Detach a decoder from its region, which loses its driver (__cxl_decoder_detach)."""
    region = cxled.region
    if not isinstance(region, CxlRegion):
        return
    if region.state > CxlConfig.ACTIVE:
        cxl_region_decode_reset(region)
        region.state = CxlConfig.ACTIVE
    for port in cxled.port.up_to_root():
        cxl_port_detach_region(port, region, cxled)
    if cxled.pos < 0 or region.targets[cxled.pos] is not cxled:
        return
    if region.state == CxlConfig.ACTIVE:
        region.state = CxlConfig.INTERLEAVE_ACTIVE
        _teardown_targets(region)
    region.targets[cxled.pos] = None
    region.nr_targets -= 1
    cxled.hpa_range = Range(0, -1)
    assert region.bus is not None
    if region.alive:
        await region.bus.detach(region)


# Making and removing regions --------------------------------------------------------------------------------------


def cxl_memdev_of(device: CxlBusDevice) -> CxlMemdev:
    """The memory device that a device is."""
    assert isinstance(device, CxlMemdev)
    return device


class CxlRegions:
    """What all regions of a kernel share: the tree of addresses and the numbers.

    `made_by_firmware` are the regions whose decoders are committed before the kernel starts.
    """

    def __init__(
        self, bus: CxlBus, iomem: IomemResource, memregions: Ida, made_by_firmware: Sequence[CxlRegionSetup] = ()
    ) -> None:
        self._bus = bus
        self._iomem = iomem
        self._memregions = memregions
        self._undiscovered = deque(made_by_firmware)
        self.failed: list[tuple[CxlRegionSetup, KernelError]] = []
        """Regions of firmware that could not be, and why."""

    async def create_region_store(self, decoder: CxlRootDecoder, mode: str, buffer: bytes) -> None:
        """A write to create_ram_region or create_pmem_region: the name that a read gives.

        What follows the number is ignored. Raises KernelError: EINVAL, EBUSY.
        """
        match = _NAME.match(c_string(buffer))
        if match is None:
            raise KernelError(errno.EINVAL, f"{word_of(buffer)!r} is not of the form regionN", "create_region_store")
        if int(match[1]) != decoder.region_id:
            why = f"the next region is region{decoder.region_id}: write what a read gives"
            raise KernelError(errno.EBUSY, why, "__create_region")
        await self._create_region(decoder, mode)

    async def _create_region(self, decoder: CxlRootDecoder, mode: str) -> CxlRegion:
        """Make the region whose number a window holds (__create_region)."""
        number = self._memregions.take()
        region = CxlRegion(decoder, decoder.region_id, mode, self._iomem, self._memregions)
        decoder.region_id = number
        await self._bus.add(region)
        return region

    async def discover_regions(self) -> None:
        """Make the regions of firmware whose memory devices are all there (discover_region, cxl_add_to_region)."""
        while self._undiscovered:
            setup = self._undiscovered[0]
            decoders = [decoder for target in setup.targets if (decoder := self._next_decoder(target)) is not None]
            if len(decoders) < len(setup.targets):
                return
            self._undiscovered.popleft()
            try:
                await self._construct_region(setup, decoders)
            except KernelError as error:
                self.failed.append((setup, error))

    def _next_decoder(self, address: str) -> CxlEndpointDecoder | None:
        """The first decoder without device memory of the memory device with a PCI address, if its port is bound."""
        for memdev in self._bus.devices.values():
            if isinstance(memdev, CxlMemdev) and memdev.setup.path[-1] == address and memdev.endpoint is not None:
                free = memdev.endpoint.decoders[memdev.endpoint.hdm_end + 1 :]
                return free[0] if free and isinstance(free[0], CxlEndpointDecoder) else None
        return None

    async def _construct_region(self, setup: CxlRegionSetup, decoders: Sequence[CxlEndpointDecoder]) -> None:
        """Do what firmware and construct_region do together. Unlike a user they need no multiples of 256 MiB."""
        root = self._bus.devices[f"decoder0.{setup.window}"]
        assert isinstance(root, CxlRootDecoder)
        size = setup.dax.range.length
        region = await self._create_region(root, setup.mode)
        region.dax_setup = setup.dax
        try:
            region.interleave_ways_store(b"%d" % len(decoders))
            region.interleave_granularity_store(b"%d" % setup.granularity)
            region.insert_hpa(setup.dax.range.start, size)
            for pos, cxled in enumerate(decoders):
                _find_switch_decoders(cxled)
                cxled.cxl_dpa_set_part(setup.mode)
                cxled.cxl_dpa_alloc(size // len(decoders))
                region.attach(cxled, pos)
            await region.commit_store(b"1")
            region.auto = True
        except KernelError:
            await self.unregister_region(region)
            raise
        await self._bus.device_attach(region)

    async def delete_region_store(self, decoder: CxlRootDecoder, buffer: bytes) -> None:
        """A write to delete_region: a region's name. Raises KernelError: EINVAL, ENODEV."""
        name = word_of(buffer)
        region = decoder.children.get(name)
        if not isinstance(region, CxlRegion):
            if not _NAME.match(c_string(buffer)):
                raise KernelError(errno.EINVAL, f"{name!r} is not a region's name", "delete_region_store")
            raise KernelError(errno.ENODEV, f"{decoder.name} has no region {name!r}", "cxl_find_region_by_name")
        await self.unregister_region(region)

    async def unregister_region(self, region: CxlRegion) -> None:
        """Remove a region in any state (unregister_region, cxl_region_release)."""
        await self._bus.remove(region)
        for target in region.targets[: region.interleave_ways]:
            if target is not None:
                await cxl_decoder_detach(target)
        region.iomem_release()
        decoder = region.root_decoder
        if region.id < decoder.region_id:
            self._memregions.release(decoder.region_id)
            decoder.region_id = region.id
        else:
            self._memregions.release(region.id)
