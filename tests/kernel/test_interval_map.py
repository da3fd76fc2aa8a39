"""`Runs` against a dictionary with one entry per number: same values, and never more runs than need be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fakesysfs.kernel.interval_map import IntervalMap

LIMIT = 24

EDITS = st.lists(
    st.tuples(st.integers(0, LIMIT), st.integers(0, 9), st.one_of(st.none(), st.sampled_from("abc"))).map(
        lambda drawn: (drawn[0], drawn[0] + drawn[1], drawn[2])
    ),
    max_size=20,
)
"""(first, last, value to set or None to clear)."""


def edited(edits: list[tuple[int, int, str | None]]) -> tuple[IntervalMap[str], dict[int, str]]:
    runs: IntervalMap[str] = IntervalMap()
    model: dict[int, str] = {}
    for first, last, value in edits:
        if value is None:
            runs.clear(first, last)
        else:
            runs.set(first, last, value)
        for number in range(first, last + 1):
            if value is None:
                model.pop(number, None)
            else:
                model[number] = value
    return runs, model


def runs_of(model: dict[int, str], first: int = -1, last: int = 2 * LIMIT) -> list[tuple[int, int, str]]:
    """The longest runs of equal values in first..last."""
    found: list[tuple[int, int, str]] = []
    for number in sorted(model):
        if not first <= number <= last:
            continue
        if found and found[-1][1] + 1 == number and found[-1][2] == model[number]:
            found[-1] = (found[-1][0], number, model[number])
        else:
            found.append((number, number, model[number]))
    return found


@given(EDITS)
def test_runs_hold_what_a_dictionary_holds(edits: list[tuple[int, int, str | None]]) -> None:
    runs, model = edited(edits)
    assert list(runs) == runs_of(model)
    assert len(runs) == len(runs_of(model))
    whole = {number: run for run in runs_of(model) for number in range(run[0], run[1] + 1)}
    for number in range(-1, 2 * LIMIT):
        assert runs.get(number) == model.get(number)
        assert runs.run(number) == whole.get(number)


@given(EDITS, st.integers(0, LIMIT), st.integers(0, LIMIT))
def test_parts_are_cut_at_the_ends_of_what_was_asked_for(
    edits: list[tuple[int, int, str | None]], one: int, other: int
) -> None:
    runs, model = edited(edits)
    first, last = min(one, other), max(one, other)
    assert list(runs.between(first, last)) == runs_of(model, first, last)
    assert list(runs.backwards(first, last)) == runs_of(model, first, last)[::-1]


@given(EDITS, st.integers(0, LIMIT), st.integers(0, LIMIT))
def test_a_walk_sees_what_was_changed_behind_it_and_before_it(
    edits: list[tuple[int, int, str | None]], one: int, other: int
) -> None:
    """Loops change the runs they stand on: each step looks again."""
    runs, model = edited(edits)
    first, last = min(one, other), max(one, other)
    seen = []
    for begin, end, value in runs.between(first, last):
        seen += [(number, value) for number in range(begin, end + 1)]
        runs.set(begin, end, "x")
    assert seen == [(number, model[number]) for number in sorted(model) if first <= number <= last]
