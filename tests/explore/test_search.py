"""The search: every order, each once, with and without bounds, by any number of workers."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakesysfs.explore.order import DivergedError, Guide, Order, Step, in_order, program_name, program_of
from fakesysfs.explore.search import Search, run_order
from tests.explore.toys import LOCK, UNLOCK, ToyRunner


class Recording(ToyRunner):
    """Remembers the schedule of each order."""

    def __init__(self, programs: Sequence[Sequence[str]]) -> None:
        super().__init__(programs)
        self.orders: list[Order] = []

    def run(self, guide: Guide) -> None:
        """Run one order, and remember it."""
        super().run(guide)
        self.orders.append(guide.order)


def interleavings(left: Sequence[Sequence[str]], owner: int | None = None) -> Iterator[tuple[str, ...]]:
    """All of them, written down in another way than the search does it: by recursion over what is left."""
    able = [number for number, operations in enumerate(left) if operations and (operations[0] != LOCK or owner is None)]
    if not able:
        yield ()
    for number in able:
        operation = left[number][0]
        after = [operations[1:] if at == number else operations for at, operations in enumerate(left)]
        then = number if operation == LOCK else None if operation == UNLOCK else owner
        for rest in interleavings(after, then):
            yield (program_name(number), *rest)


plain = st.lists(st.just("step"), max_size=4)
locking = plain.map(lambda steps: [LOCK, *steps, UNLOCK])
programs = st.lists(st.one_of(plain, locking), min_size=1, max_size=3).filter(lambda some: sum(map(len, some)) < 9)


@given(programs)
def test_every_order_once(some: list[list[str]]) -> None:
    runner = Recording(some)
    search = Search()
    search.work(runner)
    found = [order.schedule for order in runner.orders]
    assert len(found) == len(set(found)) == search.found.explored
    assert set(found) == set(interleavings(some))
    assert search.found.complete
    assert search.found.longest == max(map(len, found))


@given(programs, st.integers(0, 3))
def test_a_bound_leaves_out_exactly_the_orders_with_more_preemptions(some: list[list[str]], bound: int) -> None:
    everything, bounded = Recording(some), Recording(some)
    Search().work(everything)
    search = Search(preemptions=bound)
    search.work(bounded)
    within = {order.schedule for order in everything.orders if order.preemptions <= bound}
    assert {order.schedule for order in bounded.orders} == within
    assert len(bounded.orders) == len(within)
    assert search.found.complete == (len(within) == len(everything.orders))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_two_programs(steps: int) -> None:
    search = Search()
    search.work(ToyRunner([["step"] * steps] * 2))
    assert search.found.explored == math.comb(2 * steps, steps)


def test_branches_in_memory_do_not_grow_with_the_orders() -> None:
    most = 0

    def look(search: Search) -> None:
        nonlocal most
        most = max(most, search.pending)

    search = Search(told=look)
    search.work(ToyRunner([["step"] * 6] * 2))
    assert search.found.explored == math.comb(12, 6)
    assert most <= 12


def test_workers_share_a_search() -> None:
    runners = [Recording([["step"] * 4] * 2) for _ in range(3)]
    search = Search()
    workers = [threading.Thread(target=search.work, args=(runner,)) for runner in runners]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = [order.schedule for runner in runners for order in runner.orders]
    assert len(found) == len(set(found)) == search.found.explored == math.comb(8, 4)


def test_a_worker_that_fails_ends_the_search() -> None:
    class Broken(ToyRunner):
        def run(self, guide: Guide) -> None:
            super().run(guide)
            if self.runs == 3:
                raise OSError("the mount is gone")

    search = Search()
    with pytest.raises(OSError, match="the mount is gone"):
        search.work(Broken([["step"] * 4] * 2))
    search.work(ToyRunner([["step"] * 4] * 2))
    assert search.found.explored == 2
    assert not search.found.complete


def test_a_limit() -> None:
    search = Search(limit=5)
    search.work(ToyRunner([["step"] * 4] * 2))
    assert search.found.explored == 5
    assert search.found.interrupted
    assert not search.found.complete


def test_a_limit_that_is_just_enough() -> None:
    search = Search(limit=6)
    search.work(ToyRunner([["step"] * 2] * 2))
    assert search.found.explored == 6
    assert search.found.complete


def test_no_time() -> None:
    search = Search(seconds=0)
    search.work(ToyRunner([["step"]] * 2))
    assert search.found.explored == 0
    assert search.found.interrupted


def test_an_order_that_is_too_long_is_cut_and_its_other_branches_are_searched() -> None:
    runner = Recording([["step"] * 5, ["step"]])
    search = Search(longest=3)
    search.work(runner)
    assert search.found.explored == 0
    assert search.found.cut == 4  # AAA AAB ABA BAA, each with more steps to take
    assert not search.found.complete


def test_a_program_that_does_something_else_when_repeated() -> None:
    class Fickle(ToyRunner):
        def run(self, guide: Guide) -> None:
            guide.choose(["A", "B"])
            self.runs += 1
            guide.took(Step("A", "write", result=str(self.runs)))
            super().run(guide)

    search = Search()
    search.work(Fickle([["step"] * 2] * 2))
    assert search.found.cut > 0
    assert not search.found.complete
    assert search.found.not_finished[0].diverged.startswith('step 1 should be "A: write: 1", and is "A: write: ')


def test_failures_are_counted_and_kept() -> None:
    search = Search()
    search.work(ToyRunner([["step"] * 2] * 2, lambda did: "B was between" if did[1:3] == ["B1", "A2"] else None))
    assert search.found.failed == 1
    assert [order.schedule for order in search.found.failures] == [("A", "B", "A", "B")]


def test_a_deadlock_is_an_order() -> None:
    search = Search()
    search.work(ToyRunner([[LOCK, "step"], [LOCK, UNLOCK]]))
    assert {order.why for order in search.found.failures} == {"B never ends"}


# The guide ------------------------------------------------------------------------------------------------------------


def test_a_schedule_is_followed() -> None:
    order = run_order(ToyRunner([["step"] * 2] * 2), list("ABBA"))
    assert order.schedule == ("A", "B", "B", "A")
    assert order.preemptions == 1
    assert order.switches == 2


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        ("A A A", "step 3 should be one of A, and is one of B"),
        ("A C", "step 2 should be one of C, and is one of A, B"),
        ("A A B B B", "step 5 should be one of B, and is missing: all processes have ended"),
    ],
)
def test_a_schedule_that_does_not_fit(schedule: str, why: str) -> None:
    assert run_order(ToyRunner([["step"] * 2] * 2), schedule.split()).diverged == why


def test_a_loose_schedule_leaves_out_what_does_not_fit() -> None:
    order = run_order(ToyRunner([["step"] * 2] * 2), list("AAABCB"), loosely=True)
    assert order.schedule == ("A", "A", "B", "B")


def test_a_step_that_differs() -> None:
    guide = Guide(["A"], expected=[Step("A", "write", "/x", "1", "1 bytes")])
    guide.choose(["A"])
    with pytest.raises(DivergedError, match="step 1 should be"):
        guide.took(Step("A", "write", "/x", "1", "EBUSY"))


def test_what_does_not_make_a_step_another_one() -> None:
    step = Step("A", "write", "/x", "1", "EBUSY", why="pid 7 holds it", changed=("x",), command="sh")
    assert step.is_same(Step("A", "write", "/x", "1", "EBUSY", why="pid 9 holds it"))


def test_names() -> None:
    assert [program_name(number) for number in (0, 1, 25, 26, 27, 51, 52)] == ["A", "B", "Z", "AA", "AB", "AZ", "BA"]
    assert program_of("AB.12") == "AB"
    assert sorted(["B", "A.10", "AA", "A.2", "A"], key=in_order) == ["A", "A.2", "A.10", "B", "AA"]


def test_processes_of_one_program_do_not_preempt_each_other() -> None:
    steps = [Step(name, "write") for name in ("A", "A.1", "B", "A")]
    both = ("A", "A.1", "B")
    assert Order(steps, [both] * 4).preemptions == 2  # B, and A after it
    assert Order(steps, [both, both, ("B",), ("A",)]).preemptions == 0
    assert Order(steps, [both] * 4).switches == 2


def test_without_a_schedule_a_program_goes_on_with_another_process() -> None:
    guide = Guide(["B", "B.1"])
    for runnable, chosen in [(["A", "B"], "B"), (["A", "B.1"], "B.1"), (["A", "B", "B.2"], "B"), (["A"], "A")]:
        assert guide.choose(runnable) == chosen
        guide.took(Step(chosen, "write"))
