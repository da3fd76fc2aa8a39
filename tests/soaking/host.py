"""The host as a soak sees it: processes below this one, mounts and files that are left, what hangs and where."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from fakesysfs.fuse import mount, mount_table
from fakesysfs.sandbox import view

PATIENCE_SECONDS = 30
"""For what must happen at once on an idle machine."""
STACKS_SECONDS = 2
LOG_TAIL = 6000


class Process(NamedTuple):
    """A line of the table of processes."""

    pid: int
    parent: int
    state: str
    name: str


def _process(below_proc: str) -> Process | None:
    try:
        text = Path(f"/proc/{below_proc}/stat").read_text(errors="replace")
    except OSError:  # it has just ended
        return None
    before, _, after = text.rpartition(")")
    pid, _, name = before.partition(" (")
    state, parent = after.split()[:2]
    return Process(int(pid), int(parent), state, name)


def descendants(of: int, without: Collection[int] = ()) -> list[Process]:
    """The processes below one, parents first; without those named and what is below them."""
    children: dict[int, list[Process]] = {}
    for process in map(_process, filter(str.isdecimal, os.listdir("/proc"))):
        if process is not None and process.pid not in without:
            children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    parents = [of]
    while parents:
        below = children.get(parents.pop(0), [])
        found += below
        parents += [process.pid for process in below]
    return found


def remaining(without: Collection[int] = ()) -> list[Process]:
    """The processes below this one, a subreaper, once it has reaped those that have ended."""
    for process in descendants(os.getpid(), without):
        if process.state == "Z" and process.parent == os.getpid():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)
    return [process for process in descendants(os.getpid(), without) if process.state != "Z"]


def command_line(pid: int) -> str:
    """How it was started, or nothing."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def wait_until(holds: Callable[[], object], seconds: float | None = None) -> bool:
    """Wait for what must come true, PATIENCE_SECONDS unless told; False if it does not."""
    end = time.monotonic() + (PATIENCE_SECONDS if seconds is None else seconds)
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def signal_to(pid: int, number: int) -> bool:
    """Send a signal; False if there is no such process any more."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def own_mounts(base: Path) -> list[mount_table.Mount]:
    """Mounts of ours below a directory, or where only a namespace of a run may have one."""
    return [
        found
        for found in mount_table.mounts()
        if found.type == mount_table.TYPE and (Path(found.point).is_relative_to(base) or found.point == view.MOUNTPOINT)
    ]


def temporary_files(base: Path) -> set[str]:
    """Files that programs of ours have left: in their own TMPDIR, or under our name beside it."""
    found = {str(path) for path in (base / "tmp").iterdir()}
    for place in ("/tmp", "/var/tmp", "/dev/shm"):  # noqa: S108  where nothing may be left
        with contextlib.suppress(OSError):
            found |= {f"{place}/{name}" for name in os.listdir(place) if _is_ours(place, name)}
    return found


def _is_ours(place: str, name: str) -> bool:
    with contextlib.suppress(OSError):
        mine = os.lstat(f"{place}/{name}").st_uid == os.getuid()
        return mine and "fakesysfs" in name and not name.startswith(PREFIX)
    return False


PREFIX = "fakesysfs-soak-"
"""Of the directory of a soak."""


# What hangs -----------------------------------------------------------------------------------------------------------


def _kernel_side(directory: Path) -> str:
    """Where a thread sleeps in the kernel, as far as this user may know."""
    lines = []
    for name in ("wchan", "stack"):
        with contextlib.suppress(OSError):
            lines += [f"      {line}" for line in (directory / name).read_text().splitlines() if line]
    return "\n".join(lines)


def describe(process: Process) -> str:
    """A process with its threads, each with its state and its stack in the kernel."""
    lines = [f"  {process.pid} (child of {process.parent}) {process.state} {command_line(process.pid)}"]
    with contextlib.suppress(OSError):
        links = (f"/proc/{process.pid}/fd/{number}" for number in os.listdir(f"/proc/{process.pid}/fd"))
        files = sorted(filter(lambda path: path.startswith("/"), map(os.readlink, links)))
        lines.append(f"    open: {' '.join(files)}")
        for task in sorted(Path(f"/proc/{process.pid}/task").iterdir()):
            thread = _process(f"{process.pid}/task/{task.name}")
            state = thread.state if thread else "?"
            lines.append(f"    thread {task.name} {state}\n{_kernel_side(task)}")
    return "\n".join(lines)


def report_hang(base: Path) -> str:
    """All that is below this process, and the Python stacks of the servers, which this ends (faulthandler)."""
    hanging = descendants(os.getpid())
    parts = ["processes:", *map(describe, hanging)]
    for process in hanging:
        signal_to(process.pid, signal.SIGABRT)
    time.sleep(STACKS_SECONDS)
    texts = {log: log.read_text(errors="replace") for log in sorted(base.rglob("*.log"))}
    parts += [f"{log.relative_to(base)}:\n{text[-LOG_TAIL:]}" for log, text in texts.items() if text]
    return "\n".join(parts)


def end_all(base: Path) -> None:
    """Leave nothing behind, whatever state it is in."""
    for process in descendants(os.getpid()):
        signal_to(process.pid, signal.SIGKILL)
    for left in own_mounts(base):
        # A server that waits for its own mount cannot even be killed before this.
        minor = left.device.partition(":")[2]
        with contextlib.suppress(OSError):
            Path(f"/sys/fs/fuse/connections/{minor}/abort").write_text("1")
        with contextlib.suppress(mount.MountError):
            mount.unmount(left.point)
    wait_until(lambda: not remaining())
