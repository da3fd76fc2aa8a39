"""How many orders a second `explore` runs: of real programs, and of async functions in process.

    .venv/bin/python benchmarks/explore.py [--in-process | --profile]

Two programs write words to auto_online_blocks: no order can be left out, so this is the price of the search. The
rates depend on the host and its load; how much faster two workers are, less so. In process it is CPU time. Beside it
stands the rate if the machine boots again for each order and each step is taken.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from fakesysfs.testing import ExploreHandle, explore
from fakesysfs.testing.order_runner import OrderRunner

POLICY = "/sys/devices/system/memory/auto_online_blocks"


WORDS = ("online", "offline"), ("online_kernel", "online_movable")


_BEGIN = 10
"""Orders whose time does not count: that of the first ones, with the first boot."""


def program(words: tuple[str, str], count: int) -> str:
    """A shell program that writes that many words."""
    return "; ".join(f"echo {word} > {POLICY}" for word in islice(cycle(words), count))


def in_process(words: tuple[str, str], count: int) -> Callable[[ExploreHandle], Coroutine[Any, Any, None]]:
    """An async function that does the same."""

    async def write(m: ExploreHandle) -> None:
        for word in islice(cycle(words), count):
            await m.write(POLICY, word)

    return write


def seconds_in_process(count: int, limit: int, *, reduction: bool) -> float:
    """Seconds of CPU time."""
    programs = [in_process(words, count) for words in WORDS]
    began = time.process_time()
    explored = explore(programs, limit=limit, reduction=reduction).explored
    assert explored == limit
    return time.process_time() - began


def measure_in_process(limit: int, rounds: int = 5) -> None:
    """Print a row with and one without the reduction. A round measures all in turns, so that a load meets all."""
    kinds = [(reduction, boots_again) for reduction in (True, False) for boots_again in (False, True)]
    seconds: dict[tuple[bool, bool], list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for reduction, boots_again in kinds:
            OrderRunner.boots_again = boots_again
            orders = limit // 4 if boots_again else limit
            begin, all_of_it = (
                seconds_in_process(8, number, reduction=reduction) for number in (_BEGIN, _BEGIN + orders)
            )
            seconds[reduction, boots_again].append((all_of_it - begin) / orders)
    for reduction in (True, False):
        one, other = seconds[reduction, False], seconds[reduction, True]
        ratio = median(slow / fast for slow, fast in zip(other, one, strict=True))
        what = f"in process, 8 + 8{'' if reduction else ', no reduction'}"
        print(f"{what:32} {1 / median(one):8,.0f}/s, the best round {1 / min(one):,.0f}/s")
        print(f"{'  with a boot for each order':32} {1 / median(other):8,.0f}/s, ratio {ratio:.1f}")


def rate(count: int, jobs: int, limit: int, options: Sequence[str] = ()) -> float:
    """Orders a second of two programs with that many writes each."""
    programs = [program(words, count) for words in WORDS]
    with tempfile.TemporaryDirectory() as directory:
        result = Path(directory, "result.json")
        options = [*options, "--jobs", str(jobs), "--limit", str(limit), "--json", str(result)]
        line = [sys.executable, "-m", "fakesysfs", "explore", *options, "--", *programs]
        subprocess.run(line, check=False, stdout=subprocess.DEVNULL)
        found = json.loads(result.read_text("utf-8"))
    return float(found["explored"] / found["seconds"])


def main() -> None:
    """Measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=200, help="orders of each measurement (default: 200)")
    parser.add_argument("--profile", action="store_true", help="say where the time of orders in process goes")
    parser.add_argument("--in-process", action="store_true", help="measure no real programs")
    options = parser.parse_args()
    limit = options.limit
    if options.profile:
        profile = cProfile.Profile()
        profile.runcall(seconds_in_process, 8, limit, reduction=True)
        pstats.Stats(profile).sort_stats("cumulative").print_stats("fakesysfs", 30)
        return
    if options.in_process:
        measure_in_process(2 * limit)
        return
    print(f"{'writes':28} {'one worker':>12} {'two workers':>12} {'ratio':>6}")
    for count in (4, 8):
        for more in ([], ["--no-reduction"]):
            one, two = rate(count, 1, limit, more), rate(count, 2, limit, more)
            what = f"{count} + {count} {' '.join(more)}"
            print(f"{what:28} {one:10.1f}/s {two:10.1f}/s {two / one:6.2f}")
    measure_in_process(2 * limit)


if __name__ == "__main__":
    main()
