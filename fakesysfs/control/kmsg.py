"""The kernel log as files: control/kmsg, kmsg.jsonl, and dev_kmsg, which is what /dev/kmsg is."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable

from fakesysfs.control.transcript import Line, Transcript
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.kstrtox import kstrtobool
from fakesysfs.kernel.printk import Printk, Record
from fakesysfs.kernfs.declare import Stream
from fakesysfs.kernfs.log import Log
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import Answer, Signals, Wait, WaitQueue, ask

_LOG_USER = 1 << 3
_DEFAULT_LEVEL = 4
_UNPRINTABLE = re.compile(rb"[^\x20-\x5b\x5d-\x7e]")
_PRIORITY = re.compile(rb"<(\d{1,4})>")


def kmsg_line(record: Record) -> str:
    """A line of control/kmsg: a message with its level and the seconds since boot."""
    return f"<{record.level}>[{record.seconds:12.6f}] {record.text}\n"


def kmsg_json_line(record: Record) -> str:
    """A line of control/kmsg.jsonl."""
    facts = {
        "seq": record.sequence,
        "time": round(record.seconds, 6),
        "level": record.level,
        "text": record.text,
    }
    return json.dumps(facts) + "\n"


def kmsg_record(record: Record) -> bytes:
    """A message as /dev/kmsg has it: priority, number, microseconds, text (Documentation/ABI/testing/dev-kmsg)."""
    text = _UNPRINTABLE.sub(lambda found: b"\\x%02x" % found[0][0], record.text.encode("utf-8", "surrogateescape"))
    return f"{record.level},{record.sequence},{int(record.seconds * 1e6)},-;".encode() + text + b"\n"


def kmsg_log(printk: Printk) -> Log:
    """control/kmsg."""
    return _log(printk, kmsg_line, lambda: f"({printk.dropped} earlier messages dropped)\n")


def kmsg_json(printk: Printk) -> Log:
    """control/kmsg.jsonl."""
    return _log(printk, kmsg_json_line)


def _log(printk: Printk, line: Callable[[Record], str], notice: Callable[[], str] = str) -> Log:
    return Transcript(
        lambda: (printk.dropped, printk.sequence),
        lambda number: (Line.of(record.sequence, line(record)) for record in printk.since(number)),
        notice,
    )


class KmsgReader(Stream):
    """A reader of /dev/kmsg: one record at each read (kernel/printk/printk.c, devkmsg_read).

    Differs knowingly in two points. It begins behind what `dmesg -C` cleared: there, a reader seeks (SEEK_DATA), and
    FUSE does not pass that on. And the first read of a reader that does not wait says "end" of an empty log instead
    of EAGAIN, because dmesg takes EAGAIN for an unreadable log and asks the host's kernel.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._place = kernel.printk.cleared
        self._first = True

    def waits_on(self) -> WaitQueue | None:
        """See Stream (devkmsg_poll)."""
        printk = self._kernel.printk
        return None if self._kernel.gone or self._place < printk.sequence else printk.arrived

    async def read(self, size: int, *, wait: bool) -> bytes:
        """The next record.

        Raises KernelError: EPIPE once when that was overwritten, EINVAL if `size` is too small for it, EAGAIN, EINTR
        and ENODEV as the readers of follow.py do.
        """
        printk = self._kernel.printk
        first, self._first = self._first, False
        while self._place >= printk.sequence:
            if self._kernel.gone:
                raise KernelError(errno.ENODEV, "the machine was reset", "devkmsg_read")
            if not wait:
                if first:
                    return b""
                raise KernelError(errno.EAGAIN, "there is no newer message", "devkmsg_read")
            if await ask(Wait("devkmsg_read", printk.arrived, Signals.ANY)) is Answer.INTERRUPTED:
                raise KernelError(errno.EINTR, "a signal ended the wait", "devkmsg_read")
        if self._place < printk.dropped:
            self._place = printk.dropped
            raise KernelError(errno.EPIPE, "the next message was overwritten", "devkmsg_read")
        record = printk.since(self._place)[0]
        line = kmsg_record(record)
        if len(line) > size:
            raise KernelError(errno.EINVAL, f"the next message takes {len(line)} bytes", "devkmsg_read")
        self._place = record.sequence + 1
        return line


def write_kmsg(kernel: Kernel, buffer: bytes) -> None:
    """Log a program's message (devkmsg_write). Its level says so: `<12>` is LOG_USER and a warning."""
    level = _DEFAULT_LEVEL
    given = _PRIORITY.match(buffer)
    if given:
        level = int(given[1])
        buffer = buffer[given.end() :]
    if level < _LOG_USER:
        level |= _LOG_USER
    kernel.printk(level, buffer.rstrip(b"\n").decode("utf-8", "surrogateescape"))


def clear_kmsg(kernel: Kernel, buffer: bytes) -> None:
    """As `dmesg -C`: later readers of dev_kmsg begin here."""
    if not kstrtobool(buffer, "kmsg_clear_store"):
        raise KernelError(errno.EINVAL, "write 1 to clear", "kmsg_clear_store")
    kernel.printk.cleared = kernel.printk.sequence
