"""A reserve of memory, so that a request that finds none is refused and the server lives on.

The handler that runs out of memory gets ENOMEM. But trio and pyfuse3 also need memory, 64 KiB at a
time, and an error of theirs would end the mount. So a block is kept for that moment and released.
"""

from __future__ import annotations

import mmap

import trio

RESERVE_BYTES = 4 << 20
"""Python takes memory in pieces of 1 MiB."""

REFILL_SECONDS = 1.0


class Reserve:
    """The block, if it is there."""

    def __init__(self) -> None:
        self._block: mmap.mmap | None = None
        self._wanted = trio.Event()

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
