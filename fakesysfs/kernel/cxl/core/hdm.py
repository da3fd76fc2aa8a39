"""HDM decoders: device memory (DPA) for endpoint decoders, commit and reset: drivers/cxl/core/hdm.c.

Decoders are committed in the order of their numbers and reset in any order. A decoder that was reset out of order
stays unusable until those above it are reset, too.
"""

from __future__ import annotations

import errno

from fakesysfs.kernel.cxl.core.memdev import CxlMemdev, DpaAllocation, Partition
from fakesysfs.kernel.cxl.core.port import CxlDecoder, CxlPort, CxlSwitchDecoder
from fakesysfs.kernel.kstrtox import kstrtoull, word_of
from fakesysfs.ops.errors import KernelError

SZ_256M = 256 << 20
DPA_NONE = (1 << 64) - 1
"""What dpa_resource shows without an allocation."""


class CxlEndpointDecoder(CxlDecoder):
    """struct cxl_endpoint_decoder: a decoder of a memory device."""

    devtype = "cxl_decoder_endpoint"

    def __init__(self, port: CxlPort, number: int) -> None:
        super().__init__(port, number)
        registers = self.memdev.hardware.registers[number]
        self.interleave_ways = registers.ways
        self.interleave_granularity = registers.granularity
        self.partition: Partition | None = None
        self.dpa: DpaAllocation | None = None
        self.skips: list[tuple[Partition, DpaAllocation]] = []
        """What it gave up of the partitions before."""
        self.pos = -1
        """Its position in its region."""

    @property
    def memdev(self) -> CxlMemdev:
        """The memory device (cxled_to_memdev)."""
        memdev = self.port.memdev
        assert isinstance(memdev, CxlMemdev)
        return memdev

    # Attributes ---------------------------------------------------------------------------------------------------

    @property
    def mode(self) -> str:
        """`none` until a mode was written."""
        return self.partition.mode if self.partition else "none"

    def mode_store(self, buffer: bytes) -> None:
        """A write to mode: `ram` or `pmem`.

        Raises KernelError: EINVAL for another word or a partition that the device lacks, EBUSY once committed.
        """
        word = word_of(buffer)
        if word not in {"ram", "pmem"}:
            raise KernelError(errno.EINVAL, f"{word!r} is neither ram nor pmem", "mode_store")
        self.cxl_dpa_set_part(word)

    def cxl_dpa_set_part(self, mode: str) -> None:
        """Choose a partition. Raises KernelError: EBUSY once committed, EINVAL if the device lacks it."""
        if self.enabled:
            raise KernelError(errno.EBUSY, f"{self.name} is committed", "cxl_dpa_set_part")
        partition = self.memdev.partition(mode)
        if partition is None:
            raise KernelError(errno.EINVAL, f"{self.memdev.name} has no {mode}", "cxl_dpa_set_part")
        self.partition = partition

    @property
    def dpa_size(self) -> int:
        """Bytes of device memory."""
        return self.dpa.size if self.dpa else 0

    @property
    def dpa_resource(self) -> int:
        """The first byte of device memory, all ones without any."""
        return self.dpa.start if self.dpa else DPA_NONE

    def dpa_size_store(self, buffer: bytes) -> None:
        """A write to dpa_size: frees what the decoder has, then allocates.

        Raises KernelError: EINVAL, ERANGE; EBUSY while a region uses it, if it is not the last decoder with memory, or
        without a mode; ENOSPC.
        """
        size = kstrtoull(buffer, 0, "dpa_size_store")
        if size % SZ_256M:
            raise KernelError(errno.EINVAL, f"{size:#x} is not a multiple of 256 MiB", "dpa_size_store")
        self._cxl_dpa_free()
        if size:
            self.cxl_dpa_alloc(size)

    def _cxl_dpa_free(self) -> None:
        if self.dpa is None:
            return
        if self.region is not None:
            raise KernelError(errno.EBUSY, f"{self.name} belongs to {self.region.name}", "cxl_dpa_free")
        if self.enabled:
            raise KernelError(errno.EBUSY, f"{self.name} is committed", "cxl_dpa_free")
        if self.id != self.port.hdm_end:
            last = f"decoder{self.port.id}.{self.port.hdm_end}"
            raise KernelError(errno.EBUSY, f"{last} must be freed first", "cxl_dpa_free")
        self.cxl_dpa_release()

    def cxl_dpa_release(self) -> None:
        """Give the memory back."""
        for partition, skip in [(self._allocated_in(), self.dpa), *self.skips]:
            if skip is not None:
                partition.allocations.remove(skip)
        self.skips.clear()
        self.dpa = None
        self.port.hdm_end -= 1

    def _allocated_in(self) -> Partition:
        return next(part for part in self.memdev.partitions if self.dpa in part.allocations)

    def cxl_dpa_alloc(self, size: int) -> None:
        """Take `size` bytes of the partition. Raises KernelError: EBUSY, ENOSPC."""
        if self.region is not None or self.enabled:
            raise KernelError(errno.EBUSY, f"{self.name} is in use", "__cxl_dpa_alloc")
        partition = self.partition
        if partition is None:
            raise KernelError(errno.EBUSY, f"{self.name} has no mode", "__cxl_dpa_alloc")
        start = partition.free_from
        available = partition.start + partition.size - start
        if size > available:
            why = f"{size:#x} is more than the free {available:#x} of {partition.mode}"
            raise KernelError(errno.ENOSPC, why, "__cxl_dpa_alloc")
        if self.port.hdm_end + 1 != self.id:
            expected = f"decoder{self.port.id}.{self.port.hdm_end + 1}"
            raise KernelError(errno.EBUSY, f"{expected} is the next decoder to use", "__cxl_dpa_reserve")
        self._skip(partition)
        self.dpa = DpaAllocation(start, size, self)
        partition.allocations.append(self.dpa)
        self.port.hdm_end += 1

    def _skip(self, partition: Partition) -> None:
        """Give up the free memory of the partitions before, unless an earlier decoder has."""
        if partition.allocations:
            return
        for lower in self.memdev.partitions[: self.memdev.partitions.index(partition)]:
            free = lower.start + lower.size - lower.free_from
            if free:
                skip = DpaAllocation(lower.free_from, free, self)
                lower.allocations.append(skip)
                self.skips.append((lower, skip))


# Commit and reset -------------------------------------------------------------------------------------------------


def cxl_decoder_commit(decoder: CxlDecoder) -> None:
    """Program a decoder. Raises KernelError EBUSY if it is not the next of its port, or its device erases itself.

    A host bridge with a single port may have no registers; then there is nothing to program.
    """
    port = decoder.port
    if decoder.enabled or port.registers is None:
        return
    if port.decoders_committed != decoder.id:
        expected = f"decoder{port.id}.{port.decoders_committed}"
        raise KernelError(errno.EBUSY, f"{expected} must be committed before {decoder.name}", "cxl_decoder_commit")
    if isinstance(decoder, CxlEndpointDecoder) and decoder.memdev.sanitizes:
        raise KernelError(errno.EBUSY, f"{decoder.memdev.name} erases itself: wait", "cxl_decoder_commit")
    registers = port.registers[decoder.id]
    registers.ways = decoder.interleave_ways
    registers.granularity = decoder.interleave_granularity
    if isinstance(decoder, CxlSwitchDecoder):
        registers.targets = decoder.target_map[: decoder.interleave_ways]
    port.commit_end += 1
    decoder.enabled = True


def cxl_decoder_reset(decoder: CxlDecoder) -> None:
    """Take a decoder out of use. The number of committed decoders falls when the highest one goes."""
    port = decoder.port
    if not decoder.enabled:
        return
    decoder.enabled = False
    if port.commit_end == decoder.id:
        cxl_port_commit_reap(port)


def cxl_port_commit_reap(port: CxlPort) -> None:
    """Lower the number of committed decoders past all that are out of use."""
    port.commit_end -= 1
    while port.commit_end >= 0 and not port.decoders[port.commit_end].enabled:
        port.commit_end -= 1
