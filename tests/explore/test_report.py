"""The shortest failing order, and the report."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from fakesysfs.explore import report
from fakesysfs.explore.minimise import minimise
from fakesysfs.explore.order import Order, Step
from fakesysfs.explore.search import Found, Search, run_order
from tests.explore.toys import Fails, ToyRunner


def breaks(first: str, second: str) -> Fails:
    """An order fails if `second` comes between a program's `first` step and its next one."""

    def fails(did: Sequence[str]) -> str | None:
        after = f"{first[0]}{int(first[1:]) + 1}"
        return "torn" if did.index(first) < did.index(second) < did.index(after) else None

    return fails


@given(st.permutations(["A"] * 6 + ["B"] * 6))
def test_the_shortest(schedule: list[str]) -> None:
    runner = ToyRunner([["step"] * 6] * 2, breaks("A3", "B2"))
    order = run_order(runner, schedule)
    shortest = minimise(runner, order)
    if order.why is None:
        assert shortest.length == order.length or shortest.why is None
    else:
        assert shortest.why == "torn"
        assert shortest.preemptions == 1
        assert shortest.length <= order.length


def test_the_report_has_the_shortest_of_each_kind_first() -> None:
    def fails(did: Sequence[str]) -> str | None:
        return breaks("A1", "B1")(did) or ("late" if did[-1] == "A3" else None)

    runner = ToyRunner([["step"] * 3] * 2, fails)
    search = Search()
    search.work(runner)
    orders = report.reported(runner, search.found)
    assert [order.why for order in orders[:2]] == ["late", "torn"]
    assert [order.preemptions for order in orders[:2]] == [0, 1]
    assert [order.length for order in orders] == sorted(order.length for order in orders)
    assert len({order.schedule for order in orders}) == len(orders) == search.found.failed

    text = report.text(
        search.found, orders, seconds=1, preemptions=None, replay=lambda order: "replay " + " ".join(order.schedule)
    )
    assert text.startswith(f"{search.found.failed} of 20 orders fail. Explored: all orders (complete). 1.0 seconds.\n")
    assert "The shortest order that fails: B B B A A A (preemptions: 0)" in text
    assert "The shortest order that fails in another way: A B" in text
    assert "Replay it: replay B B B A A A" in text


def test_an_order_that_does_not_fail_again() -> None:
    runner = ToyRunner([["step"]] * 2)
    order = run_order(runner, ["A", "B"])
    order.why = order.kind = "sometimes"
    found = Found(explored=2, failed=1, failures=[order])
    reported = report.reported(runner, found)
    assert [other.diverged for other in reported] == ["it does not fail"]
    text = report.text(found, reported, seconds=1, preemptions=None, replay=lambda _order: "no")
    assert "A repetition of this order differs: it does not fail" in text


def test_what_was_covered() -> None:
    def first_line(found: Found, preemptions: int | None = None) -> str:
        text = report.text(found, [], seconds=2, preemptions=preemptions, replay=lambda _order: "")
        return text.splitlines()[0].partition(" fail. ")[2]

    assert first_line(Found(explored=3)) == "Explored: all orders (complete). 2.0 seconds."
    reduced = "Explored: all orders, but for steps that commute (complete). 2.0 seconds."
    assert first_line(Found(explored=3, reduces=True)) == reduced
    assert first_line(Found(explored=3, bounded=1), 2) == "Explored: all with at most 2 preemptions. 2.0 seconds."
    assert first_line(Found(explored=3, bounded=1), 1) == "Explored: all with at most 1 preemption. 2.0 seconds."
    assert first_line(Found(explored=3, interrupted=True)) == "A limit cut the search short. 2.0 seconds."
    after = "A limit cut the search short, after all orders with at most 1 preemption. 2.0 seconds."
    assert first_line(Found(explored=3, interrupted=True, fewest=2), 3) == after
    assert (
        first_line(Found(explored=3, given_up=1, not_finished=[Order(too_long=True)]))
        == "Not all orders were explored. 2.0 seconds."
    )


def test_the_table() -> None:
    steps = [
        Step("A", "write", "/sys/x", "offline\n", "8 bytes", changed=("memory70: online -> offline",), command="sh"),
        Step("B.1", "read", "/sys/y", result="x" * 100, command="cat"),
        Step("A", "write", "/sys/x", "online", "EBUSY", why="it is in use [f]", command="sh"),
    ]
    lines = list(report.table(steps))
    assert lines[0].split("  ")[1] == "step"
    assert lines[1].endswith("8 bytes" + " " * (60 - 7) + "  memory70: online -> offline")
    assert lines[2].endswith("x" * 57 + "...")
    assert lines[3].endswith("it is in use [f]")


def test_repeated_steps_are_shown_once() -> None:
    cycle = [Step("A", "read", "/sys/x", result="1"), Step("A.1", "read", "/sys/y", result="2")]
    steps = [Step("B", "write", "/sys/z"), *cycle * 5, Step("B", "write", "/sys/z"), *cycle[:1] * 3]
    lines = [line.split() for line in report.table(steps)]
    assert [line[0] for line in lines] == ["step", "1", "2", "3", "...", "12", "13", "14", "15"]
    assert " ".join(lines[4]) == "... these 2 steps 4 times more"


def test_pairs_that_were_seen_both_ways() -> None:
    found = Found(explored=3, bounded=1)
    one, other, third = Step("A", "read", "/x"), Step("B", "write", "/x"), Step("A.1", "write", "/x")
    for first, second in ((one, other), (other, one), (third, other), (one, third)):
        found.note_pair(first, second)
    more = Found(bounded=1)
    more.note_pair(third, other)
    more.merge(found)
    assert (more.conflicts, more.conflicts_both_ways) == (2, 1)
    text = report.text(more, [], seconds=2, preemptions=1, replay=lambda _order: "")
    assert "1 of 2 conflicting pairs of steps seen both ways." in text.splitlines()


def test_the_progress_line() -> None:
    search = Search(limit=3)
    search.work(ToyRunner([["step"] * 3] * 2))
    assert report.progress(search).startswith("3 orders explored, 0 fail, 0 cut, ")


def test_a_long_order_is_shown_in_short() -> None:
    """What changes something is always there, and what was looked at just before."""

    def looks(process: str, count: int) -> list[Step]:
        return [Step(process, "read", f"/{number}", result="x") for number in range(count)]

    steps = [*looks("A", 60), Step("A", "write", "/a"), *looks("B", 3), *looks("A", 7), Step("B", "write", "/b")]
    lines = [line.split()[:2] for line in report.table(steps)]
    shown = [int(first) for first, _ in lines[1:] if first.isdecimal()]
    assert shown == [1, 57, 58, 59, 60, 61, 62, 63, 64, 65, 68, 69, 70, 71, 72]
    assert [second for first, second in lines if first == "..."] == ["55", "2"]
    assert report.schedule_in_short([step.process for step in steps]) == "A*61 B*3 A*7 B"
    assert len(list(report.table(steps[:40]))) == 41
    assert report.schedule_in_short(["A", "A", "B"]) == "A A B"
