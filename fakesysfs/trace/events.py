"""The events of a trace: the schema of its JSON lines.

A line is one event. Its `type` is the name of the class in small letters. Times are seconds since the
machine's first boot. Fields that control/*.jsonl has too say the same there.

An event with a `duration` may come twice: with null when it begins to take time, and at its end. Both
lines have the same `seq`, and the later one counts. So the trace of a killed run shows what was under way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Union

import msgspec

VERSION = 1
"""The number in the first line. It changes when a field changes its meaning or goes."""


def _tag(name: str) -> str:
    return name.lower()


class _Event(msgspec.Struct, tag=_tag, tag_field="type"):
    """One line."""


class Trace(_Event):
    """The first line."""

    version: int
    machine: str
    """Its name or file."""
    kernel: str
    block_size: int
    """Bytes of a memory block."""
    fakesysfs: str
    """The version of fakesysfs."""


class Boot(_Event):
    """A kernel has booted: at the beginning, and after each reset. Blocks, nodes and devices follow."""

    time: float


class Op(_Event, gc=False):
    """A system call."""

    seq: int
    """Counts the calls from 1, in the order in which they began."""
    time: float
    duration: float | None
    """Seconds; null while it waits."""
    pid: int
    """The thread that makes the call, as the host names it."""
    tgid: int
    """Its process."""
    comm: str
    """The name of the thread's command."""
    program: str
    """The program or script that the process runs."""
    uid: int
    op: str
    """open, read, write, and for names and directories lookup, getattr, opendir, readlink and the like."""
    path: str
    data: str
    """What a write hands to the store, or a read returns; the first 1,024 bytes."""
    result: int | None
    """Bytes of a read or write, else 0; null while it waits, and if it was refused."""
    errno: str | None
    """The name of the errno if it was refused."""
    reason: str | None
    func: str | None
    """The kernel function that decides."""


class Wait(_Event):
    """A call sleeps in the kernel, or stands at a preemption point."""

    seq: int
    """Counts the waits from 1."""
    time: float
    duration: float | None
    op: int
    """`seq` of the call."""
    kind: str
    """lock, sleep (latency), event (a pinned page, a reader of a stream) or preempt."""
    point: str
    """Where in the kernel: mutex_lock, lock_device_hotplug_sysfs, kernfs_drain, do_migrate_range, ..."""
    lock: str | None
    """The lock that it waits for."""


class Lock(_Event):
    """A call held a lock while it waited. Locks that were not held over a wait are left out."""

    seq: int
    """Counts them from 1."""
    time: float
    duration: float | None
    op: int | None
    """`seq` of the call that held it."""
    lock: str
    """device_hotplug_lock, memoryN, daxX.Y, or daxX.Y kmem."""


class Uevent(_Event):
    """Uevents with the same action, of devices whose numbers follow each other."""

    time: float
    op: int | None
    """`seq` of the call that caused it."""
    seq: int
    """SEQNUM of the first."""
    count: int
    """How many there are. The numbers in devpath and SEQNUM go up by one."""
    action: str
    devpath: str
    """Of the first."""
    subsystem: str
    env: dict[str, str]


class Log(_Event):
    """A message of the kernel log."""

    time: float
    op: int | None
    seq: int
    level: int
    text: str


class Blocks(_Event):
    """Memory blocks `first` to `last` have changed."""

    time: float
    op: int | None
    first: int
    last: int
    state: str | None
    """online, offline, going-offline; null after their removal."""
    zone: str | None
    """The zone, while they are online in one."""
    nodes: list[int]


class Node(_Event):
    """A node came or went."""

    time: float
    op: int | None
    node: int
    online: bool


class Dax(_Event):
    """A dax device came, went, or changed."""

    time: float
    op: int | None
    device: str
    present: bool
    driver: str | None
    node: int
    """target_node."""
    blocks: list[tuple[int, int]]
    """The whole memory blocks in its ranges, first and last."""


class Memory(_Event):
    """The sizes of the zones have changed. In kB, as in meminfo."""

    time: float
    op: int | None
    total: int
    """MemTotal."""
    zones: dict[str, int]
    """Managed memory by node and zone: `node0 Normal`. Empty zones are left out."""


Event = Union[Trace, Boot, Op, Wait, Lock, Uevent, Log, Blocks, Node, Dax, Memory]  # noqa: UP007  msgspec reads it

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def to_line(event: Event) -> bytes:
    """An event as a line."""
    try:
        return _encoder.encode(event) + b"\n"
    except UnicodeEncodeError:  # bytes that are no text: JSON has an escape for them
        return json.dumps(msgspec.to_builtins(event), separators=(",", ":")).encode() + b"\n"


def to_lines(happened: Sequence[Event]) -> bytes:
    """Events as lines."""
    try:
        return _encoder.encode_lines(happened)
    except UnicodeEncodeError:
        return b"".join(map(to_line, happened))


def from_line(line: bytes) -> Event:
    """A line as an event. Raises ValueError if it is none."""
    try:
        return _decoder.decode(line)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        value: Any = json.loads(line)
        event: Event = msgspec.convert(value, Event)
        return event


def from_lines(lines: Iterable[bytes]) -> Iterator[Event]:
    """The events of a file. The last line of a killed run may be cut; it is left out."""
    for line in lines:
        if line.endswith(b"\n"):
            yield from_line(line)
