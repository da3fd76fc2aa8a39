"""A running machine behind one tree: /sys, /proc, /dev and control/ of one kernel.

This is where the layers meet: everything below knows only what it imports, everything above (FUSE, the in-process
machine, the replayer) gets a `Sysroot`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import starmap
from typing import Any, Protocol

from fakesysfs.control import root as control_root
from fakesysfs.control.blocks import CONTROL_BLOCK, ControlBlock, ControlBlocks
from fakesysfs.control.history import CallJournal
from fakesysfs.control.root import Control
from fakesysfs.control.uevent_readers import UeventReaders
from fakesysfs.kernel.core import FIRST_SERIAL
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.profile import Profile
from fakesysfs.kernel.setup import Setup
from fakesysfs.kernfs.declare import Attribute, DeviceNode, DeviceNodes, Directory, DirectoryKind, Entry, Kobject, Link
from fakesysfs.kernfs.static import ROOT_KIND, StaticTables
from fakesysfs.kernfs.tree import NameChange, Tree
from fakesysfs.kernfs.user_entries import UserEntries, entries_made_by_users
from fakesysfs.ops import sched
from fakesysfs.procfs import root as procfs_root
from fakesysfs.sysfs import cxl as sysfs_cxl
from fakesysfs.sysfs import root as sysfs_root
from fakesysfs.sysfs.changes import Changes

_USUAL_NODES = (
    ("null", 0o666, 1, 3),
    ("zero", 0o666, 1, 5),
    ("full", 0o666, 1, 7),
    ("random", 0o666, 1, 8),
    ("urandom", 0o666, 1, 9),
    ("tty", 0o666, 5, 0),
    ("kmsg", 0o644, 1, 11),
    ("fuse", 0o666, 10, 229),
)
"""Placeholders in /dev: name, mode, major, minor."""

_USUAL_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "/dev/pts/ptmx"),
)
"""Links in /dev as `fakesysfs run` has it (sandbox/terminals.py says why ptmx is one)."""

_MOUNTPOINTS = ("pts", "shm", "mqueue", "char", ".fakesysfs")
"""Empty directories in /dev that something is mounted on in `fakesysfs run`; on char, what udevd makes there."""


def _dax_nodes(kernel: Kernel) -> dict[str, tuple[Kobject, int, int, int]]:
    major = kernel.config.dax_major
    return {name: (device, 0o600, major, device.minor) for name, device in kernel.dax_bus.devices.items()}  # type: ignore[attr-defined]


def _cxl_nodes(kernel: Kernel) -> dict[str, tuple[Kobject, int, int, int]]:
    return {name: (memdev, 0o600, memdev.major, memdev.id) for name, memdev in sysfs_cxl.memdevs(kernel).items()}


@dataclass(frozen=True, slots=True)
class _Devtmpfs:
    """What the functions of /dev's entries get."""

    kernel: Kernel
    made: UserEntries


def _usual_node(name: str, mode: int, major: int, minor: int) -> DeviceNode[object]:
    return DeviceNode(name=name, mode=mode, device=lambda _dev: (major, minor))


def _usual_link(name: str, target: str) -> Link[object]:
    return Link(name=name, target=lambda _dev: target)


def _declare_dev(tables: StaticTables[Any], *, whole: bool) -> None:
    entries: list[Entry[_Devtmpfs]] = [
        *starmap(_usual_node, _USUAL_NODES),
        DeviceNodes(of=lambda dev: _dax_nodes(dev.kernel)),
    ]
    if not whole:
        tables.declare("/dev", entries)
        return
    for name in _MOUNTPOINTS:
        tables.declare(f"/dev/{name}")
    entries += starmap(_usual_link, _USUAL_LINKS)
    entries += entries_made_by_users(_made_in_dev)
    tables.declare("/dev", entries, made=_made_in_dev)


def _made_in_dev(dev: _Devtmpfs) -> UserEntries:
    return dev.made


@lru_cache(maxsize=8)
def _tables(*, memory_hotplug: bool, numa_migration: bool, has_cxl: bool, whole_dev: bool) -> StaticTables[Any]:
    """The tables of the static directories. Nothing else of a machine or a kernel changes them.

    To make them takes more than twice as long as a boot with them.
    """
    tables = StaticTables[Any]()
    sysfs_root.declare(tables, memory_hotplug=memory_hotplug, numa_migration=numa_migration, has_cxl=has_cxl)
    procfs_root.declare(tables)
    if has_cxl:
        tables.declare("/dev/cxl", (DeviceNodes(of=lambda dev: _cxl_nodes(dev.kernel)),))
    _declare_dev(tables, whole=whole_dev)
    control_root.declare(tables)
    return tables


def _lasts(path: str) -> bool:
    """Whether a directory outlives a reset: `fakesysfs run` mounts these elsewhere, and such mounts must not die."""
    return path in {"/sys", "/control"} or path.startswith(("/dev", "/proc"))


class Bootable(Protocol):
    """What is needed of a machine (`fakesysfs.machine.MachineDescription`) once its description was checked."""

    @property
    def name(self) -> str:
        """The name of a built-in machine, or that of its file without `.toml`."""

    @property
    def text(self) -> str:
        """Its file."""

    def setup(self) -> Setup:
        """What a kernel boots with."""


class Sysroot:
    """One machine, booted. `boot` makes one; `reset` boots it again."""

    def __init__(
        self,
        machine: Bootable,
        profile: Profile,
        *,
        uid: int = 0,
        gid: int = 0,
        now_ns: Callable[[], int] = time.time_ns,
        whole_dev: bool = False,
    ) -> None:
        self._whole_dev = whole_dev
        self.machine = machine
        self.machine_name = machine.name
        self.machine_text = machine.text
        self.profile = profile
        self.journal = CallJournal(lambda: self.kernel.printk.clock())  # noqa: PLW0108  each reset makes another kernel
        self._run_in_background: Callable[[sched.Operation[None]], None] | None = None
        self._collecting = False
        self._changes: list[NameChange] = []
        self._root = Directory(FIRST_SERIAL - 1, ROOT_KIND, None)
        self.now_ns = now_ns
        """The clock, in nanoseconds."""
        self.kernel = self._new_kernel(FIRST_SERIAL)
        self.uevent_readers = UeventReaders(self)
        self.on_reset: Callable[[], None] | None = None
        """Called when the next kernel has booted, and before the waits in the old one end."""
        self.tree = Tree(self._root, self.kernel, _kind_of, self._take_changes, now_ns, uid=uid, gid=gid)
        self._start({})

    @classmethod
    def boot(
        cls,
        machine: Bootable,
        profile: Profile,
        *,
        uid: int = 0,
        gid: int = 0,
        now_ns: Callable[[], int] = time.time_ns,
        whole_dev: bool = False,
    ) -> Sysroot:
        """Boot a machine under a profile; its files belong to `uid` and `gid`.

        With `whole_dev` its /dev can be a mount namespace's: links to what only such a one has are there and places to
        mount on, and links and directories can be made in it.
        """
        return cls(machine, profile, uid=uid, gid=gid, now_ns=now_ns, whole_dev=whole_dev)

    def run_in_background(self, start: Callable[[sched.Operation[None]], None] | None) -> None:
        """Have the kernel's own work run beside the operations of users: `start` begins one.

        None: it is a part of the operation that causes it.
        """
        self._run_in_background = self.kernel.background = start

    def static_directories(self) -> dict[str, Directory]:
        """The directories that stand for no object of the kernel, by path."""
        return dict(self._static)

    def reset(self) -> None:
        """Take everything away and boot again.

        All open files of /sys die, whoever waits in the old machine is let go. What was refused or written is
        forgotten.
        """
        self.journal.clear()
        old = self.kernel
        nodes = {*_dax_nodes(old), *self._made_in_dev.names()}
        lasting = {path: directory for path, directory in self._static.items() if _lasts(path)}
        self.kernel = self._new_kernel(old.last_serial)
        self.kernel.generation = old.generation + 1  # whoever has a file of the old one open sees that it is another
        self.tree.registry = self.kernel
        for directory in lasting.values():
            self.kernel.register(directory)
        self._start(lasting)
        changed = self.tree.forget_changed()
        if self._collecting:
            for path in self._static:
                above, _, name = path.rpartition("/")
                if above in lasting and path not in lasting:
                    self._changes.append(NameChange(self.tree.ino_of(lasting[above]), name.encode(), directories=True))
            self._changes += [
                NameChange(self.tree.ino_of(directory), entry.name.encode())
                for directory in lasting.values()
                for entry in directory.kind.entries
                if isinstance(entry, Attribute) and entry.owner is not None
            ]
            dev = self.tree.ino_of(lasting["/dev"])
            self._changes += [NameChange(dev, os.fsencode(name)) for name in nodes | {*_dax_nodes(self.kernel)}]
            self._changes.append(NameChange(dev, None, directories=True))
            self._changes += [NameChange(ino, None, directories=True) for ino in changed]
        self.kernel.background = self._run_in_background
        if self.on_reset is not None:
            self.on_reset()
        old.shut_down()
        self.journal.arrived.wake_all()

    def _new_kernel(self, serial: int) -> Kernel:
        booted_at = self.now_ns()
        return Kernel(self.machine.setup(), self.profile, lambda: (self.now_ns() - booted_at) / 1e9, serial)

    def _start(self, lasting: Mapping[str, Directory]) -> None:
        kernel = self.kernel
        tables = _tables(
            memory_hotplug=kernel.config.memory_hotplug,
            numa_migration=kernel.config.numa_migration,
            has_cxl=kernel.cxl is not None,
            whole_dev=self._whole_dev,
        )
        control = Control(kernel, self, tables.kinds["/control"])
        self._made_in_dev = UserEntries("/dev", kernel)
        kobjs = {"/control": control, "/control/blocks": control.blocks, "/dev": _Devtmpfs(kernel, self._made_in_dev)}
        static = self._static = tables.directories(kernel.new_serial, kernel, kobjs, lasting)
        self._root.children = tables.children("", static)
        for directory in static.values():
            kernel.register(directory)
        sched.run(kernel.boot())
        changes = Changes(self.tree, static.__getitem__)

        def observe(what: str, kobj: Any, first: Any, last: Any) -> None:
            if self._collecting:
                self._changes += changes.of(what, kobj, first, last)

        kernel.observe(observe)

    def _take_changes(self) -> Sequence[NameChange]:
        """Changes are collected from the first time that somebody asks for them."""
        self._collecting = True
        if not self._changes:
            return ()
        changes, self._changes = self._changes, []
        return changes


_KINDS: Mapping[type, DirectoryKind[Any]] = {
    **sysfs_root.KINDS,
    ControlBlocks: CONTROL_BLOCK,
    ControlBlock: CONTROL_BLOCK,
}


def _kind_of(kobject: Any) -> DirectoryKind[Any]:
    kind = _KINDS.get(type(kobject))
    if kind is not None:
        return kind
    return kobject.kind if isinstance(kobject, Directory) else sysfs_root.kind_of(kobject)
