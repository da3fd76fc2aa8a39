"""The model in this process: no mount, no threads, no real time."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from fakesysfs.kernel.profile import PROFILES, Profile, UnknownKernelError, find_profile
from fakesysfs.kernfs import Caller, Stat
from fakesysfs.machine import MachineError, load
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import Answer, Operation, Preempt, Request, ask
from fakesysfs.replay import bash
from fakesysfs.replay.recording import Operation as Recorded
from fakesysfs.replay.recording import Value
from fakesysfs.replay.target import (
    BlockedError,
    FileStatus,
    Messages,
    NotRunError,
    NotSupportedError,
    Outcome,
    Process,
    RaceResult,
    RaceWriter,
    ShellResult,
    Target,
)
from fakesysfs.sysroot import Sysroot
from fakesysfs.testing.filesystem import Descriptor, FileSystem
from fakesysfs.testing.tasks import Signal, Task, Tasks

T = TypeVar("T")

_CALLER = Caller(pid=1000, command="replay")
RACE_ROUNDS = 40
"""How many times each writer of a race writes all of its data."""
_RACE_SEED = 0x5EED
_READ_SIZE = 65536


class MachineAndKernel(NamedTuple):
    """What a recording is replayed on."""

    machine: str
    """The name of a built-in machine, or the path of a machine file."""
    kernel: Profile


def machine_and_kernel(profile: str, variant: str, machine: str | None = None) -> MachineAndKernel:
    """The machine and the kernel that a recording is replayed on.

    `variant` is a key of `variants` in machine.json; `machine` replaces the machine that it names.
    Raises NotSupportedError for an unknown kernel.
    """
    profile = profile.removesuffix("-cxl")
    recorded = "oracle" if variant == "default" else f"oracle-{variant}"
    kernel = profile if profile in PROFILES else profile.removesuffix("-distribution")
    try:
        return MachineAndKernel(machine or recorded, find_profile(kernel))
    except UnknownKernelError as error:
        raise NotSupportedError(str(error)) from None


def with_memdevs(machine: str, memdevs: Mapping[str, str], operations: Sequence[Recorded], folder: Path) -> str:
    """A machine whose CXL memory devices have the recorded numbers and majors: a file in `folder` that extends it.

    The kernel makes the endpoints of several devices in any order, too. The session's links `uport` and the output of
    cxl tell it, or else the order of its uevents.
    """
    names = sorted(memdevs, key=lambda name: int(name.removeprefix("mem")))
    addresses = {name: memdevs[name].rstrip("/").removesuffix(f"/{name}").rpartition("/")[2] for name in names}
    bound = dict.fromkeys(
        match[1]
        for operation in operations
        for event in operation.get("uevents", ())
        if (match := _MEMDEV_BOUND.fullmatch(event[0])) is not None
    )
    endpoints = _endpoints(operations)
    cxl = load(machine).setup().cxl
    devices = cxl.devices if cxl else ()
    others = [device.path[-1] for device in devices if device.path[-1] not in addresses.values()]
    switches = {device.path[place] for device in devices for place in range(1, len(device.path) - 1, 2)}
    first = 1 + len(switches) + len(cxl.bridges if cxl else ())
    rest = [name for name in dict.fromkeys((*bound, *names)) if name in addresses and name not in endpoints.values()]
    probed: list[str] = []
    for number in range(first, first + len(names)):
        name = endpoints.get(number)
        probed.append(name if name in addresses else rest.pop(0) if rest else "")
    probed = [name for name in dict.fromkeys((*probed, *rest, *names)) if name in addresses]
    lines = (
        f"extends = {json.dumps(machine)}", "[cxl]", f"memdevs = {json.dumps([*addresses.values(), *others])}",
        f"probe_order = {json.dumps([*(addresses[name] for name in probed), *others])}",
        "[kernel]", *(f"{key} = {major}" for key, major in _majors(operations).items()),
    )  # fmt: skip
    path = folder / f"{machine}.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def _endpoints(operations: Sequence[Recorded]) -> dict[int, str]:
    """Which memory device is at an endpoint of a number, as the session shows first: the number -> memN."""
    found: dict[int, str] = {}
    for operation in operations:
        link = _ENDPOINT.fullmatch(operation.get("path", ""))
        if link is not None and "target" in operation:
            found.setdefault(int(link[1]), operation["target"].rpartition("/")[2])
        for number, name in _LISTED_ENDPOINT.findall(str(operation.get("stdout", ""))):
            found.setdefault(int(number), name)
        for name, number in _MAPPED_DECODER.findall(str(operation.get("stdout", ""))):
            found.setdefault(int(number), name)
    return found


def _majors(operations: Sequence[Recorded]) -> dict[str, str]:
    """The dynamic majors that uevents of the session show, or else its reads of `dev`."""
    found: dict[str, str] = {}
    for operation in operations:
        for event in operation.get("uevents", ()):
            values = dict(line.partition("=")[::2] for line in event)
            if "MAJOR" in values:
                key = "cxl_major" if values.get("DEVNAME", "").startswith("cxl/") else "dax_major"
                found.setdefault(key, values["MAJOR"])
    for operation in operations:
        device = _DEV.fullmatch(operation.get("path", ""))
        numbers = _NUMBERS.fullmatch(str(operation.get("data", "")))
        if operation["op"] == "read" and device and numbers:
            found.setdefault("dax_major" if device["dax"] else "cxl_major", numbers[1])
    return found


_DEV = re.compile(r".*/(?:mem\d+|(?P<dax>dax)\d+\.\d+)/dev")
_NUMBERS = re.compile(r"(\d+):\d+\n")
_LISTED_ENDPOINT = re.compile(r'"endpoint":"endpoint(\d+)",\s*"host":"(mem\d+)"')
_MAPPED_DECODER = re.compile(r'"memdev":"(mem\d+)",\s*"decoder":"decoder(\d+)\.\d+"')
_ENDPOINT = re.compile(r".*/endpoint(\d+)/uport")
_MEMDEV_BOUND = re.compile(r"bind@/devices/pci.*/(mem\d+)")


def boot(fake: MachineAndKernel) -> Sysroot:
    """Boot the fake. Raises NotSupportedError for an unknown machine."""
    try:
        description = load(fake.machine)
    except MachineError as error:
        raise NotSupportedError(f"{error}; --machine FILE replays on another machine") from error
    return Sysroot.boot(description, fake.kernel, whole_dev=True)


class ModelProcess(Process):
    """A task of the model that opens and writes."""

    def __init__(self, task: Task) -> None:
        self.task = task

    @property
    def letter(self) -> str:
        """See Process."""
        return self.task.letter

    def outcome(self) -> Outcome:
        """See Process."""
        if self.task.killed:
            return Outcome(killed=True)
        result = self.task.outcome()
        assert isinstance(result, Outcome)
        return result


class ModelTarget(Target):
    """One booted Sysroot and its tasks."""

    through_mount = False
    owner_is_root = True

    def __init__(self, sysroot: Sysroot, no_shell: str | None = None) -> None:
        """`no_shell`: why this target has no shell."""
        self.sysroot = sysroot
        self._no_shell = no_shell or "this target has none"
        self.files = FileSystem(sysroot.tree, sysroot.journal, _CALLER)
        self.tasks = Tasks()
        sysroot.run_in_background(self._work)
        self._descriptors: dict[int, Descriptor] = {}
        self._numbers = itertools.count(3)
        self._log = sysroot.kernel.printk.sequence
        self._events = sysroot.kernel.uevents.sequence

    def _work(self, operation: Operation[None]) -> None:
        """Have work of the kernel run when the operation that caused it has returned."""
        self.tasks.spawn(operation, "work of the kernel")

    def await_quiet(self) -> None:
        """See Target."""
        self.tasks.settle()

    # Running operations --------------------------------------------------------------------------------------------

    def run(self, operation: Coroutine[Request, Answer, T], name: str) -> T:
        """Drive an operation to its end.

        Raises what it raises. Raises BlockedError if it never ends, and kills it.
        """
        task = self.tasks.spawn(operation, name)
        if not self.tasks.finish(task):
            self.tasks.signal(task, Signal.SIGKILL)
            self.tasks.settle()
            raise BlockedError(f"{name} does not return")
        result: T = task.outcome()
        return result

    # System calls --------------------------------------------------------------------------------------------------

    def open(self, path: str, flags: int) -> int:
        """See Target."""
        return self._numbered(_as_os_error(lambda: self.files.open(path, flags)))

    def reopen(self, descriptor: int, flags: int) -> int:
        """See Target."""
        return self._numbered(_as_os_error(lambda: self.files.reopen(self._descriptors[descriptor], flags)))

    def _numbered(self, opened: Descriptor) -> int:
        number = next(self._numbers)
        self._descriptors[number] = opened
        return number

    def close(self, descriptor: int) -> None:
        """See Target."""
        del self._descriptors[descriptor]

    def read(self, descriptor: int, size: int, offset: int | None = None) -> bytes:
        """See Target."""
        opened = self._descriptors[descriptor]
        operation = self.files.read(opened, size) if offset is None else self.files.pread(opened, size, offset)
        return _as_os_error(lambda: self.run(operation, "read"))

    def write(self, descriptor: int, data: bytes, offset: int | None = None) -> int:
        """See Target."""
        opened = self._descriptors[descriptor]
        operation = self.files.write(opened, data) if offset is None else self.files.pwrite(opened, data, offset)
        return _as_os_error(lambda: self.run(operation, "write"))

    def stat(self, path: str) -> FileStatus:
        """See Target."""
        return _status(_as_os_error(lambda: self.files.lstat(path)))

    def readlink(self, path: str) -> str:
        """See Target."""
        return _as_os_error(lambda: self.files.readlink(path))

    def ls(self, path: str) -> list[str]:
        """See Target."""
        return _as_os_error(lambda: self.files.listdir(path))

    def call(self, name: str, *arguments: Value) -> Value:
        """See Target."""
        by_descriptor = self._calls_by_descriptor().get(name)
        if by_descriptor is not None:
            opened = self._descriptors[arguments[0]]
            return _as_os_error(lambda: by_descriptor(opened, *arguments[1:]))
        by_path = self._calls_by_path().get(name)
        if by_path is None:
            raise NotSupportedError(f"system call {name}")
        return _as_os_error(lambda: by_path(*arguments))

    def _calls_by_descriptor(self) -> dict[str, Callable[..., Value]]:
        files = self.files
        return {
            "lseek": files.lseek,
            "writev": lambda opened, parts: self.run(files.writev(opened, parts), "writev"),
            "fstat": lambda opened: _status(files.fstat(opened)),
            "ftruncate": files.ftruncate,
            "fchmod": files.fchmod,
            "fchown": files.fchown,
            "fsync": lambda _opened: None,
            "fdatasync": lambda _opened: None,
            "flock": lambda _opened: None,
            "mmap": files.mmap,
            "poll": files.poll,
        }

    def _calls_by_path(self) -> dict[str, Callable[..., Value]]:
        files = self.files
        return {
            "access": files.access,
            "stat": lambda path: _status(files.stat(path)),
            "removexattr": files.removexattr,
            "remove": files.unlink,
            "unlink": files.unlink,
            "rename": files.rename,
            "rmdir": files.rmdir,
            "mkdir": lambda path, _mode=0o777: files.make_name(path),
            "symlink": lambda _target, path: files.make_name(path),
            "link": files.link,
            "chmod": files.chmod,
            "chown": files.chown,
            "utime": lambda path, times: files.utime(path, *times),
            "truncate": files.truncate,
            "setxattr": files.setxattr,
            "getxattr": files.getxattr,
            "listxattr": files.listxattr,
            "statfs": files.statfs,
            "readlink": files.readlink,
        }

    # Processes -----------------------------------------------------------------------------------------------------

    def sh(self, command: str, tool: str | None) -> ShellResult:
        """See Target. The model loads and unloads modules; every other command needs a shell."""
        del tool
        commands = bash.module_commands(command)
        if commands is None:
            raise NotRunError(f"needs a shell: {self._no_shell}", rest=True)
        status = 0
        for words in commands:
            status = self._load_or_unload(*words)
        return ShellResult(status, "", "")

    def _load_or_unload(self, command: str, name: str, *parameters: str) -> int:
        """Run `modprobe NAME PARAMETER[=VALUE]...` or `rmmod NAME`. Returns the exit status."""
        kernel, module = self.sysroot.kernel, name.replace("-", "_")
        if command == "rmmod":
            operation = kernel.rmmod(module)
        else:
            words = (parameter.partition("=") for parameter in parameters)
            operation = kernel.modprobe(module, {key: value if equals else None for key, equals, value in words})
        try:
            self.run(operation, f"{command} {name}")
        except KernelError:
            return 1
        return 0

    def spawn(self, path: str, data: bytes, alarm: float = 0) -> ModelProcess:
        """See Target."""
        task = self.tasks.spawn(self._open_and_write(path, data), f"write {path}")
        if alarm:
            self.tasks.at(self.tasks.now + alarm, lambda: self.tasks.signal(task, Signal.SIGALRM))
        self.tasks.settle()
        return ModelProcess(task)

    async def _open_and_write(self, path: str, data: bytes, *, preempt: bool = False) -> Outcome:
        """`preempt`: other tasks may run between the open and the write."""
        try:
            opened = self.files.open(path, os.O_WRONLY)
        except KernelError as error:
            return Outcome(open_errno=error.errno)
        if preempt:
            await ask(Preempt("between open and write"))
        try:
            return Outcome(ret=await self.files.write(opened, data))
        except KernelError as error:
            return Outcome(errno=error.errno)

    def signal(self, process: Process, signal: Signal) -> None:
        """See Target."""
        assert isinstance(process, ModelProcess)
        self.tasks.signal(process.task, signal)
        self.tasks.settle()

    def wait(self, process: Process) -> bool:
        """See Target."""
        assert isinstance(process, ModelProcess)
        return self.tasks.finish(process.task)

    def race(self, writers: list[RaceWriter], reads: str) -> RaceResult:
        """See Target. RACE_ROUNDS rounds, in a random schedule from a fixed seed."""
        outcomes: set[tuple[str, bytes, str]] = set()
        values: set[bytes] = set()
        running = len(writers)

        async def write(writer: RaceWriter) -> None:
            nonlocal running
            for _ in range(RACE_ROUNDS):
                for data in writer.data:
                    await ask(Preempt("between two system calls"))
                    outcome = await self._open_and_write(writer.path, data, preempt=True)
                    outcomes.add((writer.name, data, outcome.word))
            running -= 1

        async def read() -> None:
            while running:
                await ask(Preempt("between two system calls"))
                try:
                    values.add(await self.files.read(self.files.open(reads, os.O_RDONLY), _READ_SIZE))
                except KernelError:
                    continue

        preempt = self.sysroot.kernel.preempt
        watched, preempt.watched = preempt.watched, True
        self.tasks.chooser = random.Random(_RACE_SEED)  # noqa: S311  a schedule, no secret
        try:
            started = [self.tasks.spawn(write(writer), writer.name) for writer in writers]
            started.append(self.tasks.spawn(read(), "reader"))
            for task in started:
                if not self.tasks.finish(task):
                    raise BlockedError(f"racing {task.name} does not return")
                task.outcome()
        finally:
            self.tasks.chooser = None
            preempt.watched = watched
        return RaceResult(outcomes, values)

    # The rest of the machine ---------------------------------------------------------------------------------------

    def drain(self) -> Messages:
        """See Target."""
        kernel = self.sysroot.kernel
        messages = Messages(
            [f"<{record.level}>{record.text}" for record in kernel.printk.since(self._log)],
            kernel.uevents.since(self._events),
        )
        self._log = kernel.printk.sequence
        self._events = kernel.uevents.sequence
        return messages

    def fixture(self, what: str, node: int | None) -> None:
        """See Target."""
        kernel = self.sysroot.kernel
        if what == "unpin":
            kernel.unpin()
        elif what == "pin" and node is not None:
            kernel.pin(node)
        elif what == "kernel-allocations" and node is not None:
            kernel.kernel_allocations(node)
        elif what == "kernel-allocations-released":
            pass  # the block stays unmovable (recorded: slab and page tables stay)
        elif what == "pmem-devdax":
            self.run(kernel.create_pmem_devdax(), "ndctl create-namespace")
        else:
            raise NotSupportedError(f"fixture {what}")
        self.tasks.settle()

    def end(self) -> None:
        """See Target."""
        for task in self.tasks.tasks:
            task.operation.close()


def _status(found: Stat) -> FileStatus:
    return FileStatus(found.mode, found.nlink, found.uid, found.gid, found.size)


def _as_os_error(action: Callable[[], T]) -> T:
    try:
        return action()
    except KernelError as error:
        raise OSError(error.errno, str(error)) from error
