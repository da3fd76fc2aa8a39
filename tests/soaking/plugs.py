"""Plug cycles beside clients that look the names up which come and go."""

from __future__ import annotations

import os
import random
import time
from errno import ENODEV, ENOENT

from tests.soaking.arena import DAX, MEMORY, Arena, blocks_of
from tests.soaking.clients import expect_blocks
from tests.soaking.fork import clients
from tests.soaking.report import Tally

BESIDE = (0, 4, 64)
ATTRIBUTE = f"{DAX}/dax0.0/hotplug"


def stat_names(arena: Arena, draw: random.Random, until: float) -> list[Tally]:
    """As fast as it goes."""
    tally = Tally("plug: stat clients")
    paths = [f"{arena.point}/{MEMORY}/memory{block}/state" for block in blocks_of(0)]
    while time.monotonic() < until:
        for path in paths:
            with tally.operation("stat of a block's state", ENOENT, ENODEV):
                os.stat(path)
    return [tally]


def plug_cycles(arena: Arena, draw: random.Random, until: float) -> list[Tally]:
    """Unplug, plug, and see what was written, with each number of clients for a third of the time."""
    arena.write("control/reset", "1")
    tallies = []
    share = max(until - time.monotonic(), 0) / len(BESIDE)
    for number in BESIDE:
        tally = Tally(f"plug: {number} stat clients", rounds=1)
        end = time.monotonic() + share
        with clients([stat_names] * number, arena, draw, end) as theirs:
            while True:
                for word in ("unplug", "online_movable"):
                    with tally.operation(f"{word} beside {number} clients", keep=True):
                        arena.write(ATTRIBUTE, word)
                    expect_blocks(arena, tally, 0, word, there=word != "unplug")
                if time.monotonic() >= end:
                    break
        tallies += [tally, *theirs]
    return [*tallies, Tally("plug: stat clients", rounds=1)]
