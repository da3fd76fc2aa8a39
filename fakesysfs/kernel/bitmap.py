"""The kernel's formats for sets of numbers (lib/bitmap-str.c)."""

from __future__ import annotations

from collections.abc import Iterable


def number_list(numbers: Iterable[int]) -> str:
    """A list, "0-2,5" (%*pbl)."""
    parts: list[str] = []
    ordered = sorted(numbers)
    position = 0
    while position < len(ordered):
        end = position
        while end + 1 < len(ordered) and ordered[end + 1] == ordered[end] + 1:
            end += 1
        parts.append(str(ordered[position]) if end == position else f"{ordered[position]}-{ordered[end]}")
        position = end + 1
    return ",".join(parts)


def number_mask(numbers: Iterable[int], width: int) -> str:
    """A mask of `width` bits in hexadecimal, in words of 32 bits, separated by commas (%*pb)."""
    mask = sum(1 << number for number in set(numbers))
    words: list[str] = []
    bits = max(width, 1)
    while bits > 0:
        digits = min((bits + 3) // 4, 8)
        words.append(f"{mask & 0xFFFFFFFF:0{digits}x}")
        mask >>= 32
        bits -= 32
    return ",".join(reversed(words))
