"""Ranges of physical addresses (include/linux/range.h)."""

from __future__ import annotations

from typing import NamedTuple


class Range(NamedTuple):
    """struct range: start..end in bytes, end inclusive."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """Bytes (range_len)."""
        return self.end - self.start + 1
