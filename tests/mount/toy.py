"""A small tree for tests of the mount alone: nothing of it models anything, and each entry is there for a test.

    python -m tests.mount.toy MOUNTPOINT    serves it in the foreground, prints a line once it answers

value counter readonly writeonly secret big broken bad_errno   attributes of all sorts
stores                      what reached the stores of `value`, as a Python list; an empty line empties it
sleep, wake, reentered      `sleep` sleeps for ever (uninterruptible, killable, interruptible) until `wake`
hang                        the server answers nobody until FIFOs have no writer
family/memoryN              an indexed family; `present` takes "+ first last" and "- first last"
device/, create             a directory that `device/remove` takes away, `create` brings back
link                        a link that `bound` (0, 1) takes and gives
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from fakesysfs.fuse import daemon
from fakesysfs.fuse.mount import MountError, check
from fakesysfs.fuse.session import serve
from fakesysfs.kernfs import CallingProcess, NameChange, Tree
from fakesysfs.kernfs.declare import (
    Attribute,
    DeviceNode,
    Directory,
    DirectoryKind,
    Group,
    Indexed,
    Kobject,
    Link,
    Subdirectories,
)
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import Answer, SignalPending, Signals, Sleep, Wait, WaitQueue, ask

ROOT_SERIAL, FAMILY_SERIAL, FIRST_DEVICE_SERIAL = 1, 2, 10


@dataclass
class Member:
    """One of the family."""

    serial: int
    index: int


@dataclass
class Device:
    """The one that removes itself."""

    serial: int
    index: int = 0


@dataclass
class Toy:
    """The state of it all."""

    members: set[int] = field(default_factory=lambda: set(range(32)))
    value: bytes = b"zero\n"
    stores: list[bytes] = field(default_factory=list)
    counter: int = 0
    bound: bool = True
    sleepers: int = 0
    generation: int = 0
    """Counts the changes."""
    wake: WaitQueue = field(default_factory=WaitQueue)
    device: Device | None = field(default_factory=lambda: Device(FIRST_DEVICE_SERIAL))
    changes: list[NameChange] = field(default_factory=list)
    tree: Tree = field(init=False)

    serial = FAMILY_SERIAL
    index = 0

    def __post_init__(self) -> None:
        self.top = Directory(ROOT_SERIAL, TOP, self)
        self.tree = Tree(self.top, self, self.kind, self.take_changes, time.time_ns, uid=os.getuid(), gid=os.getgid())
        self.next_serial = FIRST_DEVICE_SERIAL + 1

    def at(self, index: int) -> Member | None:
        """The member `index` of the family."""
        return Member(FAMILY_SERIAL, index) if index in self.members else None

    @property
    def objects(self) -> Toy:
        """The objects by their serials."""
        return self

    def report(self, change: NameChange) -> None:
        """Something came or went."""
        self.generation += 1
        self.changes.append(change)

    def get(self, serial: int, /) -> object | None:
        """The object of a serial."""
        if serial == FAMILY_SERIAL:
            return self
        if serial == ROOT_SERIAL:
            return self.top
        return self.device if self.device and self.device.serial == serial else None

    def kind(self, kobject: object) -> DirectoryKind[Any]:
        """The table of an object's directory."""
        if kobject is self.top:
            return TOP
        return DEVICE if isinstance(kobject, Device) else MEMBER

    def take_changes(self) -> list[NameChange]:
        """What changed since the last call."""
        changes, self.changes = self.changes, []
        return changes

    @property
    def family(self) -> int:
        """The inode number of the directory of the family."""
        return self.tree.walk("/family")

    def runs(self) -> Iterable[tuple[int, int]]:
        """The members in runs."""
        start = previous = None
        for index in sorted(self.members):
            if start is None:
                start = index
            elif previous is not None and index != previous + 1:
                yield start, previous
                start = index
            previous = index
        if start is not None and previous is not None:
            yield start, previous

    def set_present(self, data: bytes) -> None:
        """`+ first last` and `- first last`."""
        sign, first, last = data.split()
        span = range(int(first), int(last) + 1)
        if sign == b"+":
            self.members.update(span)
        else:
            self.members.difference_update(span)
        self.report(NameChange(self.family, None, b"memory", int(first), int(last), directories=True))

    def store_value(self, data: bytes) -> None:
        """Remember it."""
        self.stores.append(data)
        self.value = data

    def set_bound(self, data: bytes) -> None:
        """Take and give `link`."""
        self.bound = data.strip() == b"1"
        self.report(NameChange(1, b"link"))

    def create(self, _data: bytes) -> None:
        """Bring `device` back."""
        if self.device is not None:
            raise KernelError(errno.EEXIST, "it is there", "create")
        self.device = Device(self.next_serial)
        self.next_serial += 1
        self.report(NameChange(1, b"device", directories=True))

    def remove(self) -> None:
        """Take `device` away."""
        self.device = None
        self.report(NameChange(1, b"device", directories=True))

    def count(self) -> str:
        """One more at each call."""
        self.counter += 1
        return f"{self.counter}\n"

    async def sleep(self, data: bytes) -> None:
        """Sleep as told: removes member 0 before and 1 after, unless a signal is pending then."""
        if data.startswith(b"seconds "):
            _, seconds, *signals = data.split()
            self.sleepers += 1
            answer = await ask(Sleep("toy", float(seconds), Signals[signals[0].decode()] if signals else Signals.NONE))
            self.sleepers -= 1
            if answer is Answer.INTERRUPTED:
                raise KernelError(errno.EINTR, "a signal came", "sleep")
            return
        if self.sleepers:
            raise KernelError(errno.EBUSY, "somebody sleeps already", "sleep")
        self.sleepers += 1
        try:
            self.set_present(b"- 0 0")
            await ask(Wait("toy", self.wake, Signals[data.strip().decode()]))
            if await ask(SignalPending("toy")) is Answer.INTERRUPTED:
                raise KernelError(errno.EINTR, "a signal came", "sleep")
            self.set_present(b"- 1 1")
        finally:
            self.sleepers -= 1

    async def hang(self, data: bytes) -> None:
        """`FIFO FIFO`: answer nobody while the first has a writer; remove member 3; the same with the second."""
        await ask(Sleep("toy", 0))
        first, second = os.fsdecode(data).split()
        wait_for_end(first)
        self.set_present(b"- 3 3")
        await ask(Wait("toy", Hanging(second)))

    async def show_awake(self) -> str:
        """Wait for `wake`, then say so."""
        answer = await ask(Wait("toy", self.wake, Signals.ANY))
        if answer is Answer.INTERRUPTED:
            raise KernelError(errno.EINTR, "a signal came", "show_awake")
        return "awake\n"


def wait_for_end(fifo: str) -> None:
    """Return when the FIFO has no writer any more."""
    Path(fifo).read_bytes()


def fail(*_: object) -> NoReturn:
    """A bug."""
    raise ZeroDivisionError


def fail_with_errno(*_: object) -> NoReturn:
    """An errno that no host knows."""
    raise KernelError(600, "there is no such errno", "fail_with_errno")


MEMBER = DirectoryKind[Member](
    "member",
    lambda member: f"/family/memory{member.index}",
    [
        Attribute(name="state", mode=0o644, show=lambda member: f"state of {member.index}\n", store=lambda *_: None),
        Link(name="up", target=lambda _: "/family"),
    ],
)

TOY: Toy

DEVICE = DirectoryKind[Device](
    "device",
    lambda _: "/device",
    [
        Attribute(name="remove", mode=0o200, store=lambda _, __: TOY.remove()),
        Attribute(name="state", mode=0o644, show=lambda device: f"{device.serial}\n", store=lambda *_: None),
    ],
)


def _devices(toy: Toy) -> dict[str, Kobject]:
    return {"device": toy.device} if toy.device else {}


TOP = DirectoryKind["Toy"](
    "top",
    lambda _: "/",
    [
        Attribute(name="value", mode=0o644, show=lambda toy: toy.value, store=Toy.store_value),
        Attribute(
            name="stores", mode=0o644, show=lambda toy: repr(toy.stores), store=lambda toy, _: toy.stores.clear()
        ),
        Attribute(name="counter", mode=0o444, show=Toy.count),
        Attribute(name="readonly", mode=0o444, show=lambda _: "read only\n"),
        Attribute(name="writeonly", mode=0o200, store=lambda *_: None),
        Attribute(name="secret", mode=0o400, show=lambda _: "secret\n"),
        Attribute(name="big", mode=0o444, size=0, show=lambda _: "0123456789abcde\n" * 20_000),
        Attribute(name="broken", mode=0o644, show=fail, store=fail),
        Attribute(name="bad_errno", mode=0o644, show=fail_with_errno, store=fail_with_errno),
        Attribute(name="sleep", mode=0o644, show=lambda toy: f"{toy.sleepers}\n", store=Toy.sleep),
        Attribute(name="wait_for_wake", mode=0o444, sleeping_show=Toy.show_awake),
        Attribute(name="hang", mode=0o200, store=Toy.hang),
        Attribute(name="wake", mode=0o200, store=lambda toy, _: toy.wake.wake_all()),
        Attribute(name="present", mode=0o200, store=Toy.set_present),
        Attribute(name="bound", mode=0o200, store=Toy.set_bound),
        Attribute(name="create", mode=0o200, store=Toy.create),
        Link(name="link", target=lambda toy: "/family/memory2" if toy.bound else None),
        DeviceNode(name="null", mode=0o666, device=lambda _: (1, 3)),
        Subdirectories(of=_devices),
        Group(
            name="family",
            entries=(
                Indexed(
                    prefix="memory",
                    runs=Toy.runs,
                    has=lambda toy, index: index in toy.members,
                    count=lambda toy: len(toy.members),
                    directory=lambda _, index: Member(FAMILY_SERIAL, index),
                ),
            ),
        ),
    ],
)


class Hanging(WaitQueue):
    """A wait on it hangs the server: after the operation's step, before another request gets its turn."""

    def __init__(self, fifo: str) -> None:
        super().__init__()
        self._fifo = fifo

    def add(self, callback: Callable[[], None]) -> int:
        """Hang until the FIFO has no writer any more."""
        wait_for_end(self._fifo)
        return super().add(callback)


class PrintingJournal:
    """What the layer above would list."""

    traces_writes = False

    def refuse(self, caller: CallingProcess, op: str, path: str, data: bytes, error: KernelError) -> None:
        """Print it, for the test to read."""
        print("refused", caller.command, path, data, error.name, flush=True)  # noqa: T201  the test reads it

    def begin_write(self, caller: CallingProcess, path: str, data: bytes) -> None:
        """Writes are not traced."""

    def end_write(self, write: None, outcome: int | KernelError) -> None:
        """The same."""


class Sysroot:
    """What `serve` mounts."""

    def __init__(self, toy: Toy) -> None:
        self.tree = toy.tree
        self.journal = PrintingJournal()


TOY = Toy()


def main(point: str) -> int:
    """Serve it at `point`."""
    daemon.log_to_standard_error()
    try:
        check(point)
        serve(Sysroot(TOY), point, allow_other=False, ready=lambda: print("ready", flush=True))  # noqa: T201  the same
    except MountError as error:
        print(error, file=sys.stderr)  # noqa: T201  the same
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
