"""The order in which kernfs lists a directory: by hash of the name, then by name.

fs/kernfs/dir.c, kernfs_name_hash.

The order is neither alphabetical nor that of creation. Some clients depend on it: daxctl walks a
node's blocks in it. The hash is the one of x86-64 (the directory-entry hash of fs/namei.c, folded
to 31 bits; KERNEL.md). It fits every recorded `readdir-raw-order`.
"""

from __future__ import annotations

import functools
from array import array
from bisect import bisect_left

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


class IndexedOrder:
    """The order of `prefix0`, `prefix1`, ..., computed once.

    The hash of "memory1230" starts from the state after "memory123", so a name costs one
    multiplication, not one per character.
    """

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self._states = array("Q")
        self._keys = array("Q")

    def keys(self, end: int) -> array[int]:
        """The keys of numbers 0 to `end` - 1 (and maybe more), in the order of their names."""
        if end > len(self._keys):
            # Only the end is unsorted, so the sort costs about one comparison per key.
            self._keys = array("Q", sorted([*self._keys, *self._more(end)]))
            self._break_ties()
        return self._keys

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
