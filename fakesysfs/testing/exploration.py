"""`explore`: all orders in which programs can take their steps on a machine in this process.

The search is `fakesysfs.explore`; order_runner.py runs one order.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from fakesysfs.explore import report
from fakesysfs.explore.order import Order
from fakesysfs.explore.reduction import ReducedSearch
from fakesysfs.explore.search import LONGEST, Branch, Found, Search, run_order
from fakesysfs.testing.controls import StrPath
from fakesysfs.testing.explored import Exploration, Failure
from fakesysfs.testing.loops import event_loop
from fakesysfs.testing.machine import RunningMachine
from fakesysfs.testing.order_runner import OrderRunner, Program, Scenario, name_of

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

__tracebackhide__ = True  # pytest shows the user's line last; --full-trace shows ours too

_SHARE = 32
"""Branches that are found here before an executor gets them."""


def explore(  # noqa: PLR0913  keywords, each with a default
    programs: Sequence[Program],
    *,
    machine: StrPath = "default",
    kernel: str = "hotplug-v3",
    setup: Callable[[RunningMachine], object] | None = None,
    check: Callable[[RunningMachine], object] | None = None,
    preemptions: int | None = None,
    limit: int | None = None,
    inside: bool = False,
    allow_wedged: bool = False,
    longest: int = LONGEST,
    schedule: str | None = None,
    reduction: bool = True,
    executor: Executor | None = None,
    trace: StrPath | None = None,
) -> Exploration:
    """Run `programs` side by side on a machine, in every order of their steps.

    A program is an async callable that gets an `ExploreHandle` and awaits nothing but its calls. It
    is called anew for each order. Each call is one step; with `inside` the preemption points within
    a call are steps too. An order fails if a program lets an exception out, if `check(machine)`
    raises one or returns False, or if the programs never end. `setup(machine)` runs before each
    order, on the machine as it has booted, and must do the same each time. Unless `allow_wedged`, an
    order fails, too, if at its end the devices' memory can no longer be taken away, neither with the
    whole-device attribute nor block by block, though that works after the setup.

    Orders that differ in steps that commute have the same outcome; one of them is explored, the others
    are `cut`. `reduction=False` explores all; programs that share more than the machine, such as a
    Python variable, need that. With an `executor` there is no reduction between the parts that it gets.

    `preemptions` leaves out the orders in which a program is preempted more often, and tries those
    first in which it happens least. `limit` ends the search after so many orders, `longest` gives an
    order up after so many steps. `schedule` runs one order only, that of a `Failure`. `executor` shares
    the search out: with a pool of processes, all callables must be importable by name. `trace` is a
    file that gets what happens in the shortest failing order (docs/trace.md), *.jsonl or *.pftrace; it
    is not written if no order fails.

    Raises ValueError for an unknown machine or kernel, TypeError for a program that awaits anything
    else, and RuntimeError where an event loop runs: there, await `explore_async`.
    """
    _refuse_event_loop()
    scenario = Scenario(tuple(programs), os.fspath(machine), kernel, setup, check, inside, longest, allow_wedged)
    runner = OrderRunner(scenario)
    if executor is not None and schedule is None:
        if reduction:
            few = _SHARE if limit is None else min(limit, _SHARE)
            small = ReducedSearch(preemptions=preemptions, limit=few, longest=longest)
            with _rarer_collections(), _recorded(runner, small):
                small.work(runner)
            if not small.found.interrupted or few == limit:
                return _exploration(runner, small, schedule, preemptions, trace)
        shared = Search(preemptions=preemptions, limit=limit, longest=longest)
        shared.work(runner, until_pending=_SHARE)
        _share(shared, scenario, executor, preemptions=preemptions, limit=limit, reduction=reduction)
        return _exploration(runner, shared, schedule, preemptions, trace)
    search = _search(runner, schedule, preemptions=preemptions, limit=limit, reduction=reduction)
    with _rarer_collections(), _recorded(runner, search):
        search.work(runner)
    return _exploration(runner, search, schedule, preemptions, trace)


@contextlib.contextmanager
def _rarer_collections() -> Iterator[None]:
    """Collect garbage less often, and leave out what was there before: otherwise that takes a third of an order."""
    before, is_frozen = gc.get_threshold(), gc.get_freeze_count() > 0
    if before[0]:
        gc.set_threshold(20_000, 5, 5)
    if not is_frozen:
        gc.freeze()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if not is_frozen:
            gc.unfreeze()


async def explore_async(  # noqa: PLR0913  as explore
    programs: Sequence[Program],
    *,
    machine: StrPath = "default",
    kernel: str = "hotplug-v3",
    setup: Callable[[RunningMachine], object] | None = None,
    check: Callable[[RunningMachine], object] | None = None,
    preemptions: int | None = None,
    limit: int | None = None,
    inside: bool = False,
    allow_wedged: bool = False,
    longest: int = LONGEST,
    schedule: str | None = None,
    reduction: bool = True,
    trace: StrPath | None = None,
) -> Exploration:
    """As `explore`, within trio or asyncio. Other tasks run between two orders."""
    loop = event_loop()
    scenario = Scenario(tuple(programs), os.fspath(machine), kernel, setup, check, inside, longest, allow_wedged)
    runner = OrderRunner(scenario)
    search = _search(runner, schedule, preemptions=preemptions, limit=limit, reduction=reduction)
    with _recorded(runner, search):
        while search.work_once(runner):
            await loop.checkpoint()
    return _exploration(runner, search, schedule, preemptions, trace)


def _refuse_event_loop() -> None:
    try:
        event_loop()
    except RuntimeError:
        return
    raise RuntimeError("an event loop runs here: await explore_async(...) instead")


def _search(
    runner: OrderRunner, schedule: str | None, *, preemptions: int | None, limit: int | None, reduction: bool
) -> Search | ReducedSearch:
    longest = runner.scenario.longest
    if schedule is not None:
        return Search(limit=1, longest=longest, first=[Branch(tuple(schedule.split()), (), 0)])
    if not reduction:
        return Search(preemptions=preemptions, limit=limit, longest=longest)
    return ReducedSearch(preemptions=preemptions, limit=limit, longest=longest)


def _recorded(runner: OrderRunner, search: Search | ReducedSearch) -> contextlib.AbstractContextManager[None]:
    """Have the steps recorded, if the search asks what they read and change."""
    return runner.recorded() if isinstance(search, ReducedSearch) else contextlib.nullcontext()


def _share(
    search: Search,
    scenario: Scenario,
    executor: Executor,
    *,
    preemptions: int | None,
    limit: int | None,
    reduction: bool,
) -> None:
    """Have `executor` search the branches that are left. There is no reduction between them."""
    from concurrent.futures import FIRST_COMPLETED, wait  # noqa: PLC0415  few need it

    branches = search.take_pending()
    running: set[Future[Found]] = set()
    found = search.found
    workers = getattr(executor, "_max_workers", None) or os.cpu_count() or 1
    while branches or running:
        while branches and len(running) < 2 * workers and (limit is None or found.explored + found.cut < limit):
            left = None if limit is None else limit - found.explored - found.cut
            running.add(executor.submit(_search_branch, scenario, branches.pop(), preemptions, left, reduction))
        if not running:
            found.interrupted = True
            return
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            found.merge(future.result())


class _Local(threading.local):
    """The runner of this thread, for the branches that an executor gives it."""

    runner: OrderRunner | None = None


_local = _Local()


def _search_branch(
    scenario: Scenario,
    branch: Branch,
    preemptions: int | None,
    limit: int | None,
    reduction: bool,  # noqa: FBT001  submitted to an executor
) -> Found:
    if _local.runner is None or _local.runner.scenario != scenario:
        _local.runner = OrderRunner(scenario)
    runner, longest = _local.runner, scenario.longest
    search: Search | ReducedSearch
    if reduction:
        search = ReducedSearch(preemptions=preemptions, limit=limit, longest=longest, first=branch)
    else:
        search = Search(preemptions=preemptions, limit=limit, longest=longest, first=[branch])
    with _rarer_collections(), _recorded(runner, search):
        search.work(runner)
    return search.found


def _exploration(
    runner: OrderRunner,
    search: Search | ReducedSearch,
    schedule: str | None,
    preemptions: int | None,
    trace: StrPath | None,
) -> Exploration:
    found = search.found
    seconds = search.elapsed
    reported = report.reported(runner, found, shorten=schedule is None)
    if trace is not None and reported:
        with runner.traced(trace):
            run_order(runner, reported[0].schedule, expected=reported[0].steps, longest=None)
    if schedule is not None:
        # one order was wanted, and branches of it are no news
        found.interrupted = False
    text = report.text(found, reported, seconds=seconds, preemptions=preemptions, replay=_replay_line(runner.scenario))
    failures = [Failure(" ".join(order.schedule), tuple(order.steps), order.why or "") for order in reported]
    complete = found.complete and schedule is None
    return Exploration(
        found.explored,
        found.cut,
        found.failed,
        complete,
        found.conflicts,
        found.conflicts_both_ways,
        preemptions,
        seconds,
        failures,
        text,
    )


def _replay_line(scenario: Scenario) -> Callable[[Order], str]:
    names = ", ".join(name_of(program) for program in scenario.programs)
    options = [f"machine={scenario.machine!r}", f"kernel={scenario.kernel!r}"]
    options += [f"{name}=..." for name in ("setup", "check") if getattr(scenario, name) is not None]
    options += [f"{name}=True" for name in ("inside", "allow_wedged") if getattr(scenario, name)]

    def line(order: Order) -> str:
        return f'explore([{names}], {", ".join(options)}, schedule="{" ".join(order.schedule)}")'

    return line
