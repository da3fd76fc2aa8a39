"""Reserves of memory, so that a request that finds none is refused and the server lives on.

The handler that runs out of memory gets ENOMEM. But trio and pyfuse3 also need memory, 64 KiB at a
time, and an error of theirs would end the mount. Two reserves keep that from happening:

- The heap has room from the start and never shrinks (`keep_heap`): what trio takes is there.
- A block is given back to the system when a handler ran out of memory (`Reserve`).
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap

import trio

HEAP_BYTES = 16 << 20
"""Address space only: the pages are not touched."""

_LARGE_BYTES = 1 << 20
"""Blocks from this size on do not come from the heap, so that no request alone can fill it."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST_FROM_HEAP, _NEVER = 32 << 20, (1 << 31) - 1

RESERVE_BYTES = 4 << 20
"""Python takes memory in pieces of 1 MiB."""

REFILL_SECONDS = 1.0


def keep_heap() -> None:
    """Grow the heap by HEAP_BYTES and keep it from shrinking. Does nothing without glibc (mallopt(3))."""
    libc = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):
        libc.malloc.restype = ctypes.c_void_p
        libc.free.argtypes = (ctypes.c_void_p,)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
        libc.mallopt(_M_MMAP_THRESHOLD, _MOST_FROM_HEAP)
        libc.free(libc.malloc(ctypes.c_size_t(HEAP_BYTES)))
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


class Reserve:
    """The block, if it is there."""

    def __init__(self) -> None:
        self._block: mmap.mmap | None = None
        self._wanted = trio.Event()

    def is_full(self) -> bool:
        """Whether the block is there."""
        return self._block is not None

    def release(self) -> None:
        """Memory ran out: give the block back to the system."""
        if self._block is not None:
            self._block.close()
            self._block = None
            self._wanted.set()

    async def keep(self) -> None:
        """Have a block, for as long as the mount lives."""
        while True:
            try:
                # It is never touched: only address space, and commit charge, are taken.
                self._block = mmap.mmap(-1, RESERVE_BYTES)
            except (OSError, MemoryError):
                await trio.sleep(REFILL_SECONDS)
                continue
            self._wanted = trio.Event()
            await self._wanted.wait()
            await trio.sleep(REFILL_SECONDS)
