"""Rounds and clients as processes of their own, which send what they counted."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from fakesysfs.sandbox import linux
from tests.soaking import host
from tests.soaking.arena import Arena
from tests.soaking.report import Tally

Attack = Callable[[Arena, random.Random, float], list[Tally]]
"""Attacks until a moment of the monotonic clock and returns what it counted."""

LOOK_SECONDS = 0.2

_FORK = multiprocessing.get_context("fork")


class HangError(Exception):
    """What did not end in time, and where it hangs."""


def _child(attack: Attack, arena: Arena, seed: str, until: float, answer: Connection, parent: int) -> None:
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != parent:
        return
    try:
        tallies = attack(arena, random.Random(seed), until)  # noqa: S311  drawn again from its seed
    except Exception:  # noqa: BLE001  the soak says which seed it was
        tally = Tally(attack.__name__.replace("_", " "))
        tally.fail("error", f"seed {seed}: {traceback.format_exc()}")
        tallies = [tally]
    answer.send(tallies)
    answer.close()


class Started:
    """An attack under way."""

    def __init__(self, attack: Attack, arena: Arena, seed: str, until: float) -> None:
        self._answer, answer = _FORK.Pipe(duplex=False)
        arguments = (attack, arena, seed, until, answer, os.getpid())
        self._process: BaseProcess = _FORK.Process(target=_child, args=arguments)
        self._process.start()
        answer.close()

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process.pid is not None
        return self._process.pid

    def tallies(self, until: float) -> list[Tally] | None:
        """What it counted; None if it has not ended by then."""
        if not self._answer.poll(max(until - time.monotonic(), 0)):
            return None
        try:
            found: list[Tally] = self._answer.recv()
        except EOFError:
            self._process.join()
            found = [Tally("soak")]
            found[0].fail("error", f"a process of the soak ended with {self._process.exitcode}")
        self._process.join()
        return found


def attacked(attack: Attack, arena: Arena, seed: str, duration: float, deadline: float) -> list[Tally]:
    """Attack for `duration` seconds. Raises HangError `deadline` seconds after that."""
    end = time.monotonic() + duration
    started = Started(attack, arena, seed, end)
    tallies = started.tallies(end + deadline)
    if tallies is None:
        raise HangError(
            f"{attack.__name__}, seed {seed}, hangs {deadline:g} s after its end\n" + host.report_hang(Path(arena.base))
        )
    return tallies


@contextmanager
def clients(
    attacks: Iterable[Attack],
    arena: Arena,
    draw: random.Random,
    until: float,
    meanwhile: Callable[[], object] = lambda: None,
) -> Iterator[list[Tally]]:
    """Attacks beside each other; at the end the list has what they counted.

    `meanwhile` is called again and again until all have ended.
    """
    started = [Started(attack, arena, str(draw.random()), until) for attack in attacks]
    tallies: list[Tally] = []
    yield tallies
    for client in started:
        while (found := client.tallies(time.monotonic() + LOOK_SECONDS)) is None:
            meanwhile()
        tallies += found
