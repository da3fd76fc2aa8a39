"""Names of processes, and who counts as running."""

from __future__ import annotations

import pytest

from fakesysfs.explore.programs import Programs, Task


def task(number: int, parent: int, program: str = "A", state: str = "S", **more: str | bool) -> Task:
    return Task(number, parent, program, state, **{"held": False, **more})  # type: ignore[arg-type]


def test_processes_are_named_in_the_order_of_forks() -> None:
    """A parent's children follow one another, also where another process forked between them."""
    programs = Programs()
    programs.add("A", 100)
    programs.add("B", 101)
    programs.give_names([task(100, 1), task(101, 1, "B"), task(102, 100), task(103, 102), task(104, 100)])
    programs.give_names([task(106, 101, "B"), task(105, 103)])
    names = {number: programs.names[number] for number in range(100, 107)}
    assert names == {100: "A", 101: "B", 102: "A.1", 103: "A.2", 104: "A.3", 105: "A.4", 106: "B.1"}


def test_process_numbers_begin_again_after_the_largest() -> None:
    programs = Programs()
    largest = programs.largest
    programs.add("A", largest - 1)
    programs.give_names([task(largest, largest - 1), task(300, largest - 1)])
    assert (programs.names[largest], programs.names[300]) == ("A.1", "A.2")


def test_what_has_ended_gets_no_name() -> None:
    programs = Programs()
    programs.add("A", 100)
    programs.give_names([task(101, 100, state="Z"), task(102, 100)])
    assert programs.names == {100: "A", 102: "A.1"}


def test_a_worker_that_replaces_another_one_has_its_name() -> None:
    programs = Programs()
    programs.add("udevd", 100, has_worker=True)
    programs.give_names([task(101, 100, "udevd"), task(102, 101, "udevd")])
    programs.give_names([task(103, 100, "udevd"), task(104, 103, "udevd")])
    assert [programs.names[number] for number in range(101, 105)] == ["udevd.1", "udevd.2", "udevd.1", "udevd.3"]


@pytest.mark.parametrize(
    ("state", "wchan", "syscall", "blocked"),
    [
        ("S", "do_wait", "61 0x1", True),
        ("S", "request_wait_answer", "257 0x1", False),
        ("S", "0", "running", False),
        ("S", "0", "257 0x1", False),
        ("S", "0", "", True),
        ("R", "0", "running", False),
        ("D", "fuse_file_write_iter", "1 0x1", True),
        ("D", "folio_wait_bit_common", "0 0x1", False),
        ("T", "do_signal_stop", "1 0x1", True),
    ],
)
def test_who_is_blocked(state: str, wchan: str, syscall: str, blocked: bool) -> None:  # noqa: FBT001
    assert task(1, 0, state=state, wchan=wchan, syscall=syscall).blocked is blocked


def test_a_sleep_is_timed() -> None:
    assert task(1, 0, wchan="hrtimer_nanosleep", syscall="999 0x0").timed
    assert not task(1, 0, wchan="do_wait", syscall="61 0x1 0x2 0x0 0x0").timed
    assert not task(1, 0, held=True, wchan="hrtimer_nanosleep").timed
