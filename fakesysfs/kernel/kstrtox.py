"""Parsers of written text: words, kstrtobool, kstrtoull and others.

lib/string_helpers.c, lib/kstrtox.c.

A store gets bytes with a NUL behind them. It ignores all bytes from the first NUL on, and one
trailing newline.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from typing import TypeVar

from fakesysfs.ops.errors import KernelError

T = TypeVar("T")

_U64_MAX = (1 << 64) - 1
_DIGITS = {8: rb"[0-7]+", 10: rb"[0-9]+", 16: rb"[0-9a-fA-F]+"}


def c_string(buffer: bytes) -> bytes:
    """The bytes before the first NUL."""
    return buffer.partition(b"\0")[0]


def sysfs_match_string(table: Mapping[str, T], buffer: bytes, where: str) -> T:
    """The table's value for the word in a buffer, with or without one newline (sysfs_streq).

    Raises KernelError EINVAL for an unknown word.
    """
    word = word_of(buffer)
    found = table.get(word)
    if found is None:
        raise KernelError(errno.EINVAL, f"{word!r} is not one of {', '.join(table)}", where)
    return found


def word_of(buffer: bytes) -> str:
    """The C string without one trailing newline, for tables of words and for messages."""
    return c_string(buffer).removesuffix(b"\n").decode("utf-8", "backslashreplace")


def kstrtoull(buffer: bytes, base: int, where: str, otherwise: int | None = None) -> int:
    """An unsigned 64-bit number, with an optional leading +.

    Base 0 takes the prefixes 0x and 0, base 16 an optional 0x. Raises KernelError: EINVAL for junk,
    ERANGE beyond 64 bits; `otherwise` for both, if it is given.
    """
    text = c_string(buffer).removesuffix(b"\n").removeprefix(b"+")
    if base == 0:
        base = 8 if text.startswith(b"0") else 10
        base = 16 if re.match(rb"0[xX][0-9a-fA-F]", text) else base
    if base == 16 and re.match(rb"0[xX]", text):  # noqa: PLR2004
        text = text[2:]
    if not re.fullmatch(_DIGITS[base], text):
        raise KernelError(otherwise or errno.EINVAL, f"{word_of(buffer)!r} is not a number", where)
    value = int(text, base)
    if value > _U64_MAX:
        raise KernelError(otherwise or errno.ERANGE, f"{word_of(buffer)!r} does not fit 64 bits", where)
    return value


_SUFFIXES = {letter: 10 * power for power, letter in enumerate(b"kmgtpe", 1)}


def memparse(buffer: bytes) -> tuple[int, bytes]:
    """A number of bytes with an optional suffix K, M, G, T, P or E, and the rest of the text.

    Without a number the result is 0 and the whole text. Never fails (lib/cmdline.c).
    """
    match = re.match(rb"0[xX][0-9a-fA-F]+|0[0-7]*|[0-9]+", buffer)
    if match is None:
        return 0, buffer
    digits, rest = match[0], buffer[match.end() :]
    value = kstrtoull(digits, 0, "memparse")
    shift = _SUFFIXES.get(rest[:1].lower()[0]) if rest else None
    return (value, rest) if shift is None else (value << shift & _U64_MAX, rest[1:])


def kstrtoll(buffer: bytes, base: int, where: str) -> int:
    """A signed 64-bit number, in the forms of `kstrtoull`, or a minus sign and digits.

    Raises KernelError: EINVAL for junk, ERANGE beyond 64 bits.
    """
    negative = buffer.startswith(b"-")
    if buffer.startswith(b"-+"):
        raise KernelError(errno.EINVAL, f"{word_of(buffer)!r} is not a number", where)
    value = -kstrtoull(buffer[1:], base, where) if negative else kstrtoull(buffer, base, where)
    if not -(1 << 63) <= value < 1 << 63:
        raise KernelError(errno.ERANGE, f"{word_of(buffer)!r} does not fit 64 bits", where)
    return value


def kstrtoint(buffer: bytes, base: int, where: str) -> int:
    """A signed 32-bit number, as `kstrtoll`. Raises KernelError: EINVAL, ERANGE."""
    value = kstrtoll(buffer, base, where)
    if not -(1 << 31) <= value < 1 << 31:
        raise KernelError(errno.ERANGE, f"{word_of(buffer)!r} does not fit 32 bits", where)
    return value


def kstrtobool(buffer: bytes, where: str) -> bool:
    """A boolean, by its first one or two characters: 1 y t e on, or 0 n f d of.

    Raises KernelError EINVAL.
    """
    text = c_string(buffer).lower()
    if text[:1] in {b"1", b"y", b"t", b"e"} or text[:2] == b"on":
        return True
    if text[:1] in {b"0", b"n", b"f", b"d"} or text[:2] == b"of":
        return False
    raise KernelError(errno.EINVAL, f"{word_of(buffer)!r} is neither true nor false", where)
