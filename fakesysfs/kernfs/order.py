"""The order in which kernfs lists a directory: by hash of the name, then by name (fs/kernfs/dir.c, kernfs_name_hash).

It is neither sorted nor the order of creation, and some clients depend on it: daxctl walks a node's blocks in it. The
function is KERNEL.md's rule for x86-64 (the directory-entry hash of fs/namei.c folded to 31 bits), which fits every
recorded `readdir-raw-order`.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

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


class IndexedOrder:
    """Hashes of `prefix0`, `prefix1`, ... computed once per length of the family, one step per name.

    The state of the hash after "memory123" is where that of "memory1230" starts, so each name costs one
    multiplication instead of one per character.
    """

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self._states = array("Q")
        self._hashes = array("L")

    def hashes(self, end: int) -> Sequence[int]:
        """The hashes of the first `end` names (and maybe more), by index."""
        states, hashes = self._states, self._hashes
        base = _partial(self.prefix)
        for index in range(len(states), end):
            tens, digit = divmod(index, 10)
            byte = 48 + digit
            before = states[tens] if tens else base
            state = ((before + (byte << 4) + (byte >> 4)) * 11) & _MASK64
            states.append(state)
            hashes.append(_finish(state))
        return hashes
