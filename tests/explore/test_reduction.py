"""The reduced search explores each class of orders that differ in commuting steps only: once, and none is missed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from fakesysfs.explore.order import Guide, Order, Step, program_name
from fakesysfs.explore.reduction import ReducedSearch
from fakesysfs.explore.search import Search
from fakesysfs.ops.footprint import ALL_NOTES, EVERYTHING, LOG, UEVENTS, Footprint


class Access(NamedTuple):
    """A step of a toy program: it reads or writes one variable, takes and frees its lock, or writes it and says so."""

    kind: str
    variable: int

    def footprint(self) -> Footprint:
        """As the machine's: whatever is about a lock conflicts with everything."""
        footprint = Footprint()
        if self.kind in {"lock", "unlock"}:
            footprint.write(EVERYTHING)
        else:
            (footprint.read if self.kind == "read" else footprint.write)(self.variable)
            footprint.notes = UEVENTS * (self.kind == "send")
        return footprint


class Variables:
    """Runs toy programs that share variables. The outcome of an order: what was read, and what is left."""

    def __init__(self, programs: Sequence[Sequence[Access]], footprint: Footprint | None = None) -> None:
        self.programs = programs
        self.outcomes: set[tuple[object, ...]] = set()
        self.orders: list[Order] = []
        self._footprint = footprint

    def run(self, guide: Guide) -> None:
        left = {program_name(number): list(steps) for number, steps in enumerate(self.programs)}
        values: dict[int, str] = {}
        owners: dict[int, str] = {}
        waiting: dict[str, int] = {}
        read: list[tuple[str, str]] = []
        while runnable := [name for name, steps in left.items() if steps and name not in waiting]:
            name = guide.choose(runnable)
            access = left[name].pop(0)
            result = ""
            if access.kind == "read":
                read.append((name, values.get(access.variable, "nothing")))
            elif access.kind == "lock" and owners.get(access.variable, name) != name:
                waiting[name] = access.variable
                left[name].insert(0, Access("lock", access.variable))
                result = "waits"
            elif access.kind == "lock":
                owners[access.variable] = name
            elif access.kind == "unlock":
                heirs = [other for other, variable in waiting.items() if variable == access.variable]
                del owners[access.variable]
                if heirs:
                    owners[access.variable] = heirs[0]
                    del waiting[heirs[0]]
            else:
                values[access.variable] = f"{name}{len(left[name])}"
            guide.took(
                Step(name, access.kind, str(access.variable), result=result), self._footprint or access.footprint()
            )
        self.orders.append(guide.order)
        self.outcomes.add((*sorted(values.items()), *sorted(read), *sorted(owners.items())))


class Listened(Variables):
    """As Variables, with one more program, as udevd: for each variable that a program sends it takes `handled`.

    It receives at once, but processes one after another. `Access(kind, -1)` is about the variable that was sent.
    """

    def __init__(self, programs: Sequence[Sequence[Access]], handled: Sequence[Access]) -> None:
        super().__init__(programs)
        self.handled = handled

    def run(self, guide: Guide) -> None:
        left = {program_name(number): list(steps) for number, steps in enumerate(self.programs)}
        values: dict[int, str] = {}
        queue: list[int] = []
        done = 0
        read: list[tuple[str, str]] = []
        while True:
            runnable = [name for name, steps in left.items() if steps] + ["U"] * bool(queue)
            if not runnable:
                break
            name = guide.choose(runnable)
            if name == "U":
                kind, variable = self.handled[done % len(self.handled)]
                access = Access(kind, queue[0] if variable < 0 else variable)
                done += 1
                if done % len(self.handled) == 0:
                    queue.pop(0)
            else:
                access = left[name].pop(0)
            if access.kind == "read":
                read.append((name, values.get(access.variable, "nothing")))
            else:
                values[access.variable] = f"{name}{done if name == 'U' else len(left[name])}"
            if access.kind == "send":
                queue.append(access.variable)
            footprint = access.footprint()
            footprint.hears |= UEVENTS * (name == "U")
            guide.took(Step(name, access.kind, str(access.variable)), footprint)
        self.orders.append(guide.order)
        reads = tuple(sorted(read, key=lambda it: it[0]))
        self.outcomes.add((*sorted(values.items()), *reads))


def the_class(order: Order) -> tuple[object, ...]:
    """The same for all orders that differ in commuting steps only: for each step, which ones come before it."""
    names: list[tuple[str, int]] = []
    taken: dict[str, int] = {}
    after: dict[tuple[str, int], frozenset[tuple[str, int]]] = {}
    for position, step in enumerate(order.steps):
        taken[step.process] = taken.get(step.process, 0) + 1
        name = step.process, taken[step.process]
        before: set[tuple[str, int]] = set()
        mine = order.footprints[position]
        assert mine is not None
        for earlier, other in enumerate(names):
            theirs = order.footprints[earlier]
            assert theirs is not None
            if other[0] == step.process or mine.conflicts(theirs):
                before |= {other} | after[other]
        after[name] = frozenset(before)
        names.append(name)
    return tuple(sorted((name, tuple(sorted(before))) for name, before in after.items()))


accesses = st.builds(Access, st.sampled_from(["read", "write"]), st.integers(0, 2))
critical = st.tuples(accesses, st.integers(3, 4)).map(
    lambda it: [Access("lock", it[1]), it[0], Access("unlock", it[1])]
)
plain_programs = st.lists(st.lists(accesses, max_size=4), min_size=1, max_size=4).filter(
    lambda some: sum(map(len, some)) < 9
)
programs_with_locks = st.lists(
    st.lists(st.one_of(accesses.map(lambda it: [it]), critical), max_size=2).map(
        lambda parts: list(itertools.chain(*parts))
    ),
    min_size=2,
    max_size=3,
).filter(lambda some: sum(map(len, some)) < 10)


@settings(max_examples=100)
@given(plain_programs)
def test_each_class_once(programs: list[list[Access]]) -> None:
    everything, reduced = Variables(programs), Variables(programs)
    Search().work(everything)
    search = ReducedSearch()
    search.work(reduced)
    finished = [order for order in reduced.orders if not order.asleep]
    classes = [the_class(order) for order in finished]
    assert set(classes) == {the_class(order) for order in everything.orders}
    assert len(set(classes)) == len(classes) == search.found.explored
    assert reduced.outcomes >= everything.outcomes
    assert search.found.complete
    assert search.pending == 0


@settings(max_examples=100)
@given(programs_with_locks)
def test_no_outcome_of_programs_with_locks_is_missed(programs: list[list[Access]]) -> None:
    everything, reduced = Variables(programs), Variables(programs)
    Search().work(everything)
    search = ReducedSearch()
    search.work(reduced)
    assert reduced.outcomes >= everything.outcomes
    assert search.found.explored <= len(everything.orders)


@settings(max_examples=150)
@given(st.one_of(plain_programs, programs_with_locks), st.integers(0, 3))
def test_a_bounded_search_finds_what_an_unbounded_one_finds_within_its_bound(
    programs: list[list[Access]], bound: int
) -> None:
    everything, reduced = Variables(programs), Variables(programs)
    Search(preemptions=bound).work(everything)
    search = ReducedSearch(preemptions=bound)
    search.work(reduced)
    assert reduced.outcomes == everything.outcomes
    assert search.found.explored <= len(everything.orders)
    assert all(order.preemptions <= bound for order in reduced.orders)
    preemptions = [order.preemptions for order in reduced.orders]
    assert preemptions == sorted(preemptions)


senders = st.lists(
    st.lists(st.builds(Access, st.sampled_from(["read", "write", "send"]), st.integers(0, 2)), max_size=3),
    min_size=1,
    max_size=2,
).filter(lambda some: sum(1 + (access.kind == "send") for steps in some for access in steps) < 7)
handlers = st.lists(st.builds(Access, st.sampled_from(["read", "write"]), st.integers(-1, 2)), min_size=1, max_size=2)


@settings(max_examples=100)
@given(senders, handlers, st.one_of(st.none(), st.integers(0, 2)))
def test_no_outcome_is_missed_where_a_program_hears_what_others_send(
    programs: list[list[Access]], handled: list[Access], bound: int | None
) -> None:
    everything, reduced = Listened(programs, handled), Listened(programs, handled)
    Search(preemptions=bound).work(everything)
    search = ReducedSearch(preemptions=bound, order_matters=UEVENTS)
    search.work(reduced)
    assert reduced.outcomes == everything.outcomes
    assert search.found.explored <= len(everything.orders)


@given(plain_programs)
def test_without_footprints_nothing_is_left_out(programs: list[list[Access]]) -> None:
    unknown = Footprint()
    unknown.write(EVERYTHING)
    everything, reduced = Variables(programs), Variables(programs, unknown)
    Search().work(everything)
    search = ReducedSearch()
    search.work(reduced)
    assert search.found.explored == len(everything.orders)
    assert search.found.cut == 0


def test_programs_that_share_nothing_have_one_order() -> None:
    search = ReducedSearch()
    search.work(Variables([[Access("write", number)] * 3 for number in range(3)]))
    assert (search.found.explored, search.found.complete) == (1, True)


def test_a_limit() -> None:
    search = ReducedSearch(limit=2)
    search.work(Variables([[Access("write", 0)] * 2] * 2))
    assert (search.found.explored, search.found.complete) == (2, False)
    assert search.pending > 0


# Footprints -----------------------------------------------------------------------------------------------------------


def footprint(
    *, reads: Sequence[object] = (), writes: Sequence[object] = (), notes: int = 0, hears: int = 0
) -> Footprint:
    made = Footprint()
    made.reads.update(reads)
    made.writes.update(writes)
    made.notes = notes
    made.hears = hears
    return made


def test_conflicts() -> None:
    assert not footprint(reads=["a"]).conflicts(footprint(reads=["a"]))
    assert footprint(reads=["a"]).conflicts(footprint(writes=["a"]))
    assert footprint(writes=["a"]).conflicts(footprint(reads=["a"]))
    assert footprint(writes=["a"]).conflicts(footprint(writes=["a"]))
    assert not footprint(writes=["a"]).conflicts(footprint(reads=["b"], writes=["c"]))
    assert footprint(writes=[EVERYTHING]).conflicts(footprint(reads=["b"]))
    assert footprint(reads=[EVERYTHING]).conflicts(footprint(writes=["b"]))
    assert not footprint(reads=[EVERYTHING]).conflicts(footprint(reads=["b"]))
    assert not footprint(writes=[EVERYTHING]).conflicts(footprint())


def test_the_order_of_messages_matters_to_those_who_read_it() -> None:
    noisy, reader = footprint(writes=["a"], notes=LOG), footprint(reads=[EVERYTHING])
    other = footprint(writes=["b"], notes=LOG)
    assert not noisy.conflicts(other)
    assert noisy.conflicts(other, order_matters=LOG)
    assert not noisy.conflicts(other, order_matters=UEVENTS)
    assert footprint(notes=LOG).conflicts(reader)
    assert reader.conflicts(footprint(notes=LOG))


def test_who_hears_uevents_conflicts_with_those_who_send_them() -> None:
    udevd, sender = footprint(reads=["a"], hears=UEVENTS), footprint(writes=["b"], notes=UEVENTS | LOG)
    assert udevd.conflicts(sender)
    assert sender.conflicts(udevd)
    assert not udevd.conflicts(footprint(writes=["b"], notes=LOG))
    assert not udevd.conflicts(footprint(reads=["a"], hears=UEVENTS), order_matters=UEVENTS)
    assert not sender.conflicts(footprint(reads=["a"], writes=["c"]), order_matters=UEVENTS)
    quiet = footprint()
    quiet.add(sender)
    assert quiet.conflicts(udevd)


def test_ranges() -> None:
    made = Footprint()
    made.read_range("memory", 3, 5)
    made.write_range("memory", 0, 255)
    assert made.reads == {("memory", 3), ("memory", 4), ("memory", 5)}
    assert len(made.writes) == 256
    made.write_range("memory", 0, 256)
    assert EVERYTHING in made.writes


def test_packed_footprints_conflict_as_before() -> None:
    made = [footprint(reads=[("a", 1)]), footprint(writes=[("a", 1)]), footprint(writes=[EVERYTHING], notes=LOG)]
    made += [footprint(notes=UEVENTS), footprint(hears=UEVENTS | LOG)]
    for _ in range(2):
        made.append(Footprint())
        made[-1].read_all("memory")
        made[-1].write_range("memory", len(made), len(made))
    again = [Footprint.unpacked(json.loads(json.dumps(one.packed()))) for one in made]
    assert [one.packed() for one in again] == [one.packed() for one in made]
    for one, other in itertools.product(range(len(made)), repeat=2):
        for order_matters in (0, LOG, ALL_NOTES):
            expected = made[one].conflicts(made[other], order_matters=order_matters)
            assert again[one].conflicts(again[other], order_matters=order_matters) is expected


def test_who_reads_a_whole_range_conflicts_with_each_change_in_it() -> None:
    whole, one, other = Footprint(), Footprint(), Footprint()
    whole.read_all("memory")
    one.write_range("memory", 3, 3)
    other.write_range("memory", 4, 4)
    assert whole.conflicts(one)
    assert one.conflicts(whole)
    assert not one.conflicts(other)
    assert not whole.conflicts(footprint(writes=["a"]))
    other.add(whole)
    assert one.conflicts(other)
