"""Who polls, and why it does not end."""

from __future__ import annotations

from fakesysfs.explore.polls import POLLS, Polls


def test_equal_looks_while_nothing_changes() -> None:
    polls = Polls()
    for _ in range(POLLS):
        assert not polls.has_polled("A")
        polls.note("A", "read x: 1", changed=False)
        polls.note("A", f"read y: {_}", changed=False)
    assert polls.has_polled("A")
    assert not polls.has_polled("B")
    polls.note("B", "write x: 1 bytes", changed=True)
    assert not polls.has_polled("A")


def test_what_is_repeated() -> None:
    polls = Polls()
    polls.note("A", "ls z: 3 names", changed=False)
    for _ in range(10):
        polls.note("A", "read x: 1", changed=False)
        polls.note("A", "read y: 2", changed=False)
    assert polls.why("A", "sh") == "sh does not end: it repeats read x: 1, read y: 2, and nothing changes"
