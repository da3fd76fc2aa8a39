"""Many names in one step: the answer is that of pyfuse3, which takes them one by one, to the last byte."""

from __future__ import annotations

import ctypes
import logging
import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakesysfs.fuse.fast import direntplus
from fakesysfs.fuse.fast.direntplus import BulkReply, reply_each
from fakesysfs.kernfs import Members, Stat
from fakesysfs.kernfs.name_hash import IndexedOrder, low_words
from tests.mount.served import Served

DIRENT = "=QQII"
"""struct fuse_dirent: ino, off, namelen, type."""
ENTRY_OUT = 128
STAT = Stat(0, 0o40755, 3, 0, 0, 0, 0, 0, 0, 0)


def packed(name: bytes, ino: int, cookie: int) -> bytes:
    """An entry as include/uapi/linux/fuse.h has it."""
    kobj = bytearray(range(1, ENTRY_OUT + 1))
    kobj[0:8] = kobj[40:48] = struct.pack("=Q", ino)
    entry = bytes(kobj) + struct.pack(DIRENT, ino, cookie, len(name), 4) + name
    return entry + bytes(-len(entry) % 8)


class Answer:
    """A token, and what pyfuse3 does with it."""

    def __init__(self, room: int) -> None:
        self.buffer = ctypes.create_string_buffer(room)
        self.fields = direntplus._Token(None, 0, 0, room)
        self.calls = 0
        self.lies = 0

    def reply(self, name: bytes, entry: Any, cookie: int) -> bool:
        """pyfuse3.readdir_reply."""
        self.calls += 1
        if not self.fields.start:
            self.fields.start = self.fields.end = ctypes.addressof(self.buffer)
        octets = packed(name, entry.st_ino, cookie)
        if len(octets) > self.fields.room:
            return False
        ctypes.memmove(self.fields.end, octets, len(octets))
        self.fields.end += len(octets)
        self.fields.room -= len(octets) + self.lies
        return True

    def text(self) -> bytes:
        """What is in it."""
        return self.buffer.raw[: self.fields.end - self.fields.start]


@pytest.fixture(autouse=True, scope="module")
def _answers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyfuse3, "readdir_reply", lambda token, *entry: token.reply(*entry))
        patch.setattr(direntplus, "_fields_of", lambda token: token.fields)
        yield


def members_of(order: IndexedOrder, cookies: array[int], base: int = 0, absent: Sequence[int] = ()) -> Members:
    """Those of these cookies."""
    numbers = list(low_words(cookies))
    return Members(order, numbers, array("Q", [base + (n << 8) for n in numbers]), cookies, absent, STAT, ())


@st.composite
def some_members(draw: st.DrawFn) -> Members:
    """Members that follow one another in the order of their names."""
    order = IndexedOrder(draw(st.sampled_from([b"memory", b"a", b"seven_b", b"of_thirteen_b"])))
    keys = order.keys(draw(st.sampled_from([1, 9, 11, 120, 1050])))
    start = draw(st.integers(0, len(keys) - 1))
    cookies = keys[start : start + draw(st.integers(1, 250))]
    if draw(st.booleans()) and len(cookies) > 2:  # no longer all that are between the first and the last
        del cookies[1]
    absent = sorted(draw(st.sets(st.integers(0, len(cookies) - 1), max_size=12)))
    return members_of(order, cookies, draw(st.integers(0, 2**63)), absent)


@given(st.lists(some_members(), min_size=1, max_size=3), st.sampled_from([4096, 300, 0, 32768, 1500]))
def test_the_answer_is_that_of_one_call_for_each(several: list[Members], room: int) -> None:
    """Also where others are in the answer already, and where it is full: the next position is the same."""
    entry: Any = SimpleNamespace(st_ino=0)
    one, all_at_once = Answer(room), Answer(room)
    together = BulkReply()
    for members in several:
        told = reply_each(one, members, entry)  # type: ignore[arg-type]
        following = together(all_at_once, members, entry)  # type: ignore[arg-type]
        # what is absent behind the last that fitted is nobody's
        assert next(members.entries(told), None) == next(members.entries(following), None)
    assert all_at_once.text() == one.text()
    assert all_at_once.fields.room == one.fields.room


def test_many_names_take_few_calls() -> None:
    order = IndexedOrder(b"memory")
    members = members_of(order, order.keys(5000)[1000:1200])
    answer = Answer(32768)
    together = BulkReply()
    told = together(answer, members, SimpleNamespace(st_ino=0))  # type: ignore[arg-type]
    assert told > 190
    assert answer.calls < 8


def test_answers_kept_otherwise_are_left_to_pyfuse3(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is written where it is not certain what is there."""
    order = IndexedOrder(b"memory")
    members = members_of(order, order.keys(100))
    together = BulkReply()
    entry: Any = SimpleNamespace(st_ino=0)
    for lies in (8, 0):  # once is enough
        one, answer = Answer(8192), Answer(8192)
        one.lies = answer.lies = lies
        told = reply_each(one, members, entry)  # type: ignore[arg-type]
        assert together(answer, members, entry) == told  # type: ignore[arg-type]
        assert answer.text() == one.text()
        assert answer.calls == one.calls
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.mount
def test_a_long_listing_is_what_lookup_finds(mount: Served) -> None:
    """With pyfuse3's own answers and with ours. All in one directory: numbers of one to five digits, gaps, others."""
    mount.write("present", "+ 0 9999")
    mount.write("present", "- 100 120")
    mount.write("present", "- 9000 9001")
    try:
        family = mount.path / "family"
        with os.scandir(family) as listing:
            listed = {entry.name: entry.inode() for entry in listing}
        gone = {*range(100, 121), 9000, 9001}
        assert sorted(listed) == sorted(f"memory{number}" for number in range(10_000) if number not in gone)
        assert listed == {name: (family / name).lstat().st_ino for name in listed}
    finally:
        mount.write("present", "- 32 9999")
