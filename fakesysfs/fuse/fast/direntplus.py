"""Many names of a listing in one step.

pyfuse3 takes the names of an answer to readdir one by one, with a call for each (`readdir_reply`). Members of a family
differ in number only; so the first of them is given to pyfuse3, and the others become copies of what it wrote into the
answer (struct fuse_direntplus, include/uapi/linux/fuse.h), in which inode number, cookie and name are replaced: for all
of them together, a column at a time.

Where the answer is and how much room is left in it pyfuse3's token knows, which does not tell. So that is looked up in
the token itself, where its fields are known (`insides.py`), and only as long as what pyfuse3 writes for the first name
is found, whole, where it should be; else the names are given one by one.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import sys
from array import array
from collections.abc import Iterator

import pyfuse3
from pyfuse3 import EntryAttributes, ReaddirToken

from fakesysfs.kernfs import Members

log = logging.getLogger(__name__)

_FEW = 8
"""Members that are not worth the trouble."""

_WORD = 8
_NODE, _ATTRIBUTES_INO, _INO, _COOKIE, _LENGTH_AND_TYPE, _NAME = 0, 5, 16, 17, 18, 19
"""The words of an entry: nodeid, attr.ino, dirent.ino, .off, .namelen and .type, .name, filled up with NUL."""

_LITTLE = sys.byteorder == "little"
_LENGTH_SHIFT, _LENGTH_MASK = 0 if _LITTLE else 32, 0xFFFFFFFF
_LENGTH_BYTE = _WORD * _LENGTH_AND_TYPE + (0 if _LITTLE else 3)
"""The lowest of the length; no name here has more than 255 bytes."""


class _Token(ctypes.Structure):
    """The fields of pyfuse3's `ReaddirToken` (its handlers.pxi, 3.4 and 3.5)."""

    _fields_ = (
        ("request", ctypes.c_void_p),
        ("start", ctypes.c_size_t),
        ("end", ctypes.c_size_t),
        ("room", ctypes.c_size_t),
    )


def _fields_of(token: ReaddirToken) -> _Token:
    return _Token.from_address(id(token) + object.__basicsize__)


def reply_each(token: ReaddirToken, members: Members, entry: EntryAttributes, start: int = 0) -> int:
    """Put members into an answer, from the one at `start` on; returns the position of the first that did not fit."""
    for position, name, ino, cookie in members.entries(start):
        entry.st_ino = ino
        if not pyfuse3.readdir_reply(token, name, entry, cookie):
            return position
    return len(members.numbers)


class BulkReply:
    """Puts members into answers, many in one step."""

    def __init__(self) -> None:
        self._known = (
            sys.implementation.name == "cpython"
            and ReaddirToken.__basicsize__ == object.__basicsize__ + ctypes.sizeof(_Token)
        )
        self._last: tuple[EntryAttributes | None, bytes] = None, b""
        """What pyfuse3 made of which attributes."""

    def __call__(self, token: ReaddirToken, members: Members, entry: EntryAttributes) -> int:
        """As `reply_each`."""
        count = len(members.numbers)
        if not self._known or count < _FEW:
            return reply_each(token, members, entry)
        position, name, ino, cookie = next(members.entries(), (count, b"", 0, 0))
        if position == count:
            return count
        fields = _fields_of(token)
        end, room = fields.end, fields.room
        entry.st_ino = ino
        if not pyfuse3.readdir_reply(token, name, entry, cookie):
            return position
        position += 1
        size = room - fields.room
        if size != fields.end - (end or fields.start):
            self._known = False
        elif self._last[0] is not entry:
            written = ctypes.string_at(fields.end - size, size)
            self._known = is_entry(written, name, ino, cookie)
            self._last = entry, written
        if not self._known:
            log.warning("pyfuse3 %s keeps listings in an unknown way: they are slower", pyfuse3.__version__)
        elif position < count:
            more, entries = copies(self._last[1], members, position, fields.room)
            size = _WORD * len(entries)
            ctypes.memmove(fields.end, entries.buffer_info()[0], size)
            fields.end += size
            fields.room -= size
            position += more
        return reply_each(token, members, entry, position)


def is_entry(written: bytes, name: bytes, ino: int, cookie: int) -> bool:
    """Whether that is the entry with these."""
    if len(written) != _WORD * (_NAME - -len(name) // _WORD):
        return False
    words = array("Q", written)
    return (
        words[_NODE] == words[_ATTRIBUTES_INO] == words[_INO] == ino
        and words[_COOKIE] == cookie
        and words[_LENGTH_AND_TYPE] >> _LENGTH_SHIFT & _LENGTH_MASK == len(name)
        and written[_WORD * _NAME :].rstrip(b"\0") == name
    )


def copies(entry: bytes, members: Members, start: int, room: int) -> tuple[int, array[int]]:
    """The entries of members like that of one of them: from the one at `start` on, as many as surely fit in `room`.

    Returns for how many members that is: for none, where their names are not at hand.
    """
    packed = members.packed(start)
    if packed is None:
        return 0, array("Q")
    names, lengths = packed
    name_words = len(names) // len(lengths)
    words = _NAME + name_words
    count = min(len(lengths), room // (_WORD * words))
    if not count:
        return 0, array("Q")
    end = start + count
    entries = array("Q", entry[: _WORD * _NAME] + bytes(_WORD * name_words)) * count
    entries[_NODE::words] = entries[_ATTRIBUTES_INO::words] = entries[_INO::words] = members.inos[start:end]
    entries[_COOKIE::words] = members.cookies[start:end]
    for word in range(name_words):
        entries[_NAME + word :: words] = names[word : name_words * count : name_words]
    lengths = lengths[:count]
    with memoryview(entries) as view, view.cast("B") as octets:
        octets[_LENGTH_BYTE :: _WORD * words] = lengths
    # The numbers of one family differ by less than 8 digits: no name is shorter by more than a word.
    superfluous = dict.fromkeys(_short(lengths, name_words), 1)
    superfluous.update((position - start, words) for position in members.absent if start <= position < end)
    for position in sorted(superfluous, reverse=True):
        following = words * (position + 1)
        del entries[following - superfluous[position] : following]
    return count, entries


def _short(lengths: bytes, words: int) -> Iterator[int]:
    """Positions of names that take less than so many words."""
    short = lengths.translate(_is_short(words))
    position = short.find(1)
    while position >= 0:
        yield position
        position = short.find(1, position + 1)


@functools.cache
def _is_short(words: int) -> bytes:
    """The table that turns the length of a name into 1 if it takes less than so many words, else 0."""
    return bytes(length <= _WORD * (words - 1) for length in range(256))
