"""Plug cycles beside clients that look the names up which come and go."""

from __future__ import annotations

import mmap
import os
import random
import time
from errno import ENODEV, ENOENT

from tests.soaking.arena import DAX, MEMORY, Arena, blocks_of
from tests.soaking.clients import expect_blocks
from tests.soaking.fork import Attack, clients
from tests.soaking.report import Tally

BESIDE = (0, 4, 64)
ATTRIBUTE = f"{DAX}/dax0.0/hotplug"


class _Shared:
    """What the clients and their round tell each other: who has begun, and that it is over."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._flags = mmap.mmap(-1, number + 1)

    def begin(self, client: int) -> None:
        self._flags[1 + client] = 1

    def wait_for_all(self) -> None:
        while sum(self._flags[1:]) < self._number:
            time.sleep(0.01)

    def end(self) -> None:
        self._flags[0] = 1

    @property
    def ended(self) -> bool:
        return self._flags[0] == 1


def stat_client(number: int, shared: _Shared) -> Attack:
    """Looks names up as fast as it goes."""

    def stat_names(arena: Arena, draw: random.Random, until: float) -> list[Tally]:
        tally = Tally("plug: stat clients")
        paths = [f"{arena.point}/{MEMORY}/memory{block}/state" for block in blocks_of(0)]
        shared.begin(number)
        while not shared.ended:
            for path in paths:
                with tally.operation("stat of a block's state", ENOENT, ENODEV):
                    os.stat(path)
        return [tally]

    return stat_names


def _cycle(arena: Arena, tally: Tally, looks: Tally) -> None:
    for word in ("unplug", "online_movable"):
        with tally.operation(word, keep=True):
            arena.write(ATTRIBUTE, word)
        expect_blocks(arena, looks, 0, word, there=word != "unplug")


def plug_cycles(arena: Arena, draw: random.Random, until: float) -> list[Tally]:
    """Unplug, plug, and see what was written, with each number of clients for a third of the time."""
    arena.write("control/reset", "1")
    looks = Tally("plug: read your writes", rounds=1)
    tallies = [looks, Tally("plug: stat clients", rounds=1)]
    share = max(until - time.monotonic(), 0) / len(BESIDE)
    for number in BESIDE:
        tally = Tally(f"plug: {number:2} stat clients", rounds=1)
        shared = _Shared(number)
        attacks = [stat_client(client, shared) for client in range(number)]
        with clients(attacks, arena, draw, until) as theirs:
            shared.wait_for_all()
            end = time.monotonic() + share
            _cycle(arena, tally, looks)
            while time.monotonic() < end:
                _cycle(arena, tally, looks)
            shared.end()
        tallies += [tally, *theirs]
    return tallies
