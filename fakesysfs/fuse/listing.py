"""readdir: names with their attributes, in as many answers as the host needs.

To work out a name costs more than to send it. So each directory that was listed from its first name to its last is kept
as a finished listing, which is good until anything comes or goes anywhere or a user changes a node. Of a directory
whose names the host may not keep (invalidate.py), and of one with a file that grows, none is kept.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pyfuse3 import EntryAttributes

from fakesysfs.fuse.entries import Entries
from fakesysfs.kernfs import DirectoryReader

NAMES_KEPT = 16_384
"""The most names in all finished listings together, each listing counted as one more. One takes some 200 bytes."""

_HASH_SHIFT = 32
"""A cookie is a hash, by which the names are ordered, above so many bits (`DirectoryReader`)."""

Answer = tuple[bytes, int, int, EntryAttributes]
"""Name, inode number, cookie, attributes. The caller sets the inode number in the attributes before it sends them."""


class _Finished(NamedTuple):
    """All names of a directory in one state."""

    state: tuple[int, int]
    answers: list[Answer]
    changing: tuple[list[bytes], list[tuple[int, int]]]
    """As `DirectoryReader.changing`."""

    @property
    def size(self) -> int:
        """What it counts for: an empty directory takes memory, too."""
        return len(self.answers) + 1

    def after(self, cookie: int) -> list[Answer]:
        if not cookie:
            return self.answers
        answers, value = self.answers, cookie >> _HASH_SHIFT
        position = bisect_left(answers, value, key=_hash_of)
        while position < len(answers) and _hash_of(answers[position]) == value:
            position += 1
            if answers[position - 1][2] == cookie:
                break
        return answers[position:]


def _hash_of(answer: Answer) -> int:
    return answer[2] >> _HASH_SHIFT


class OpenDirectory:
    """An open directory."""

    __slots__ = ("answers", "ino", "noted", "reader", "state")

    def __init__(self, ino: int, reader: DirectoryReader) -> None:
        self.ino = ino
        self.reader = reader
        self.noted: tuple[int, int] | None = None
        """The state in which the names that may go were noted (`Operations.readdir`)."""
        self.answers: list[Answer] = []
        """What the host took since the first name, while the state was `state`."""
        self.state: tuple[int, int] | None = None


class Listings:
    """Lists directories whose names the host may keep."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries
        self._finished: dict[int, _Finished] = {}
        """By inode number, the oldest first."""
        self._names = 0
        """In all of them."""

    def changing(self, opened: OpenDirectory) -> tuple[list[bytes], list[tuple[int, int]]]:
        """As `DirectoryReader.changing`."""
        finished = self._finished.get(opened.ino)
        if finished is not None and finished.state == opened.reader.state:
            return finished.changing
        return opened.reader.changing()

    def after(self, opened: OpenDirectory, cookie: int) -> Iterable[Answer]:
        """The names after `cookie`. Raises KernelError ENOENT when the directory is gone."""
        state = opened.reader.state
        finished = self._finished.get(opened.ino)
        if finished is not None and finished.state == state:
            if not cookie:
                # If something changes before the next answer, the reader must know the names of now.
                opened.reader.rewind()
                opened.state, opened.answers = None, []
            return finished.after(cookie)
        if not cookie:
            opened.state, opened.answers = state, []
        elif opened.state != state or not opened.answers or opened.answers[-1][2] != cookie:
            return opened.reader.listed(cookie, self._entries)
        return self._collected(opened, cookie)

    def _collected(self, opened: OpenDirectory, cookie: int) -> Iterator[Answer]:
        """As `DirectoryReader.listed`; puts together what becomes the finished listing."""
        answers = opened.answers
        for answer in opened.reader.listed(cookie, self._entries):
            yield answer
            # We are here again, so it did fit.
            answers.append(answer)
            if len(answers) > NAMES_KEPT or not answer[3].attr_timeout:
                opened.state = None
                opened.answers = answers = []
        if opened.state is not None:
            self._keep(opened.ino, _Finished(opened.state, answers, opened.reader.changing()))
            opened.state, opened.answers = None, []

    def _keep(self, ino: int, finished: _Finished) -> None:
        replaced = self._finished.pop(ino, None)
        self._names += finished.size - (0 if replaced is None else replaced.size)
        self._finished[ino] = finished
        while self._names > NAMES_KEPT:
            self._names -= self._finished.pop(next(iter(self._finished))).size
