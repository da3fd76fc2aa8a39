"""`fakesysfs explore`: the search with its workers, the report, files of orders. Its options are in arguments.py."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from fakesysfs.explore import report
from fakesysfs.explore.messages import Task, step_of
from fakesysfs.explore.minimise import ATTEMPTS, minimise
from fakesysfs.explore.order import Order, Step, program_name
from fakesysfs.explore.reduction import ReducedSearch
from fakesysfs.explore.report import AnySearch
from fakesysfs.explore.scenario import Bounds, Scenario, ScenarioError, ScenarioFile, scenario_of
from fakesysfs.explore.search import Found, Search, run_order
from fakesysfs.explore.shards import MergeError, Shard, ShardedSearch, as_json, merge
from fakesysfs.explore.workers import CannotRunError, Worker
from fakesysfs.sandbox.server import Fake
from fakesysfs.trace import Target
from fakesysfs.trace.events import from_lines
from fakesysfs.trace.timeline import page

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
        if options.merge is not None:
            return _merge(options)
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
    shard = None if options.shard is None else _shard(options.shard)
    progress = _Progress() if sys.stderr.isatty() else None
    explored = explore(scenario, progress, reduction=not options.no_reduction, shard=shard)
    return _report(options, scenario, explored)


@dataclass(slots=True)
class Explored:
    """What a search has found."""

    found: Found
    orders: list[Order]
    """One failing order of each kind, the shortest first."""
    seconds: float
    shard: dict[str, Any] | None = None
    """For --merge, if only a part was explored."""


def explore(
    scenario: Scenario,
    told: Callable[[AnySearch], None] | None = None,
    *,
    reduction: bool = True,
    shard: Shard | None = None,
) -> Explored:
    """Search. `told` is called after each order. Raises CannotRunError."""
    with _workers(scenario.fake, scenario.task, scenario.jobs) as workers:
        search = _new_search(scenario, told, reduction=reduction, shard=shard)
        for worker in workers:
            worker.records = search.found.reduces
        _search(search, workers)
        seconds = search.elapsed
        orders = _shortest(workers[0], search.found, seconds * scenario.jobs / max(1, search.found.explored))
    found = search.found
    part = None
    if isinstance(search, ShardedSearch) and shard is not None:
        part = as_json(shard, search.digest, _known(scenario.fake, scenario.task), found)
    return Explored(found, orders, seconds, part)


def _new_search(
    scenario: Scenario, told: Callable[[AnySearch], None] | None, *, reduction: bool, shard: Shard | None
) -> Search | ReducedSearch | ShardedSearch:
    # --always sees the machine between two steps that commute.
    reduction = reduction and not scenario.task.always
    bounds = scenario.bounds
    preemptions, limit, seconds = bounds.preemptions, bounds.limit, bounds.seconds
    if shard is not None:
        return ShardedSearch(
            shard,
            reduction=reduction,
            preemptions=preemptions,
            limit=limit,
            seconds=seconds,
            longest=LONGEST,
            told=told,
        )
    kind = ReducedSearch if reduction else Search
    return kind(preemptions=preemptions, limit=limit, seconds=seconds, longest=LONGEST, told=told)


def _report(options: argparse.Namespace, scenario: Scenario, explored: Explored) -> int:
    """Print the report and write the files; returns the exit status."""
    found, orders, preemptions = explored.found, explored.orders, scenario.bounds.preemptions
    files = _write_orders(scenario.fake, scenario.task, orders)
    out = sys.stderr if options.json == "-" else sys.stdout
    if options.shard is not None:
        print(f"Shard {options.shard}:", file=out)
    text = report.text(
        found,
        orders,
        seconds=explored.seconds,
        preemptions=preemptions,
        replay=lambda order: f"fakesysfs explore --replay {files.get(order.schedule, 'FILE')}",
    )
    print(text, file=out)
    if options.html is not None:
        _write_pages(options.html, scenario.fake, scenario.task, orders)
    if options.json is not None:
        _write_json(options.json, explored, preemptions)
    if found.failed:
        return SOME_FAIL
    return NONE_FAILS if found.complete or _is_bounded_only(found) else CUT_SHORT


def _shard(text: str) -> Shard:
    try:
        return Shard.parse(text)
    except ValueError:
        raise CannotRunError(f"--shard {text}: give a part and how many there are, such as 1/3", WRONG_USE) from None


def _merge(options: argparse.Namespace) -> int:
    """Report what shards have found."""
    results = [
        _read_json(path, "no result of a shard, which `fakesysfs explore --shard --json` writes")
        for path in options.merge
    ]
    try:
        found, orders = merge(results)
        fake, task = _task_of(results[0]["shard"]["task"])
        seconds, preemptions = sum(result["seconds"] for result in results), results[0]["preemptions"]
    except MergeError as error:
        raise CannotRunError(f"--merge: {error}", WRONG_USE) from None
    except (KeyError, TypeError, ValueError):
        raise CannotRunError(
            "--merge needs files that `fakesysfs explore --shard --json` has written", WRONG_USE
        ) from None
    shortest: dict[str, Order] = {}
    for order in orders:
        shortest.setdefault(order.kind, order)
    explored = Explored(found, list(shortest.values()), seconds)
    return _report(options, Scenario(fake, task, Bounds(preemptions=preemptions)), explored)


def _is_bounded_only(found: Found) -> bool:
    """Whether all was explored that the user asked for with --preemptions."""
    return bool(found.bounded) and not (found.cut or found.interrupted)


class _Progress:
    """Says once in a while how far the search is."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _PROGRESS_SECONDS

    def __call__(self, search: AnySearch) -> None:
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


def _search(search: AnySearch, workers: Sequence[Worker]) -> None:
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
    return {
        "schedule": " ".join(order.schedule),
        "steps": [asdict(step) for step in order.steps],
        "why": order.why,
        "kind": order.kind,
        "runnable": order.runnable[: len(order.steps)],
    }


def _write_json(file: str, explored: Explored, preemptions: int | None) -> None:
    found = explored.found
    reported = {order.schedule for order in explored.orders}
    failures = [*explored.orders, *(order for order in found.failures if order.schedule not in reported)]
    result = {
        "explored": found.explored,
        "cut": found.cut,
        "reduction": found.reduces,
        "conflicts": found.conflicts,
        "conflicts_both_ways": found.conflicts_both_ways,
        "failed": found.failed,
        "complete": found.complete,
        "covered": report.covered_by(found, preemptions),
        "preemptions": preemptions,
        "seconds": round(explored.seconds, 3),
        "failures": [_as_json(order) for order in failures],
    }
    if explored.shard is not None:
        result["shard"] = explored.shard
    text = json.dumps(result, indent=1) + "\n"
    if file == "-":
        print(text, end="")
    else:
        Path(file).write_text(text, "utf-8")


# Files of orders ------------------------------------------------------------------------------------------------------


def _write_orders(fake: Fake, task: Task, orders: Sequence[Order]) -> dict[tuple[str, ...], str]:
    """Write all that it takes to run these orders again; returns the files by the orders' schedules."""
    files = {}
    for number, order in enumerate(orders):
        file = _FILE.format(f"-{number + 1}" if number else "")
        known = {**_known(fake, task), **_as_json(order)}
        try:
            Path(file).write_text(json.dumps(known, indent=1) + "\n", "utf-8")
        except OSError as error:
            _say(f"{file}: {error.strerror}: the order cannot be replayed from a file")
            break
        files[order.schedule] = file
    return files


def _write_pages(file: str, fake: Fake, task: Task, orders: Sequence[Order]) -> None:
    """Write the timelines of these orders. Each is run once more, in a run of its own that is traced."""
    path = Path(file)
    for number, order in enumerate(orders, 1):
        with tempfile.TemporaryFile() as trace:
            traced = fake._replace(traces=(Target(trace.fileno(), ".jsonl"),))
            with _workers(traced, task, 1) as (worker,):
                run_order(worker, order.schedule, expected=order.steps, longest=None)
            trace.seek(0)
            programs = "; ".join(f"{program_name(place)} is {program}" for place, program in enumerate(task.programs))
            text = page(from_lines(trace), f"Failing order {' '.join(order.schedule)}", f"{order.why}. {programs}.")
        target = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        try:
            target.write_text(text, "utf-8")
        except OSError as error:
            _say(f"{target}: {error.strerror}: there is no timeline of the order")
            return


def _known(fake: Fake, task: Task) -> dict[str, Any]:
    """All that an order depends on. Its directory is relative, as the file may be read on another machine."""
    if task.directory:
        task = replace(task, directory=os.path.relpath(task.directory))
    return {"machine": fake.machine, "kernel": fake.kernel, **asdict(task)}


def _task_of(known: Mapping[str, Any], path: str | None = None) -> tuple[Fake, Task]:
    """What `_known` has said. `path` is the file where it stands, if its directory is relative to that."""
    task = Task.of({field.name: known[field.name] for field in fields(Task)})
    if task.directory and path is not None:
        task = replace(task, directory=str(Path(path).parent / task.directory))
    return Fake(known["machine"], known["kernel"]), task


def _read_json(path: str, what: str) -> dict[str, Any]:
    try:
        known = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise CannotRunError(f"{path}: {error.strerror}", WRONG_USE) from None
    except ValueError:
        known = None
    if not isinstance(known, dict):
        raise CannotRunError(f"{path}: this is {what}", WRONG_USE)
    return known


def _replay(options: argparse.Namespace) -> int:
    if options.programs:
        raise CannotRunError("--replay takes the programs from its file: leave them out", WRONG_USE)
    what = "no order that `fakesysfs explore` has written"
    known = _read_json(options.replay, what)
    try:
        fake, task = _task_of(known, options.replay)
        steps = [step_of(step) for step in known["steps"]]
        schedule = known["schedule"].split()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CannotRunError(f"{options.replay}: this is {what}", WRONG_USE) from None
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
