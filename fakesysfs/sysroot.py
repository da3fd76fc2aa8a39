"""A running machine behind one tree: /sys, /proc, /dev and control/ of one kernel.

This is where the layers meet: everything below knows only what it imports, everything above (FUSE, the in-process machine, the
replayer) gets a `Sysroot`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fakesysfs.control import root as control_root
from fakesysfs.control.refused import Refusals
from fakesysfs.control.root import ControlBlock, ControlBlocks
from fakesysfs.kernel import sched
from fakesysfs.kernel.kernel import FIRST_SERIAL, Kernel
from fakesysfs.kernel.profile import Profile
from fakesysfs.kernfs.declare import Directory, DirectoryKind, Entry, Kobject, Node, Nodes
from fakesysfs.kernfs.static import StaticDirectories
from fakesysfs.kernfs.tree import ROOT, NameChange, Tree
from fakesysfs.machine import Machine
from fakesysfs.procfs import root as procfs_root
from fakesysfs.sysfs import root as sysfs_root
from fakesysfs.sysfs.changes import Changes

_USUAL_NODES = (
    ("null", 0o666, 1, 3),
    ("zero", 0o666, 1, 5),
    ("full", 0o666, 1, 7),
    ("random", 0o666, 1, 8),
    ("urandom", 0o666, 1, 9),
    ("tty", 0o666, 5, 0),
    ("ptmx", 0o666, 5, 2),
    ("kmsg", 0o644, 1, 11),
)
"""Placeholders in /dev: name, mode, major, minor."""


def _dax_nodes(kernel: Kernel) -> dict[str, tuple[Kobject, int, int, int]]:
    major = kernel.config.dax_major
    return {name: (device, 0o600, major, device.minor) for name, device in kernel.dax_bus.devices.items()}  # type: ignore[attr-defined]


def _usual_node(name: str, mode: int, major: int, minor: int) -> Node:
    return Node(name=name, mode=mode, device=lambda _kernel: (major, minor))


class Sysroot:
    """One machine, booted. `boot` makes one; `reset` boots it again."""

    def __init__(
        self, machine: Machine, profile: Profile, *, uid: int = 0, gid: int = 0, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self.machine = machine
        self.machine_text = machine.text
        self.profile = profile
        self.refusals = Refusals()
        self._collecting = False
        self._changes: list[NameChange] = []
        self._root = Directory(FIRST_SERIAL - 1, DirectoryKind("/", lambda _about: "/", ()), None)
        self._now_ns = now_ns
        self.kernel = self._new_kernel(FIRST_SERIAL)
        self.tree = Tree(self._root, self._object, _kind_of, self._take_changes, now_ns, uid=uid, gid=gid)
        self._start()

    @classmethod
    def boot(
        cls, machine: Machine, profile: Profile, *, uid: int = 0, gid: int = 0, now_ns: Callable[[], int] = time.time_ns
    ) -> Sysroot:
        """Boot a machine under a profile; its files belong to `uid` and `gid`."""
        return cls(machine, profile, uid=uid, gid=gid, now_ns=now_ns)

    def static_directories(self) -> dict[str, Directory]:
        """The directories that stand for no object of the kernel, by path."""
        return dict(self._static.by_path)

    def reset(self) -> None:
        """Take everything away and boot again: all open files die, whoever waits in the old machine is let go."""
        old = self.kernel
        self.kernel = self._new_kernel(old.last_serial)
        self._start()
        if self._collecting:
            self._changes += [NameChange(ROOT, name.encode(), directories=True) for name in ("control", "dev", "proc", "sys")]
        old.shut_down()

    def _new_kernel(self, serial: int) -> Kernel:
        booted_at = self._now_ns()
        return Kernel(self.machine.setup(), self.profile, lambda: (self._now_ns() - booted_at) / 1e9, serial)

    def _start(self) -> None:
        kernel = self.kernel
        static = self._static = StaticDirectories(kernel.new_serial, kernel)
        blocks = ControlBlocks(kernel.new_serial(), kernel)
        kernel.register(blocks)
        sysfs_root.make(static, kernel)
        procfs_root.make(static)
        entries: tuple[Entry, ...] = (*(_usual_node(*node) for node in _USUAL_NODES), Nodes(of=_dax_nodes))
        static.make("/dev", entries)
        control_root.make(static, self, blocks)
        for directory in static.by_serial.values():
            kernel.register(directory)
        self._root.kind = static.root_kind()
        sched.run(kernel.boot())
        changes = Changes(self.tree, static.by_path.__getitem__)

        def observe(what: str, about: Any, first: Any, last: Any) -> None:
            if self._collecting:
                self._changes += changes.of(what, about, first, last)

        kernel.observe(observe)

    def _object(self, serial: int) -> Any | None:
        return self.kernel.objects.get(serial)

    def _take_changes(self) -> list[NameChange]:
        """Changes are collected from the first time that somebody asks for them."""
        self._collecting = True
        changes, self._changes = self._changes, []
        return changes


def _kind_of(kobject: Any) -> DirectoryKind:
    if isinstance(kobject, Directory):
        return kobject.kind
    if isinstance(kobject, ControlBlocks | ControlBlock):
        return control_root.CONTROL_BLOCK
    return sysfs_root.kind_of(kobject)
