"""The directory control/, declared like the rest.

`kmsg`, `uevents` and `refused` are logs: a read shows what there is and ends, and a later read goes
on there. So are their JSON lines, for programs. The `_follow` forms wait for more. A reset begins
new logs under the old names.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol

from fakesysfs.control.blocks import FAMILY, ControlBlocks, blocks_json
from fakesysfs.control.events import uevents_json, uevents_log
from fakesysfs.control.follow import CallsFollower, follow_kmsg, follow_new_uevents, follow_uevents
from fakesysfs.control.history import CallJournal
from fakesysfs.control.kmsg import KmsgReader, clear_kmsg, kmsg_json, kmsg_log, write_kmsg
from fakesysfs.control.uevent_readers import UeventReaders
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.kstrtox import kstrtobool, word_of
from fakesysfs.kernfs.declare import RO, RW, WO, Attribute, Directory, DirectoryKind, Entry, Store
from fakesysfs.kernfs.log import Log
from fakesysfs.kernfs.static import StaticTables
from fakesysfs.ops.errors import KernelError

MAX_LATENCY = 3600.0
_FOLLOWED = "`tail -f` works. After a reset it is a new file: `tail -F` follows that one."
_LIKE_A_LOG_FILE = f"{_FOLLOWED} When lines were dropped, the file says how many in all."
_JSON_LINES = f"as JSON lines, see docs/control.md. {_FOLLOWED} A gap in `seq` stands for dropped lines."
_SECONDS = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", re.IGNORECASE)


class Resettable(Protocol):
    """The running machine, as far as control/ needs it."""

    machine_name: str
    machine_text: str
    journal: CallJournal
    uevent_readers: UeventReaders

    def reset(self) -> None:
        """Take everything away and boot again."""


def _known_modules(kernel: Kernel) -> list[str]:
    return [
        " ".join([name, ",".join(kind.needs) or "-", *kind.parameters])
        for name, kind in sorted(kernel.modules.kinds.items())
    ]


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


def _on_node(name: str, act: Callable[[Kernel, int], object]) -> Store[Kernel]:
    """The `store` of a file that takes the number of a node."""

    def store(kernel: Kernel, buffer: bytes) -> None:
        word = word_of(buffer).strip()
        if not word.isdecimal() or int(word) not in kernel.nodes.possible:
            raise KernelError(errno.EINVAL, f"{word!r} is not the number of a node", f"{name}_store")
        act(kernel, int(word))

    return store


def _unpin_store(kernel: Kernel, buffer: bytes) -> None:
    if not kstrtobool(buffer, "unpin_store"):
        raise KernelError(errno.EINVAL, "write 1 to release all pins", "unpin_store")
    kernel.unpin()


def _latency(point: str) -> Attribute[Kernel]:
    """How long each block takes at a preemption point of the model."""

    def show(kernel: Kernel) -> str:
        return f"{kernel.preempt.latency.get(point, 0.0):.10g}"

    def store(kernel: Kernel, buffer: bytes) -> None:
        word = word_of(buffer)
        # float() takes more ("1_0", "-0", " 5 "), which would be a mistake here.
        seconds = float(word) if _SECONDS.fullmatch(word) else -1.0
        if not 0 <= seconds <= MAX_LATENCY:
            allowed = f"seconds from 0 to {MAX_LATENCY:g}"
            raise KernelError(errno.EINVAL, f"{word!r}: expected {allowed}", "latency_store")
        kernel.preempt.latency[point] = seconds

    return RW(point, show, store, "Seconds that each block takes.")


_MODULES_ENTRIES: tuple[Entry[Kernel], ...] = (
    WO("load", _load, "A module to load: name [parameter=value ...]."),
    RO("known", _known_modules, "Modules that can be loaded: name, what it needs (- or a,b), parameters."),
    WO("unload", _unload, "A module to unload."),
)

_PAGES_ENTRIES: tuple[Entry[Kernel], ...] = (
    WO(
        "pin",
        _on_node("pin", Kernel.pin),
        "A node: a page of its lowest online Movable block is pinned, as by vmsplice.",
    ),
    WO("unpin", _unpin_store, "1: all pins are released."),
    WO(
        "kernel_allocations",
        _on_node("kernel_allocations", Kernel.kernel_allocations),
        "A node: its lowest online block in a kernel zone gets slab, so offlining it fails with EBUSY.",
    ),
)

_PMEM_ENTRIES: tuple[Entry[Kernel], ...] = (
    WO(
        "devdax",
        _devdax,
        "A raw namespace of persistent memory, namespaceX.Y [align=BYTES]: it becomes a static dax region.",
    ),
)


class Control:
    """What the functions of control/'s files get: the machine from one boot to the next."""

    def __init__(self, kernel: Kernel, machine: Resettable, kind: DirectoryKind[Control]) -> None:
        """`kind` is the kind of /control."""
        self.kernel = kernel
        self.machine = machine
        self.blocks = ControlBlocks(kernel.new_serial(), kernel)
        self.boot = Directory(kernel.new_serial(), kind, self)
        """The logs live as long as this object. /control itself outlives a reset."""
        kernel.register(self.blocks)
        kernel.register(self.boot)

    # A log is made when it is first asked for. It shows what came before, too.

    @cached_property
    def kmsg(self) -> Log:
        """control/kmsg."""
        return kmsg_log(self.kernel.printk)

    @cached_property
    def kmsg_json(self) -> Log:
        """control/kmsg.jsonl."""
        return kmsg_json(self.kernel.printk)

    @cached_property
    def uevents(self) -> Log:
        """control/uevents."""
        return uevents_log(self.kernel.uevents)

    @cached_property
    def uevents_json(self) -> Log:
        """control/uevents.jsonl."""
        return uevents_json(self.kernel.uevents)

    @cached_property
    def refused(self) -> Log:
        """control/refused."""
        return self.machine.journal.refused_log()

    @cached_property
    def refused_json(self) -> Log:
        """control/refused.jsonl."""
        return self.machine.journal.refused_json()


def _log(name: str, log: Callable[[Control], Log], doc: str) -> Attribute[Control]:
    return Attribute(name=name, mode=0o444, log=log, owner=lambda control: control.boot, doc=doc)


def _reset_store(control: Control, buffer: bytes) -> None:
    if not kstrtobool(buffer, "reset_store"):
        raise KernelError(errno.EINVAL, "write 1 to reset", "reset_store")
    control.machine.reset()


def _writes_show(control: Control) -> bytes:
    return control.machine.journal.writes_text().encode("utf-8", "surrogateescape")


def _writes_store(control: Control, buffer: bytes) -> None:
    journal = control.machine.journal
    journal.traces_writes = on = kstrtobool(buffer, "writes_store")
    if on:
        journal.clear_writes()


_ENTRIES: tuple[Entry[Control], ...] = (
    _log(
        "kmsg",
        lambda control: control.kmsg,
        f"The kernel log: <level>[seconds since boot] text. {_LIKE_A_LOG_FILE}",
    ),
    _log("kmsg.jsonl", lambda control: control.kmsg_json, f"The kernel log {_JSON_LINES}"),
    _log("uevents", lambda control: control.uevents, f"The uevents, one a line. {_LIKE_A_LOG_FILE}"),
    _log("uevents.jsonl", lambda control: control.uevents_json, f"The uevents {_JSON_LINES}"),
    Attribute(
        name="dev_kmsg",
        mode=0o644,
        stream=lambda control: KmsgReader(control.kernel),
        store=lambda control, buffer: write_kmsg(control.kernel, buffer),
        doc="What /dev/kmsg is: a record at each read, a message at each write. `fakesysfs run` shows it there.",
    ),
    WO("kmsg_clear", lambda control, buffer: clear_kmsg(control.kernel, buffer), "1: as `dmesg -C`, for dev_kmsg."),
    Attribute(
        name="kmsg_follow",
        mode=0o444,
        stream=lambda control: follow_kmsg(control.kernel),
        doc="The log, waiting for more.",
    ),
    Attribute(
        name="uevents_follow",
        mode=0o444,
        stream=lambda control: follow_uevents(control.kernel),
        doc="The uevents, waiting for more.",
    ),
    Attribute(
        name="uevents_new",
        mode=0o444,
        stream=lambda control: follow_new_uevents(control.kernel),
        doc="The uevents that are sent after it was opened, waiting for more.",
    ),
    Attribute(
        name="calls_new",
        mode=0o444,
        stream=lambda control: CallsFollower(control.kernel, control.machine.journal),
        doc="Writes when they begin and when they end, and refused opens, after it was opened, waiting for more: JSON "
        "lines as in writes.jsonl.",
    ),
    Attribute(
        name="uevents_announce",
        mode=0o400,
        stream=lambda control: control.machine.uevent_readers.open(),
        doc="The same, over resets, for a program that sends the events. A write that causes events returns when "
        "all readers have asked for more, or after 10 seconds.",
    ),
    _log(
        "refused",
        lambda control: control.refused,
        f"Refused system calls: pid, command, path, bytes, errno, reason, kernel function. {_LIKE_A_LOG_FILE}",
    ),
    _log("refused.jsonl", lambda control: control.refused_json, f"Refused system calls {_JSON_LINES}"),
    RW(
        "writes",
        _writes_show,
        _writes_store,
        "Writes in the order they began: seconds since boot, duration, pid, command, path, bytes, result. "
        "1 empties the list and turns it on, 0 turns it off. A line changes when its write ends, so `tail -f` "
        "does not follow it.",
    ),
    RO(
        "writes.jsonl",
        lambda control: control.machine.journal.writes_json().encode(),
        "The same as JSON lines, see docs/control.md. `seq` counts from 0 since the list was emptied.",
    ),
    RO(
        "blocks.jsonl",
        lambda control: blocks_json(control.kernel),
        "The memory blocks as JSON lines, one for each run of equal blocks, see docs/control.md.",
    ),
    WO("reset", _reset_store, "1: boot the machine again; open files get ENODEV."),
    RO(
        "machine.toml",
        lambda control: control.machine.machine_text.encode("utf-8", "surrogateescape"),
        "The machine that runs.",
    ),
    RO(
        "machine",
        lambda control: control.machine.machine_name,
        "Name of the machine that runs: a built-in one, or that of its file without .toml.",
    ),
    RO("kernel", lambda control: control.kernel.profile.name, "The kernel profile that runs."),
    RO("pid", lambda _control: os.getpid(), "Process id of the server."),
)


def declare(tables: StaticTables[Any]) -> None:
    """Declare /control.

    Functions of its own entries get a `Control`, those of control/blocks a `ControlBlocks`, others
    the kernel.
    """
    tables.declare("/control/blocks", (FAMILY,))
    tables.declare("/control/latency", (_latency("online_block"), _latency("offline_block")), file_size=0)
    tables.declare("/control/pages", _PAGES_ENTRIES, file_size=0)
    tables.declare("/control/modules", _MODULES_ENTRIES, file_size=0)
    tables.declare("/control/pmem", _PMEM_ENTRIES, file_size=0)
    tables.declare("/control", _ENTRIES, file_size=0)
