"""Values of machine files: sizes, ranges, and errors that name the file, the key, the value and what is allowed."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Literal, Protocol

import msgspec

from fakesysfs.kernel.memory_block import ONLINE_TYPES
from fakesysfs.kernel.range import Range
from fakesysfs.kernel.setup import DaxSetup

PAGE_SIZE = 4096
MAX_ADDRESS = 1 << 52
_ALIGNMENTS = (PAGE_SIZE, 2 << 20, 1 << 30)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_SIZE = re.compile(r"(0[xX][0-9a-fA-F]+|[0-9]+)([KMGTP]?)")

OnlineType = Literal["offline", "online", "online_kernel", "online_movable"]
DaxDriverName = Literal["device_dax", "kmem", "fsdev_dax"]
Natural = Annotated[int, msgspec.Meta(ge=0)]


class MachineError(Exception):
    """An error in a machine file: its place, the value and the allowed values."""


class Table(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A table of a machine file."""


class HasRange(Protocol):
    """A table with a range of addresses."""

    @property
    def start(self) -> str | int:
        """The first byte."""

    @property
    def size(self) -> str | int:
        """Bytes."""


class DaxOptions(Protocol):
    """A table that says what a dax region is like."""

    @property
    def align(self) -> str | int:
        """The alignment of its devices."""

    @property
    def device_size(self) -> str | int | None:
        """The size of the first device. None: the whole region."""

    @property
    def online_type(self) -> OnlineType | None:
        """The policy of the region's driver. None: the system's."""

    @property
    def driver(self) -> DaxDriverName | None:
        """The driver that the start binds the first device to."""


class Checks:
    """Reads and checks values of a machine file. `source` names the file in errors."""

    def __init__(self, source: str) -> None:
        self.source = source

    def fail(self, key: str, value: object, allowed: str) -> MachineError:
        """The error for a value, to be raised."""
        return MachineError(f"{self.source}: {key} = {value!r}: {allowed}")

    def size(self, key: str, value: str | int) -> int:
        """Bytes. Raises MachineError."""
        if isinstance(value, int):
            number = value
        else:
            match = _SIZE.fullmatch(value)
            if match is None:
                raise self.fail(key, value, 'expected bytes, as a number or like "128M", "0x180000000"')
            number = int(match[1], 0 if match[1][:2] in {"0x", "0X"} else 10) * _UNITS[match[2]]
        if not 0 <= number <= MAX_ADDRESS:
            raise self.fail(key, value, "expected 0 to 4P (52 address bits)")
        return number

    def range(self, key: str, span: HasRange) -> Range:
        """A range of addresses that is not empty. Raises MachineError."""
        start, size = self.size(f"{key}.start", span.start), self.size(f"{key}.size", span.size)
        if not size:
            raise self.fail(f"{key}.size", span.size, "expected more than 0 bytes")
        if start + size > MAX_ADDRESS:
            raise self.fail(f"{key}.size", span.size, "expected to end below 4P (52 address bits)")
        return Range(start, start + size - 1)

    def disjoint(self, named: list[tuple[str, Range]]) -> None:
        """Raise MachineError if two of the ranges overlap. Each has the key that it comes from."""
        ordered = sorted(named, key=lambda item: item[1])
        for (one, first), (other, second) in pairwise(ordered):
            if second.start <= first.end:
                where = f"{second.start:#x}-{second.end:#x}"
                raise self.fail(other, where, f"overlaps {one} ({first.start:#x}-{first.end:#x})")

    def dax_setup(self, key: str, options: DaxOptions, span: Range, target_node: int, *, raw: bool = False) -> DaxSetup:
        """What a dax region on `span` is like. Raises MachineError."""
        align = self.size(f"{key}.align", options.align)
        if align not in _ALIGNMENTS:
            raise self.fail(f"{key}.align", options.align, "expected 4K, 2M or 1G")
        step = max(align, 2 << 20)
        for what, value in (("start", span.start), ("size", span.length)):
            if value % step:
                given = getattr(options, what)
                raise self.fail(f"{key}.{what}", value if given is None else given, f"expected a multiple of {step}")
        device_size = None if options.device_size is None else self.size(f"{key}.device_size", options.device_size)
        if device_size is not None and (device_size > span.length or device_size % step):
            allowed = f"expected at most the region's size and a multiple of {step}"
            raise self.fail(f"{key}.device_size", options.device_size, allowed)
        return DaxSetup(
            range=span,
            target_node=target_node,
            align=align,
            device_size=device_size,
            online_type=None if options.online_type is None else ONLINE_TYPES[options.online_type],
            driver=options.driver,
            raw=raw,
        )
