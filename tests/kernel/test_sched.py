"""Locks, references and preemption points without a clock (kernel/locking/mutex.c, fs/kernfs/dir.c)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakesysfs.ops.sched import (
    ActiveReferences,
    Answer,
    Mutex,
    Preempt,
    Preemption,
    Signals,
    Sleep,
    Wait,
    WaitQueue,
    WouldSleepError,
    ask,
    run,
)
from fakesysfs.testing.tasks import Signal, Tasks


async def hold(mutex: Mutex, name: str, seen: list[str], gate: WaitQueue | None) -> None:
    async with mutex:
        seen.append(name)
        if gate is not None:
            await ask(Wait("gate", gate))
        seen.append(f"-{name}")


def test_a_mutex_is_given_to_who_came_first() -> None:
    mutex, seen, gate, tasks = Mutex("m"), [], WaitQueue(), Tasks()  # type: tuple[Mutex, list[str], WaitQueue, Tasks]
    for name in "abc":
        tasks.spawn(hold(mutex, name, seen, gate if name == "a" else None))
    tasks.settle()
    assert seen == ["a"]
    assert not mutex.trylock()
    gate.wake_all()
    tasks.settle()
    assert seen == ["a", "-a", "b", "-b", "c", "-c"]
    assert not mutex.locked


def test_a_free_mutex_costs_no_turn_of_the_loop() -> None:
    mutex, seen = Mutex("m"), []  # type: tuple[Mutex, list[str]]
    run(hold(mutex, "a", seen, None))
    assert seen == ["a", "-a"]


def test_who_waits_for_a_mutex_hears_no_signal() -> None:
    """hotplug_store's mutex is uninterruptible: its waiters are in D and immune to SIGKILL (KERNEL.md 6, recorded)."""
    mutex, seen, tasks = Mutex("m"), [], Tasks()  # type: tuple[Mutex, list[str], Tasks]
    assert mutex.trylock()
    task = tasks.spawn(hold(mutex, "a", seen, None))
    tasks.settle()
    tasks.signal(task, Signal.SIGKILL)
    tasks.settle()
    assert task.letter == "D"
    mutex.unlock()
    tasks.settle()
    assert seen == ["a", "-a"]


def test_the_lock_goes_on_when_a_waiter_is_given_up() -> None:
    """A reset or unmount closes operations wherever they stand, one that was just handed the lock too."""
    mutex = Mutex("m")
    assert mutex.trylock()
    first, second, third = (mutex.lock() for _ in range(3))
    requests = [operation.send(None) for operation in (first, second, third)]
    second.close()
    assert mutex.locked
    mutex.unlock()  # handed to the first, which is given up before it runs
    assert mutex.locked
    first.close()
    assert mutex.locked  # the third's now
    with pytest.raises(StopIteration):
        third.send(Answer.WOKEN)
    mutex.unlock()
    assert mutex.trylock()
    assert all(isinstance(request, Wait) and request.signals is Signals.NONE for request in requests)


@given(st.lists(st.sampled_from(["arrive", "leave", "give up"]), max_size=40), st.integers(0, 5))
def test_whatever_happens_to_waiters_one_holds_the_lock_until_none_wants_it(steps: list[str], which: int) -> None:
    mutex, seen, tasks = Mutex("m"), [], Tasks()  # type: tuple[Mutex, list[str], Tasks]
    names = (str(number) for number in itertools.count())
    gates: dict[str, WaitQueue] = {}
    for step in steps:
        holding = [name for name in seen if not name.startswith("-") and f"-{name}" not in seen and name in gates]
        if step == "arrive":
            name = next(names)
            gates[name] = WaitQueue()
            tasks.spawn(hold(mutex, name, seen, gates[name]), name)
        elif step == "leave" and holding:
            gates.pop(holding[0]).wake_all()
        elif step == "give up" and tasks.tasks:
            task = tasks.tasks[which % len(tasks.tasks)]
            tasks.tasks.remove(task)
            if task.token is not None and isinstance(task.request, Wait):
                task.request.queue.discard(task.token)
            task.operation.close()
            gates.pop(task.name, None)
            seen = [one for one in seen if one.removeprefix("-") != task.name]
            break
        tasks.settle()
    tasks.settle()
    for _ in range(len(gates) + 1):
        for gate in list(gates.values()):
            gate.wake_all()
        tasks.settle()
    assert not tasks.tasks
    assert not mutex.locked


def test_restarters_are_woken_when_the_mutex_is_free_not_when_it_is_handed_on() -> None:
    mutex, calls = Mutex("m"), []  # type: tuple[Mutex, list[str]]
    assert mutex.trylock()
    waiter = mutex.lock()
    waiter.send(None)
    mutex.released.add(lambda: calls.append("free"))
    mutex.unlock()
    assert calls == []
    with pytest.raises(StopIteration):
        waiter.send(Answer.WOKEN)
    mutex.unlock()
    assert calls == ["free"]


def test_draining_waits_for_the_last_user() -> None:
    """An attribute's removal sleeps until all running stores have returned (KERNEL.md 1)."""
    references, tasks = ActiveReferences(), Tasks()
    run(references.drain())
    with references:
        with references:
            task = tasks.spawn(references.drain())
            tasks.settle()
        tasks.settle()
        assert task.letter == "D"
    tasks.settle()
    assert task.finished


def test_a_wait_queue_calls_each_once_and_in_order() -> None:
    queue, calls = WaitQueue(), []  # type: tuple[WaitQueue, list[int]]
    callbacks = [lambda number=number: calls.append(number) for number in range(3)]
    tokens = [queue.add(callback) for callback in callbacks]
    queue.discard(tokens[1])
    queue.discard(tokens[1])
    assert len(queue) == 2
    queue.wake_all()
    queue.wake_all()
    assert calls == [0, 2]


@pytest.mark.parametrize(
    ("preemption", "step", "request_"),
    [
        (Preemption(), 32, None),
        (Preemption(latency={"online_block": 0.0}), 32, None),
        (Preemption(latency={"offline_block": 1.0}), 32, None),
        (Preemption(latency={"online_block": 1.5}), 1, Sleep("online_block", 1.5)),
        (Preemption(watched=True), 1, Preempt("online_block")),
        (Preemption(latency={"online_block": 1.5}, watched=True), 1, Sleep("online_block", 1.5)),
    ],
)
def test_how_far_a_step_goes_and_what_it_asks_for(preemption: Preemption, step: int, request_: Any) -> None:
    assert preemption.step("online_block", 32) == step

    async def point() -> None:
        await preemption("online_block")

    operation = point()
    if request_ is None:
        run(operation)
    else:
        assert operation.send(None) == request_
        operation.close()


def test_an_operation_that_must_not_sleep_is_closed_when_it_asks_to() -> None:
    closed: list[bool] = []

    async def sleeper() -> None:
        try:
            await ask(Sleep("somewhere", 1.0))
        finally:
            closed.append(True)
        raise AssertionError

    with pytest.raises(WouldSleepError) as error:
        run(sleeper())
    assert error.value.request == Sleep("somewhere", 1.0)
    assert closed == [True]


def test_a_queue_never_confuses_who_waits() -> None:
    """Who was woken, and forgets itself only later, takes nobody along that began to wait meanwhile."""
    queue = WaitQueue()
    woken: list[int] = []
    for number in range(100):
        first = queue.add(lambda: None)
        queue.wake_all()
        queue.add(lambda number=number: woken.append(number))  # type: ignore[misc]  # may lie where the first one lay
        queue.discard(first)
        queue.wake_all()
    assert woken == list(range(100))
