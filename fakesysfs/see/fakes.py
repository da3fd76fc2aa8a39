"""Finds the fakes that run: mounts, and the private ones of `fakesysfs run`.

A mount is in the table of mounts. A run's fake is in the mount namespace of its init (sandbox/), which /proc shows: the
one of the run's processes whose parent, the launcher, is outside. Nothing is registered anywhere, so nothing is left
behind, and a run that was killed is not in the list. The runs of `fakesysfs explore` are not either: their mounts hold
each call until the explorer lets it go on, and ours would be one more.

To look at the files of a run, a process joins the user namespace and the mount namespace of its init (setns(2)). The
host's kernel allows that to the user who started the run, and to root.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import signal
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from fakesysfs.fuse.mount_table import TYPE, mounted_at, mounts
from fakesysfs.sandbox import linux
from fakesysfs.sandbox.known import HOLDS, VISIBLE

CONTROL = "FAKESYSFS_CONTROL"
"""The variable that a command in a run finds its control/ in."""

_FACTS = ("pid", "machine", "kernel")
_PATIENCE_MS = 1000
"""How long a fake may take to answer. One whose server is stopped does not."""


class Fake(NamedTuple):
    """A mount, or a run."""

    device: str
    """The number of its file system. A run that uses a mount has that of the mount."""
    path: str
    """Where this process sees it; "" if it does not."""
    pid: int
    """The launcher of a run; 0 for a mount, whose server is asked for its number."""
    init: int
    """The init of a run; 0 for a mount."""
    command: str
    """The arguments of a run."""


class Described(NamedTuple):
    """A line of `fakesysfs ps`."""

    pid: int
    """The launcher of a run, the server of a mount."""
    fake: Fake
    machine: str
    kernel: str

    @property
    def kind(self) -> str:
        """`run` or `mount`."""
        return "run" if self.fake.init else "mount"


class NotFoundError(Exception):
    """There is no such fake. The text says what there is."""


def find() -> list[Fake]:
    """The fakes of this user; of root those of all users. Those of which only the mount is left are among them."""
    here = {mount.device: mount.point for mount in mounts() if mount.type == TYPE and mount.root == "/"}
    found = [Fake(device, point, 0, 0, "") for device, point in here.items() if point != VISIBLE]
    return found + list(_runs(here))


def _runs(here: Mapping[str, str]) -> Iterator[Fake]:
    inside = dict(_processes_inside())
    for pid, device in inside.items():
        launcher = _parent(pid)
        if inside.get(launcher) == device or _name(pid) == HOLDS:
            continue
        arguments = _arguments(pid)
        # The launcher forked it: another program that has joined the namespaces is no run.
        if launcher and arguments != _arguments(launcher):
            continue
        yield Fake(device, here.get(device, ""), launcher or pid, pid, _command(arguments))


def _processes_inside() -> Iterator[tuple[int, str]]:
    """The processes that see the fake of a run, and its device."""
    devices: dict[str, str] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        try:
            namespace = os.readlink(f"/proc/{entry.name}/ns/mnt")  # noqa: PTH115  a string is wanted
            if namespace not in devices:
                mount = mounted_at(VISIBLE, entry.name)
                devices[namespace] = mount.device if mount is not None and mount.root == "/" else ""
        except OSError:
            continue  # it has ended, or is another user's
        if devices[namespace]:
            yield int(entry.name), devices[namespace]


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        # "pid (name) state parent ...", and the name may have any characters
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    return 0


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    return ""


def _arguments(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")[:-1]
    return []


def _command(arguments: list[str]) -> str:
    """The arguments of fakesysfs, without the Python that runs it."""
    names = [place for place, argument in enumerate(arguments) if Path(argument).name in {"fakesysfs", "__main__.py"}]
    return shlex.join(arguments[names[0] + 1 :] if names else arguments)


# What they are ----------------------------------------------------------------------------------------------------


def describe(found: Iterable[Fake]) -> list[Described]:
    """The fakes that answer, ordered by their numbers."""
    described = []
    for fake in found:
        facts = _facts(fake)
        if facts is not None:
            described.append(Described(fake.pid or int(facts["pid"]), fake, facts["machine"], facts["kernel"]))
    return sorted(described)


def _facts(fake: Fake) -> dict[str, str] | None:
    """What its control/ says; None if it does not answer.

    A child asks: it can be killed while it waits, and this process stays in its namespaces.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            if not fake.path:
                linux.join(fake.init, linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
            control = Path(fake.path or VISIBLE, "control")
            facts = {name: (control / name).read_text(encoding="utf-8").strip() for name in _FACTS}
            os.write(writer, json.dumps(facts).encode())
        finally:
            os._exit(0)
    os.close(writer)
    try:
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        answer = os.read(reader, select.PIPE_BUF) if poll.poll(_PATIENCE_MS) else b""
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    answered: dict[str, str] | None = json.loads(answer) if answer else None
    return answered


# Which one --------------------------------------------------------------------------------------------------------


def numbered(number: int) -> Described:
    """The fake of that process. Raises NotFoundError."""
    there = describe(find())
    for described in there:
        if number in {described.pid, described.fake.init}:
            return described
    raise NotFoundError(f"process {number} is no fake machine; {_list(there)}")


def only() -> Described:
    """The only fake that there is. Raises NotFoundError."""
    there = describe(find())
    if len({described.fake.device for described in there}) == 1:
        return there[0]
    raise NotFoundError(f"which machine? {_list(there)}")


def _list(there: Iterable[Described]) -> str:
    """What there is, for an error."""
    named = [f"{described.pid} ({described.fake.path or described.fake.command})" for described in there]
    if not named:
        return "no fake machine runs: `fakesysfs mount MNT` or `fakesysfs run` starts one"
    return f"`fakesysfs ps` lists them: {', '.join(named)}"


class Place(NamedTuple):
    """Where a machine's files are."""

    root: str
    """The directory that has sys/."""
    control: str | None
    """The directory control/ of a fake; None for a real machine."""
    name: str
    """For the heading: what and where it is."""
    init: int = 0
    """The init of the run whose namespaces must be joined before; 0 without one."""

    def enter(self) -> None:
        """Make the files visible to this process, which must have one thread. Raises OSError."""
        if self.init:
            linux.join(self.init, linux.CLONE_NEWUSER | linux.CLONE_NEWNS)


def place(which: str | None) -> Place:
    """The machine that a user names: by a directory, by a number of `fakesysfs ps`; None is the only one.

    Raises NotFoundError, and OSError for a mount that does not answer.
    """
    mine = os.environ.get(CONTROL)
    if which is None and mine is not None and Path(mine).is_dir():
        return Place(str(Path(mine).parent), mine, _named("", mine))
    if which is None or (which.isdecimal() and not Path(which).exists()):
        described = only() if which is None else numbered(int(which))
        fake = described.fake
        name = f"{fake.path or f'run {described.pid}'}, machine {described.machine}, kernel {described.kernel}"
        root = fake.path or VISIBLE
        return Place(root, f"{root}/control", name, 0 if fake.path else fake.init)
    real = os.path.realpath(which)
    mount = mounted_at(real)
    if mount is not None and mount.root == "/":
        return Place(real, f"{real}/control", _named(which, f"{real}/control"))
    return Place(real, mine if real == "/" else None, which)


def _named(what: str, control: str) -> str:
    machine, kernel = (Path(control, name).read_text(encoding="utf-8").strip() for name in ("machine", "kernel"))
    return ", ".join(filter(None, [what, f"machine {machine}", f"kernel {kernel}"]))
