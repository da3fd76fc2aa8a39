"""The directory control/, declared like the rest.

`kmsg`, `uevents` and `refused` are logs: a read shows what there is and ends, and a later read goes
on there. The `_follow` forms wait for more. A reset begins new logs under the old names.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from fakesysfs.control.events import EventLines, uevent_line
from fakesysfs.control.history import CallJournal
from fakesysfs.control.transcript import Line, Transcript
from fakesysfs.control.uevent_readers import UeventReaders
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.kstrtox import kstrtobool, word_of
from fakesysfs.kernel.printk import Printk, Record
from fakesysfs.kernel.uevent import Uevents
from fakesysfs.kernfs.declare import Attribute, Directory, DirectoryKind, Entry, Indexed, Stream
from fakesysfs.kernfs.log import Log
from fakesysfs.kernfs.static import StaticDirectories
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import Answer, Signals, Wait, WaitQueue, ask

MAX_LATENCY = 3600.0
_LIKE_A_LOG_FILE = (
    "`tail -f` works. After a reset it is a new file: `tail -F` follows that one. When lines were dropped, the file "
    "says how many in all."
)
_SECONDS = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", re.IGNORECASE)


class Machine(Protocol):
    """The running machine, as far as control needs it."""

    machine_text: str
    journal: CallJournal
    uevent_readers: UeventReaders

    def reset(self) -> None:
        """Take everything away and boot again."""


def kmsg_line(record: Record) -> str:
    """A message with its level and the seconds since boot."""
    return f"<{record.level}>[{record.seconds:12.6f}] {record.text}\n"


def _kmsg(printk: Printk) -> Log:
    def lines(number: int) -> Iterator[Line]:
        for record in printk.since(number):
            yield Line(record.sequence, kmsg_line(record).encode("utf-8", "surrogateescape"))

    return Transcript(lambda: (printk.dropped, printk.sequence), lines, lambda: f"{printk.dropped} earlier messages")


def _uevents(uevents: Uevents) -> Log:
    return Transcript(
        lambda: (uevents.dropped + 1, uevents.sequence),
        lambda number: map(EventLines, uevents.records(number)),
        lambda: f"{uevents.dropped} earlier events",
        first=1,
    )


class _Follow(Stream):
    """A reader that waits for more.

    `take` gives the text from a place on and the next place, `end` the place behind all that there is.
    """

    def __init__(
        self,
        kernel: Kernel,
        arrived: WaitQueue,
        take: Callable[[int, int], tuple[str, int]],
        place: int,
        end: Callable[[], int],
    ) -> None:
        self._kernel = kernel
        self._arrived = arrived
        self._take = take
        self._place = place
        self._end = end
        self._left = b""

    def waits_on(self) -> WaitQueue | None:
        """See Stream."""
        return None if self._left or self._kernel.gone or self._place < self._end() else self._arrived

    async def read(self, size: int, *, wait: bool) -> bytes:
        """At least one byte, at most `size`.

        Raises KernelError: EAGAIN if there is none and `wait` is false, EINTR for a signal, ENODEV after a reset.
        """
        while not self._left:
            text, self._place = self._take(self._place, size)
            self._left = text.encode("utf-8", "surrogateescape")
            if not self._left:
                if self._kernel.gone:
                    raise KernelError(errno.ENODEV, "the machine was reset", "follow")
                if not wait:
                    raise KernelError(errno.EAGAIN, "there is nothing more yet", "follow")
                if await ask(Wait("follow", self._arrived, Signals.ANY)) is Answer.INTERRUPTED:
                    raise KernelError(errno.EINTR, "a signal ended the wait", "follow")
        data, self._left = self._left[:size], self._left[size:]
        return data


def _follow_kmsg(kernel: Kernel) -> _Follow:
    def take(place: int, _size: int) -> tuple[str, int]:
        return "".join(map(kmsg_line, kernel.printk.since(place))), kernel.printk.sequence

    return _Follow(kernel, kernel.printk.arrived, take, 0, lambda: kernel.printk.sequence)


_LOG_USER = 1 << 3
_DEFAULT_LEVEL = 4
_UNPRINTABLE = re.compile(rb"[^\x20-\x5b\x5d-\x7e]")
_PRIORITY = re.compile(rb"<(\d{1,4})>")


class _KmsgDevice(Stream):
    """A reader of /dev/kmsg: one record at each read (kernel/printk/printk.c, devkmsg_read).

    Differs knowingly: it begins behind what `dmesg -C` cleared. There, a reader that wants that seeks (SEEK_DATA),
    which FUSE does not tell us. And where nothing is left, the first read of a reader that does not wait says "end"
    instead of EAGAIN: dmesg takes that for an unreadable log and asks the host's kernel.
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

        Raises KernelError: EPIPE once when it was overwritten, EINVAL if `size` is too small for it, else as `_Follow`.
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


def kmsg_record(record: Record) -> bytes:
    """A message as /dev/kmsg has it: priority, number, microseconds, text (Documentation/ABI/testing/dev-kmsg)."""
    text = _UNPRINTABLE.sub(lambda found: b"\\x%02x" % found[0][0], record.text.encode("utf-8", "surrogateescape"))
    return f"{record.level},{record.sequence},{int(record.seconds * 1e6)},-;".encode() + text + b"\n"


def _write_kmsg(kernel: Kernel, buffer: bytes) -> None:
    """A message of a user (devkmsg_write). Its level says so: `<12>` is LOG_USER and a warning."""
    level = _DEFAULT_LEVEL
    given = _PRIORITY.match(buffer)
    if given:
        level = int(given[1])
        buffer = buffer[given.end() :]
    if level < _LOG_USER:
        level |= _LOG_USER
    kernel.printk(level, buffer.rstrip(b"\n").decode("utf-8", "surrogateescape"))


def _clear_kmsg(kernel: Kernel, buffer: bytes) -> None:
    if not kstrtobool(buffer, "kmsg_clear_store"):
        raise KernelError(errno.EINVAL, "write 1 to clear", "kmsg_clear_store")
    kernel.printk.cleared = kernel.printk.sequence


def _known_modules(kernel: Kernel) -> str:
    return "".join(
        " ".join([name, ",".join(kind.needs) or "-", *kind.parameters]) + "\n"
        for name, kind in sorted(kernel.modules.kinds.items())
    )


def _follow_uevents(kernel: Kernel, place: int = 1) -> _Follow:
    def take(place: int, size: int) -> tuple[str, int]:
        parts: list[str] = []
        length = 0
        for number, lines in kernel.uevents.numbered(place):
            parts.append(uevent_line(number, lines))
            place = number + 1
            length += len(parts[-1])
            if length >= size:
                break
        return "".join(parts), place

    return _Follow(kernel, kernel.uevents.arrived, take, place, lambda: kernel.uevents.sequence)


def _new_uevents(kernel: Kernel) -> _Follow:
    return _follow_uevents(kernel, kernel.uevents.sequence)


async def _load(kernel: Kernel, buffer: bytes) -> None:
    name, *words = word_of(buffer).split() or [""]
    parameters: dict[str, str | None] = {}
    for word in words:
        key, equals, value = word.partition("=")
        parameters[key] = value if equals else None
    await kernel.modprobe(name, parameters)


async def _unload(kernel: Kernel, buffer: bytes) -> None:
    await kernel.rmmod(word_of(buffer).strip())


async def _devdax(kernel: Kernel, buffer: bytes) -> None:
    name, *words = word_of(buffer).split() or [""]
    key, _, value = (words or ["align=4096"])[0].partition("=")
    if key != "align" or not value.isdecimal() or len(words) > 1:
        why = f"{word_of(buffer)!r} is not of the form NAMESPACE [align=BYTES]"
        raise KernelError(errno.EINVAL, why, "devdax_store")
    await kernel.create_pmem_devdax(name, int(value))


def _on_node(name: str, act: Callable[[Kernel, int], object], doc: str) -> Attribute:
    """A write-only file that takes the number of a node."""

    def store(kernel: Kernel, buffer: bytes) -> None:
        word = word_of(buffer).strip()
        if not word.isdecimal() or int(word) not in kernel.nodes.possible:
            raise KernelError(errno.EINVAL, f"{word!r} is the number of no node", f"{name}_store")
        act(kernel, int(word))

    return Attribute(name=name, mode=0o200, size=0, store=store, doc=doc)


def _unpin_store(kernel: Kernel, buffer: bytes) -> None:
    if not kstrtobool(buffer, "unpin_store"):
        raise KernelError(errno.EINVAL, "write 1 to release all pins", "unpin_store")
    kernel.unpin()


def _latency(point: str) -> Attribute:
    def store(kernel: Kernel, buffer: bytes) -> None:
        word = word_of(buffer)
        # What float() takes besides this ("1_0", "-0", " 5 ") nobody writes on purpose.
        seconds = float(word) if _SECONDS.fullmatch(word) else -1.0
        if not 0 <= seconds <= MAX_LATENCY:
            allowed = f"seconds from 0 to {MAX_LATENCY:g}"
            raise KernelError(errno.EINVAL, f"{word!r}: expected {allowed}", "latency_store")
        kernel.preempt.latency[point] = seconds

    return Attribute(
        name=point,
        mode=0o644,
        size=0,
        show=lambda kernel: f"{kernel.preempt.latency.get(point, 0.0):.10g}\n",
        store=store,
        doc="Seconds that each block takes.",
    )


@dataclass(slots=True, eq=False)
class ControlBlocks:
    """control/blocks/memoryN share one identity, each with the number of its block."""

    serial: int
    kernel: Kernel
    index: int = 0

    def at(self, index: int) -> ControlBlock | None:
        """The directory of a block that exists."""
        return ControlBlock(self, index) if self.kernel.memory_blocks.get(index) is not None else None


@dataclass(slots=True)
class ControlBlock:
    """control/blocks/memoryN."""

    blocks: ControlBlocks
    index: int

    @property
    def serial(self) -> int:
        """Shared."""
        return self.blocks.serial

    @property
    def kernel(self) -> Kernel:
        """Whose block it is."""
        return self.blocks.kernel


def _pinned_store(block: ControlBlock, buffer: bytes) -> None:
    if kstrtobool(buffer, "pinned_store"):
        block.kernel.memory_blocks.pinned.add(block.index)
    else:
        block.kernel.unpin(block.index)


def _unmovable_store(block: ControlBlock, buffer: bytes) -> None:
    blocks = block.kernel.memory_blocks
    (blocks.unmovable.add if kstrtobool(buffer, "unmovable_store") else blocks.unmovable.discard)(block.index)


CONTROL_BLOCK = DirectoryKind(
    "control block",
    lambda block: f"/control/blocks/memory{block.index}",
    (
        Attribute(
            name="pinned",
            mode=0o644,
            size=0,
            show=lambda block: f"{int(block.index in block.kernel.memory_blocks.pinned)}\n",
            store=_pinned_store,
            doc="1: a page of the block does not migrate, so offlining it hangs until a signal or until it is 0 again.",
        ),
        Attribute(
            name="unmovable",
            mode=0o644,
            size=0,
            show=lambda block: f"{int(block.index in block.kernel.memory_blocks.unmovable)}\n",
            store=_unmovable_store,
            doc="1: the block has an unmovable page, so offlining it fails with EBUSY.",
        ),
    ),
)


def _family(blocks: ControlBlocks) -> Indexed:
    def directory(_kernel: Kernel, index: int) -> ControlBlock:
        return ControlBlock(blocks, index)

    return Indexed(
        prefix="memory",
        runs=lambda kernel: [(first, last) for first, last, _ in kernel.memory_blocks.runs],
        has=lambda kernel, index: kernel.memory_blocks.runs.get(index) is not None,
        count=lambda kernel: kernel.memory_blocks.count,
        directory=directory,
        run=lambda kernel, index: kernel.memory_blocks.runs.span(index),
        doc="What can be done to a block from outside.",
    )


def make(static: StaticDirectories, machine: Machine, blocks: ControlBlocks) -> None:
    """Make /control."""
    kernel = blocks.kernel
    boot = Directory(kernel.new_serial(), CONTROL_BLOCK, kernel)
    """The logs come and go with it: /control outlives a reset."""

    def log(name: str, contents: Log, doc: str) -> Attribute:
        return Attribute(name=name, mode=0o444, log=lambda _kernel: contents, owner=lambda _kernel: boot, doc=doc)

    def reset(_kernel: Kernel, buffer: bytes) -> None:
        if not kstrtobool(buffer, "reset_store"):
            raise KernelError(errno.EINVAL, "write 1 to reset", "reset_store")
        machine.reset()

    def writes(_kernel: Kernel, buffer: bytes) -> None:
        machine.journal.traces_writes = kstrtobool(buffer, "writes_store")
        if machine.journal.traces_writes:
            machine.journal.clear_writes()

    def text(name: str, show: Callable[[Kernel], str], doc: str) -> Attribute:
        return Attribute(name=name, mode=0o444, size=0, show=show, doc=doc)

    static.make("/control/blocks", (_family(blocks),))
    static.make("/control/latency", (_latency("online_block"), _latency("offline_block")))
    static.make(
        "/control/pages",
        (
            _on_node("pin", Kernel.pin, "A node: a page of its lowest online Movable block is pinned, as by vmsplice."),
            Attribute(name="unpin", mode=0o200, size=0, store=_unpin_store, doc="1: all pins are released."),
            _on_node(
                "kernel_allocations",
                Kernel.kernel_allocations,
                "A node: its lowest online block in a kernel zone gets slab, so offlining it fails with EBUSY.",
            ),
        ),
    )
    static.make(
        "/control/modules",
        (
            Attribute(
                name="load", mode=0o200, size=0, store=_load, doc="A module to load: name [parameter=value ...]."
            ),
            text("known", _known_modules, "Modules that can be loaded: name, what it needs (- or a,b), parameters."),
            Attribute(name="unload", mode=0o200, size=0, store=_unload, doc="A module to unload."),
        ),
    )
    static.make(
        "/control/pmem",
        (
            Attribute(
                name="devdax",
                mode=0o200,
                size=0,
                store=_devdax,
                doc="A raw namespace of persistent memory, namespaceX.Y [align=BYTES]: it becomes a static dax region.",
            ),
        ),
    )
    entries: tuple[Entry, ...] = (
        log(
            "kmsg",
            _kmsg(kernel.printk),
            f"The kernel log: <level>[seconds since boot] text. {_LIKE_A_LOG_FILE}",
        ),
        log("uevents", _uevents(kernel.uevents), f"The uevents, one a line. {_LIKE_A_LOG_FILE}"),
        Attribute(
            name="dev_kmsg",
            mode=0o644,
            size=0,
            stream=_KmsgDevice,
            store=_write_kmsg,
            doc="What /dev/kmsg is: a record at each read, a message at each write. `fakesysfs run` shows it there.",
        ),
        Attribute(name="kmsg_clear", mode=0o200, size=0, store=_clear_kmsg, doc="1: as `dmesg -C`, for dev_kmsg."),
        Attribute(name="kmsg_follow", mode=0o444, size=0, stream=_follow_kmsg, doc="The log, waiting for more."),
        Attribute(
            name="uevents_follow", mode=0o444, size=0, stream=_follow_uevents, doc="The uevents, waiting for more."
        ),
        Attribute(
            name="uevents_new",
            mode=0o444,
            size=0,
            stream=_new_uevents,
            doc="The uevents from its opening on, waiting for more.",
        ),
        Attribute(
            name="uevents_announce",
            mode=0o400,
            size=0,
            stream=lambda _kernel: machine.uevent_readers.open(),
            doc="The same, over resets, for a program that sends them on: a write that causes events is answered when "
            "all readers have asked for more, or after 10 seconds.",
        ),
        log(
            "refused",
            machine.journal.refused_log(),
            f"Refused operations: pid, command, path, bytes, errno, why, where. {_LIKE_A_LOG_FILE}",
        ),
        Attribute(
            name="writes",
            mode=0o644,
            size=0,
            show=lambda _kernel: machine.journal.writes_text(),
            store=writes,
            doc="Writes in the order they began: seconds since boot, duration, pid, command, path, bytes, result. "
            "1 empties the list and turns it on, 0 turns it off. A line changes when its write ends, so `tail -f` "
            "does not follow it.",
        ),
        Attribute(
            name="reset", mode=0o200, size=0, store=reset, doc="1: boot the machine again; open files get ENODEV."
        ),
        text("machine.toml", lambda _kernel: machine.machine_text, "The machine that runs."),
        text("kernel", lambda kernel: f"{kernel.profile.name}\n", "The kernel profile that runs."),
        text("pid", lambda _kernel: f"{os.getpid()}\n", "Process id of the server."),
    )
    boot.kind = static.make("/control", entries).kind
    kernel.register(boot)
