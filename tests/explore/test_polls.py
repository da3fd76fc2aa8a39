"""Who polls, and why it does not end."""

from __future__ import annotations

from fakesysfs.explore.polls import LAST_POLLS, POLLS, Polls


def looked(polls: Polls, *looks: str) -> None:
    for look in looks:
        polls.note("A", look, changed=False)


def test_equal_looks_while_nothing_changes() -> None:
    polls = Polls()
    for _ in range(POLLS):
        assert not polls.has_polled("A")
        looked(polls, "read x: 1", "read y: 2")
    assert polls.has_polled("A")
    assert not polls.has_polled("A", POLLS + 1)
    assert not polls.has_polled("B")
    polls.note("B", "write x: 1 bytes", changed=True)
    assert not polls.has_polled("A")


def test_a_program_that_looks_at_the_same_in_other_sequences_goes_on() -> None:
    """daxctl resolves one path after another, and each begins with the same directories."""
    polls = Polls()
    for name in "abcdefgh":
        looked(polls, "stat platform: present", "stat hmem.0: present", f"read {name}: 1")
        assert not polls.has_polled("A")


def test_a_loop_over_many_files() -> None:
    polls = Polls()
    for _ in range(LAST_POLLS):
        assert not polls.has_polled("A", LAST_POLLS)
        looked(polls, *(f"read memory{number}/state: online" for number in range(32)))
    assert polls.has_polled("A", LAST_POLLS)


def test_what_is_repeated() -> None:
    polls = Polls()
    looked(polls, "ls z: 3 names", *["read x: 1", "read y: 2"] * 10)
    assert polls.why("A", "sh") == "sh does not end: it repeats read x: 1, read y: 2, and nothing changes"
    looked(polls, *["read x: 1"] * 20)
    assert polls.why("A", "sh") == "sh does not end: it repeats read x: 1, and nothing changes"
