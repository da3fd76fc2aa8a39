"""The order in which kernfs lists a directory: by hash of the name, then by name.

fs/kernfs/dir.c, kernfs_name_hash.

The order is neither alphabetical nor that of creation. Some clients depend on it: daxctl walks a
node's blocks in it. The hash is the one of x86-64 (the directory-entry hash of fs/namei.c, folded
to 31 bits; KERNEL.md). It fits every recorded `readdir-raw-order`.
"""

from __future__ import annotations

import functools
import sys
from array import array
from bisect import bisect_left
from typing import NamedTuple

_MASK64 = (1 << 64) - 1
_GOLDEN_RATIO_64 = 0x61C8864680B583EB
_RESERVED_LOW = 2
_INT_MAX = 0x7FFFFFFF


def _partial(name: bytes, state: int = 0) -> int:
    for byte in name:
        state = ((state + (byte << 4) + (byte >> 4)) * 11) & _MASK64
    return state


def _finish(state: int) -> int:
    value = (((state * _GOLDEN_RATIO_64) & _MASK64) >> 32) & _INT_MAX
    if value < _RESERVED_LOW:
        value += _RESERVED_LOW
    if value >= _INT_MAX:
        value = _INT_MAX - 1
    return value


def name_hash(name: bytes) -> int:
    """The 31-bit hash of one name; 0, 1 and INT_MAX never occur."""
    return _finish(_partial(name))


INDEX_BITS = 32
"""Bits of a key below the hash. They tell names of equal hash apart."""

SINGLE = 1 << 29
"""Marks the key of a name of no indexed family."""

_hash = functools.lru_cache(maxsize=4096)(name_hash)


def single_key(name: bytes, number: int) -> int:
    """The key of a name of no indexed family; `number` is unique among them in their directory."""
    return _hash(name) << INDEX_BITS | SINGLE | number


def sort_key(key: int, name: bytes) -> tuple[int, bytes]:
    """What a directory is sorted by: the hash, then the bytes of the name."""
    return key >> INDEX_BITS, name


_LOW_HALF = 0 if sys.byteorder == "little" else 1


def low_words(keys: array[int]) -> array[int]:
    """The 32 bits below the hash of each key."""
    return array("I", keys.tobytes())[_LOW_HALF::2]


class Packed(NamedTuple):
    """Names that follow one another, each filled up with NUL to the same number of words of 8 bytes."""

    words: array[int]
    lengths: bytes
    """The number of bytes of each name."""


_PIECE = 4096
"""Names that are made ready together, when the first of them is asked for."""


class IndexedOrder:
    """The order of `prefix0`, `prefix1`, ..., computed once.

    The hash of "memory1230" starts from the state after "memory123", so a name costs one
    multiplication, not one per character.
    """

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self._states = array("Q")
        self._keys = array("Q")
        self._packed: dict[int, Packed] = {}

    def keys(self, end: int) -> array[int]:
        """The keys of numbers 0 to `end` - 1 (and maybe more), in the order of their names."""
        if end > len(self._keys):
            # Only the end is unsorted, so the sort costs about one comparison per key.
            self._keys = array("Q", sorted([*self._keys, *self._more(end)]))
            self._break_ties()
            self._packed.clear()
        return self._keys

    def name(self, number: int) -> bytes:
        """The name of one number."""
        return self.prefix + b"%d" % number

    def packed(self, first: int, last: int, count: int) -> Packed | None:
        """The names of `count` keys from `first` to `last`, if no other ones are between them."""
        keys = self._keys
        start = bisect_left(keys, first >> INDEX_BITS << INDEX_BITS)
        while start < len(keys) and keys[start] != first and keys[start] >> INDEX_BITS == first >> INDEX_BITS:
            start += 1
        end = start + count
        if end > len(keys) or keys[start] != first or keys[end - 1] != last:
            return None
        words, lengths = array("Q"), b""
        for number in range(start // _PIECE, (end - 1) // _PIECE + 1):
            piece = self._piece(number)
            each = len(piece.words) // len(piece.lengths)
            low, high = max(start - _PIECE * number, 0), end - _PIECE * number
            words += piece.words[low * each : high * each]
            lengths += piece.lengths[low:high]
        return Packed(words, lengths)

    def _piece(self, number: int) -> Packed:
        """A piece of the order; all are of `_PIECE` names but the last."""
        packed = self._packed.get(number)
        if packed is None:
            words = array("Q")
            width = -(-len(self.name(len(self._keys) - 1)) // words.itemsize) * words.itemsize
            names = [self.name(number) for number in low_words(self._keys[_PIECE * number : _PIECE * (number + 1)])]
            words.frombytes(b"".join([name.ljust(width, b"\0") for name in names]))
            packed = self._packed[number] = Packed(words, bytes(map(len, names)))
        return packed

    def _more(self, end: int) -> list[int]:
        states = self._states
        base = _partial(self.prefix)
        terms = [((48 + digit << 4) + (48 + digit >> 4)) * 11 for digit in range(10)]
        keys: list[int] = []
        for index in range(len(states), end):
            tens = index // 10
            state = ((states[tens] if tens else base) * 11 + terms[index - tens * 10]) & _MASK64
            states.append(state)
            keys.append(_finish(state) << INDEX_BITS | index)
        return keys

    def _break_ties(self) -> None:
        """Sort names of equal hash by their bytes."""
        keys = self._keys
        previous = -1
        for position, key in enumerate(keys):
            value = key >> INDEX_BITS
            if value == previous:
                start = bisect_left(keys, value << INDEX_BITS, hi=position)
                end = bisect_left(keys, value + 1 << INDEX_BITS, lo=position)
                keys[start:end] = array("Q", sorted(keys[start:end], key=self._digits))
            previous = value

    @staticmethod
    def _digits(key: int) -> str:
        return str(key & (1 << INDEX_BITS) - 1)
