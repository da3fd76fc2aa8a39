"""`fakesysfs explore`: the search with its workers, the report, files of orders. Its options are in arguments.py."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from fakesysfs.explore import report
from fakesysfs.explore.messages import Task, step_of
from fakesysfs.explore.minimise import ATTEMPTS, minimise
from fakesysfs.explore.order import Order, Step
from fakesysfs.explore.scenario import Scenario, ScenarioError, ScenarioFile, scenario_of
from fakesysfs.explore.search import Found, Search, run_order
from fakesysfs.explore.workers import CannotRunError, Worker
from fakesysfs.sandbox.server import Fake

NONE_FAILS, SOME_FAIL, WRONG_USE, CUT_SHORT = 0, 1, 2, 3
"""Exit statuses."""

LONGEST = 2_000
"""Steps of one order. A program that repeats itself for ever is given up after so many."""

_PROGRESS_SECONDS = 1.0
_SHORTEN_SECONDS = 20.0
"""How long the failing orders are shortened, about."""
_FILE = "explore-failure{}.json"
"""In the working directory; {} is the number of the failing order, nothing for the first."""


def main(options: argparse.Namespace, *, machine: str, kernel: str) -> int:
    """Explore, or replay; returns the exit status. `machine` and `kernel` are those where nobody has chosen."""
    try:
        if options.replay is not None:
            return _replay(options)
        return _explore(options, _scenario(options, machine, kernel))
    except CannotRunError as error:
        if str(error):
            _say(str(error))
        return error.status
    except ScenarioError as error:
        _say(str(error))
        return WRONG_USE


def _say(text: str) -> None:
    print(f"fakesysfs: {text}", file=sys.stderr, flush=True)


# Explore --------------------------------------------------------------------------------------------------------------


_KEYS = ("setup", "check", "always", "preemptions", "limit", "seconds", "jobs")
"""Options that replace the keys of a scenario."""


def _scenario(options: argparse.Namespace, machine: str, kernel: str) -> Scenario:
    """What the options say, or the file that they name. Raises ScenarioError, CannotRunError."""
    if options.until is not None:
        raise CannotRunError("--until needs --replay: give both", WRONG_USE)
    given = {key: getattr(options, key) for key in _KEYS if getattr(options, key) is not None}
    given |= {key: True for key in ("inside", "allow_wedged", "udev") if getattr(options, key)}
    given |= {key: getattr(options, key) for key in ("machine", "kernel") if getattr(options, key) is not None}
    if options.rules is not None:
        given["rules"] = options.rules
    programs: list[str] = options.programs
    if len(programs) == 1 and programs[0].endswith(".toml"):
        here = Path.cwd()
        given |= {"rules": [_from(here, rule) for rule in given["rules"]]} if "rules" in given else {}
        given |= {"machine": _from(here, given["machine"])} if "machine" in given else {}
        return ScenarioFile(programs[0]).scenario(machine=machine, kernel=kernel, given=given)
    if not programs:
        raise CannotRunError("no program is given: `fakesysfs explore -- 'PROGRAM' 'PROGRAM'`", WRONG_USE)
    return scenario_of({"machine": machine, "kernel": kernel, "programs": programs, **given}).checked()


def _from(here: Path, name: str) -> str:
    """A file that the user named here, for commands that run elsewhere. Built-in names stay."""
    return str(here / name) if (here / name).exists() else name


def _explore(options: argparse.Namespace, scenario: Scenario) -> int:
    progress = _Progress() if sys.stderr.isatty() else None
    explored = explore(scenario, progress)
    found, orders = explored.found, explored.orders
    files = _write_orders(scenario, orders)
    print(
        report.text(
            found,
            orders,
            seconds=explored.seconds,
            preemptions=scenario.bounds.preemptions,
            replay=lambda order: f"fakesysfs explore --replay {files.get(order.schedule, 'FILE')}",
        ),
        file=sys.stderr if options.json == "-" else sys.stdout,
    )
    if options.json is not None:
        _write_json(options.json, explored, scenario.bounds.preemptions)
    if found.failed:
        return SOME_FAIL
    return NONE_FAILS if found.complete or _is_bounded_only(found) else CUT_SHORT


@dataclass(slots=True)
class Explored:
    """What a search has found."""

    found: Found
    orders: list[Order]
    """One failing order of each kind, the shortest first."""
    seconds: float


def explore(scenario: Scenario, told: Callable[[Search], None] | None = None) -> Explored:
    """Search. `told` is called after each order. Raises CannotRunError."""
    bounds = scenario.bounds
    with _workers(scenario.fake, scenario.task, scenario.jobs) as workers:
        search = Search(
            preemptions=bounds.preemptions, limit=bounds.limit, seconds=bounds.seconds, longest=LONGEST, told=told
        )
        _search(search, workers)
        seconds = search.elapsed
        each = seconds * scenario.jobs / max(1, search.found.explored)
        return Explored(search.found, _shortest(workers[0], search.found, each), seconds)


def _is_bounded_only(found: Found) -> bool:
    """Whether all was explored that the user asked for with --preemptions."""
    return bool(found.bounded) and not (found.cut or found.interrupted)


class _Progress:
    """Says once in a while how far the search is."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _PROGRESS_SECONDS

    def __call__(self, search: Search) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _PROGRESS_SECONDS
            _say(report.progress(search))


@contextmanager
def _workers(
    fake: Fake, task: Task, jobs: int, *, until: int | None = None, shown: bool = False
) -> Iterator[list[Worker]]:
    """So many runs, each with a mount of its own. Raises CannotRunError."""
    workers = [Worker(fake, task, until=until, shown=shown) for _ in range(jobs)]
    try:
        for worker in workers:
            worker.wait_until_ready()
        yield workers
    finally:
        for worker in workers:
            worker.close()


def _search(search: Search, workers: Sequence[Worker]) -> None:
    """Search with all workers until the search ends.

    Ctrl-C ends it after the orders that run now; a second one ends these too.
    """
    errors: list[Exception] = []
    interrupts = 0

    def work(worker: Worker) -> None:
        try:
            search.work(worker)
        except Exception as error:  # noqa: BLE001  it is raised below
            errors.append(error)

    def interrupt(*_signal: object) -> None:
        nonlocal interrupts
        interrupts += 1
        # In a thread: the search's lock may be held.
        threading.Thread(target=search.stop, daemon=True).start()
        if interrupts > 1:
            for worker in workers:
                worker.kill()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    if errors:
        raise errors[0]


def _shortest(worker: Worker, found: Found, seconds: float) -> list[Order]:
    """One failing order of each kind, with as few switches as possible, the shortest first; each was run twice.

    `seconds` is what one order takes.
    """
    orders: dict[str, Order] = {}
    for order in sorted(found.failures, key=lambda order: order.length):
        orders.setdefault(order.kind, order)
    attempts = max(1, min(ATTEMPTS, int(_SHORTEN_SECONDS / seconds / max(1, len(orders)))))
    shortest = [minimise(worker, order, attempts) for order in orders.values()]
    return sorted(report.repeated(worker, shortest), key=lambda order: order.length)


# Reports --------------------------------------------------------------------------------------------------------------


def print_steps(steps: Sequence[Step]) -> None:
    """Print steps, one a line, with their numbers."""
    for number, step in enumerate(steps, 1):
        print(f"  {number:3}  {step}" + (f" ({step.why})" if step.why else ""))


def _as_json(order: Order) -> dict[str, Any]:
    steps = [asdict(step) for step in order.steps]
    return {"schedule": " ".join(order.schedule), "steps": steps, "why": order.why, "kind": order.kind}


def _write_json(file: str, explored: Explored, preemptions: int | None) -> None:
    found = explored.found
    reported = {order.schedule for order in explored.orders}
    failures = [*explored.orders, *(order for order in found.failures if order.schedule not in reported)]
    result = {
        "explored": found.explored,
        "cut": found.cut,
        "failed": found.failed,
        "complete": found.complete,
        "covered": report.covered_by(found, preemptions),
        "preemptions": preemptions,
        "seconds": round(explored.seconds, 3),
        "failures": [_as_json(order) for order in failures],
    }
    text = json.dumps(result, indent=1) + "\n"
    if file == "-":
        print(text, end="")
    else:
        Path(file).write_text(text, "utf-8")


# Files of orders ------------------------------------------------------------------------------------------------------


def _write_orders(scenario: Scenario, orders: Sequence[Order]) -> dict[tuple[str, ...], str]:
    """Write all that it takes to run these orders again; returns the files by the orders' schedules."""
    files = {}
    fake, task = scenario.fake, scenario.task
    if task.directory:
        task = replace(task, directory=os.path.relpath(task.directory))
    for number, order in enumerate(orders):
        file = _FILE.format(f"-{number + 1}" if number else "")
        known = {"machine": fake.machine, "kernel": fake.kernel, **asdict(task), **_as_json(order)}
        try:
            Path(file).write_text(json.dumps(known, indent=1) + "\n", "utf-8")
        except OSError as error:
            _say(f"{file}: {error.strerror}: the order cannot be replayed from a file")
            break
        files[order.schedule] = file
    return files


def _replay(options: argparse.Namespace) -> int:
    if options.programs:
        raise CannotRunError("--replay takes the programs from its file: leave them out", WRONG_USE)
    try:
        known = json.loads(Path(options.replay).read_text("utf-8"))
        fake = Fake(known["machine"], known["kernel"])
        task = Task.of({field.name: known[field.name] for field in fields(Task)})
        if task.directory:
            task = replace(task, directory=str(Path(options.replay).parent / task.directory))
        steps = [step_of(step) for step in known["steps"]]
        schedule = known["schedule"].split()
    except OSError as error:
        raise CannotRunError(f"{options.replay}: {error.strerror}", WRONG_USE) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        why = "this is no order that `fakesysfs explore` has written"
        raise CannotRunError(f"{options.replay}: {why}", WRONG_USE) from None
    if options.until is not None and options.until > len(schedule):
        raise CannotRunError(f"--until {options.until}: the order has {len(schedule)} steps", WRONG_USE)
    with _workers(fake, task, 1, until=options.until, shown=True) as (worker,):
        if options.until is not None:
            print_steps(steps[: options.until - 1])
            _say(f"this shell is before step {options.until}, {steps[options.until - 1]}; `exit` ends the run")
            sys.stdout.flush()
            schedule, steps = schedule[: options.until - 1], steps[: options.until - 1]
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the shell's
        order = run_order(worker, schedule, expected=steps, longest=None)
        if options.until is not None:
            return NONE_FAILS
    print_steps(order.steps)
    if order.diverged:
        print(f"this order cannot be followed any more: {order.diverged}")
        return CUT_SHORT
    print(f"it fails: {order.why}" if order.why else "it does not fail")
    return SOME_FAIL if order.why else NONE_FAILS
