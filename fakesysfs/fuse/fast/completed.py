"""Awaitables that have their answer at once and make no coroutine.

pyfuse3 awaits what its handlers return, and most of ours need not wait. A coroutine of Python's that only returns costs
more there than many a handler. `await` is content with an iterator that ends at once: the value is that of the
StopIteration. These consist of iterators in C alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from itertools import repeat
from typing import Any


def _nothing() -> Generator[None, None, None]:
    yield


_ended = _nothing()
_ended.close()


def completed(stop: StopIteration) -> Awaitable[Any]:
    """Awaiting this, as often as one likes, gives what `stop.value` is then."""

    class Given:
        # A generator that has ended raises what is thrown into it.
        __await__ = staticmethod(repeat(map(_ended.throw, repeat(stop))).__next__)

    return Given()  # type: ignore[return-value]  # any iterator will do
