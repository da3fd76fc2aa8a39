"""The table of docs/performance.md: our mount against a FUSE file system of the same shape in C (plain.c).

    python benchmarks/run.py [--rounds N] [--sizes 192,8192,65536,524288] [--only PART,...]

PART is one of: requests anywhere getdents directories numeric lsmem sysfs readers sleepers writers huge delivered
memory start daxctl machines.
Builds plain.c with `cc` and `pkg-config fuse3`. Everything that has a counterpart is measured in turns, ours and then
C's, and what is printed is the median of the ratios of these pairs, with the least and the greatest: trust the ratios,
not the times. `requests`, `getdents`, `directories`, `numeric`, `lsmem` and `sysfs` run on one CPU, because waking
another one costs more than what is measured. "CPU of the server" is the time of its threads for each operation; it does
not depend on how fast C is. `machines` has no counterpart in C: it compares machines with the parts of the model that
they use, by CPU time. Nothing here fails when it is slow.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from smoke import ROOT, build, processor, read, seconds, served, server_seconds, stat

from fakesysfs import testing
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.profile import PROFILES
from fakesysfs.kernfs import Caller
from fakesysfs.machine import load
from fakesysfs.ops import sched
from fakesysfs.sysroot import Sysroot
from fakesysfs.testing.filesystem import FileSystem

FAKESYSFS = [sys.executable, "-m", "fakesysfs"]
MEMORY = "sys/devices/system/memory"
Operation = tuple[str, Callable[[str, int], None], int]
"""What it is called, what it does to a name in an open directory, how often it is measured together."""
BOOT_BLOCKS = 16
BESIDE_BLOCKS = 7
"""Names in the memory directory that are no blocks."""
DEVICE, DEVICE_NAMES = "sys/bus/dax/devices/dax0.0", 15
MANY = 65_536
"""Blocks from which on fewer rounds have to do."""
MACHINE = """
title = "{blocks} blocks, all but 16 of them of one dax device"
block_size = "128M"
modules = ["device_dax", "dax_cxl", "kmem"]
distances = [[10, 21], [21, 10]]
[[node]]
id = 0
cpus = "0-1"
memory = [{{ start = "0", size = "2G" }}]
[[node]]
id = 1
[[dax_region]]
kind = "cxl"
start = "4G"
size = "{megabytes}M"
target_node = 1
[memory_hotplug]
online_type = "online_movable"
[kernel]
kernel_allocations_on_hotplugged_nodes = false
"""


class Mounts(NamedTuple):
    """The two, mounted: ours, and C's where lsmem looks for memory blocks."""

    ours: Path
    plain: Path
    pid: int
    plain_pid: int


@contextlib.contextmanager
def machine_file(blocks: int) -> Iterator[Path]:
    """A machine with that many memory blocks."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(MACHINE.format(blocks=blocks, megabytes=(blocks - BOOT_BLOCKS) * 128))
        file.flush()
        yield Path(file.name)


@contextlib.contextmanager
def mounted(machine: Path | str) -> Iterator[tuple[Path, int]]:
    """Ours alone, with the process that serves it."""
    with tempfile.TemporaryDirectory() as where:
        command: list[str | Path] = [*FAKESYSFS, "mount", "--foreground", "--machine", str(machine), where]
        with served(command, Path(where)) as pid:
            yield Path(where), pid


@contextlib.contextmanager
def both(program: Path, blocks: int, *order: str, plain_blocks: int | None = None) -> Iterator[Mounts]:
    """Both, with that many memory blocks, C's in the order of kernfs unless another is named."""
    with tempfile.TemporaryDirectory() as where, machine_file(blocks) as machine, mounted(machine) as (ours, pid):
        plain = Path(where) / MEMORY
        plain.mkdir(parents=True)
        with served([program, plain, str(plain_blocks or blocks), *order], plain) as plain_pid:
            yield Mounts(ours, Path(where), pid, plain_pid)


def pairs(what: str, rounds: int, ours: Callable[[], float], plain: Callable[[], float]) -> tuple[float, float]:
    """Measure in turns and print a line; returns the medians."""
    ours()
    plain()
    measured = [(ours(), plain()) for _ in range(rounds)]
    ratios = [mine / c for mine, c in measured]
    mine, c = (statistics.median(column) for column in zip(*measured, strict=True))
    ratio = f"{statistics.median(ratios):8.2f}  ({min(ratios):.2f}-{max(ratios):.2f})"
    print(f"{what:50}{shown(mine):>10}{shown(c):>10}{ratio}", flush=True)
    return mine, c


class Spent:
    """CPU time that a server spends on operations: that of each, over all calls of `count`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.seconds = 0.0
        self.operations = 0

    def count(self, operations: int, run: Callable[[], float]) -> Callable[[], float]:
        """The same as `run`, which does so many operations."""

        def counted() -> float:
            before = server_seconds(self._pid)
            measured = run()
            self.seconds += server_seconds(self._pid) - before
            self.operations += operations
            return measured

        return counted

    @property
    def each(self) -> str:
        """For one operation."""
        return shown(self.seconds / self.operations)


def shown(value: float) -> str:
    """Seconds."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e6:.3g} us"


def tell(what: str, value: str) -> None:
    """Print a line that has no counterpart."""
    print(f"{what:50}{value}", flush=True)


def command(*arguments: str | Path) -> Callable[[], float]:
    """Seconds that a command takes; its output goes nowhere."""

    def run() -> float:
        start = time.perf_counter()
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    return run


def change(name: str, directory: int) -> None:
    """Take the block offline or online, whichever it is not."""
    for word in (b"offline\n", b"online\n"):
        file = os.open(name, os.O_WRONLY, dir_fd=directory)
        os.write(file, word)
        os.close(file)


def absent(name: str, directory: int) -> None:
    """A name that is not there."""
    with contextlib.suppress(FileNotFoundError):
        os.stat(f"{name}.no", dir_fd=directory)


OPERATIONS = (
    ("cached stat", stat, 10_000),
    ("cached stat, absent", absent, 5_000),
    ("open+read+close of state", read, 1_000),
    ("2 x open+write+close of state", change, 500),
)
UNCACHED = OPERATIONS[2:]


def single(mounts: Mounts, operations: Iterable[Operation], where: str, rounds: int) -> None:
    """System calls on the attribute `state` of a block."""
    for what, operation, times in operations:
        ours, plain = (
            functools.partial(seconds, operation, f"{above}/{MEMORY}/memory60/state", times)
            for above in (mounts.ours, mounts.plain)
        )
        # `seconds` calls it once before it measures
        compared(f"{what}, {where}", rounds, mounts, ours, plain, times + 1)


def compared(
    what: str, rounds: int, mounts: Mounts, ours: Callable[[], float], plain: Callable[[], float], operations: int
) -> None:
    """As `pairs`, and the CPU time of the servers for each of so many operations in a call."""
    mine, c = Spent(mounts.pid), Spent(mounts.plain_pid)
    pairs(what, rounds, mine.count(operations, ours), c.count(operations, plain))
    tell("    CPU of the server", f"{mine.each:>10}{c.each:>10}")


def getdents(program: Path, options: argparse.Namespace) -> None:
    """open, getdents64 to the end, close: directories of 15, 80, 192 and 8,192 names. No program starts meanwhile."""
    lister = program.parent / "getdents"

    def listing(directory: Path, times: int) -> float:
        done = subprocess.run([lister, directory, str(times)], check=True, capture_output=True, text=True)
        return float(done.stdout.split()[0]) / 1e9

    for names in (15, 80, 192, 8_192):
        device = names == DEVICE_NAMES
        times = max(3, 20_000 // names)
        with (
            pinned(),
            both(program, 64 if device else names - BESIDE_BLOCKS, plain_blocks=names - 1) as mounts,
        ):
            mine = (mounts.ours / DEVICE).resolve() if device else mounts.ours / MEMORY
            ours, plain = (functools.partial(listing, path, times) for path in (mine, mounts.plain / MEMORY))
            compared(f"getdents, {names} names", options.rounds, mounts, ours, plain, times + 1)


def requests(program: Path, options: argparse.Namespace) -> None:
    """One request at a time, where the server has no processor of its own."""
    for blocks in options.sizes:
        with pinned(), both(program, blocks) as mounts:
            single(mounts, OPERATIONS, str(blocks), options.rounds)


def anywhere(program: Path, options: argparse.Namespace) -> None:
    """The same where the scheduler likes to have client and server."""
    with both(program, 192) as mounts:
        single(mounts, UNCACHED, "on any CPU", options.rounds)


def directories(program: Path, options: argparse.Namespace, *order: str) -> None:
    """The directory of all memory blocks, listed."""
    growth: dict[str, list[float]] = {}
    for blocks in options.sizes:
        rounds = options.rounds if blocks <= MANY else 3
        with pinned(), both(program, blocks, *order) as mounts:
            mine, c = f"{mounts.ours}/{MEMORY}", f"{mounts.plain}/{MEMORY}"
            for what in (["ls", "-f"], ["ls", "-l"], ["find", "-maxdepth", "1"]):
                if what[0] == "find":
                    ours, plain = command("find", mine, *what[1:]), command("find", c, *what[1:])
                else:
                    ours, plain = command(*what, mine), command(*what, c)
                median, _ = pairs(f"{' '.join(what)}, {blocks}", rounds, ours, plain)
                growth.setdefault(" ".join(what), []).append(median / blocks)
    for name, each in growth.items():
        tell(f"{name}: us per block", " ".join(f"{value * 1e6:.2f}" for value in each))


def numeric(program: Path, options: argparse.Namespace) -> None:
    """The same against names in the order of their numbers, which ls and find need hardly sort; kernfs has not that."""
    directories(program, options, "numeric")


def lsmem(program: Path, options: argparse.Namespace) -> None:
    """The tool lsmem."""
    for blocks in options.sizes:
        if blocks <= MANY:
            with pinned(), both(program, blocks) as mounts:
                ours, plain = (command("lsmem", "--sysroot", path) for path in (mounts.ours, mounts.plain))
                pairs(f"lsmem, {blocks}", 2 if blocks == MANY else options.rounds, ours, plain)


def sysfs(program: Path, options: argparse.Namespace) -> None:
    """What the host's own /sys can do as well, which is only read here: its blocks, as many of ours and of C's."""
    blocks = [path.name for path in Path(f"/{MEMORY}").glob("memory*")]
    if not blocks:
        return
    with pinned(), both(program, max(len(blocks), BOOT_BLOCKS + 1)) as mounts:
        mine, c = f"{mounts.ours}/{MEMORY}", f"{mounts.plain}/{MEMORY}"
        block = min(blocks)
        for what, operation, times in (("cached stat", stat, 10_000), ("open+read+close of state", read, 1_000)):
            ours, plain, real = (
                functools.partial(seconds, operation, f"{above}/{block}/state", times)
                for above in (mine, c, f"/{MEMORY}")
            )
            pairs(f"{what}, real /sys", options.rounds, real, plain)
            pairs(f"{what}, ours", options.rounds, ours, plain)
        for words in (["ls", "-f"], ["ls", "-l"], ["find"], ["lsmem", "--sysroot"]):
            end = words[0] == "lsmem"
            where = (mounts.ours, mounts.plain, "/") if end else (mine, c, f"/{MEMORY}")
            tail = ["-maxdepth", "1"] if words[0] == "find" else []
            ours, plain, real = (command(*words, path, *tail) for path in where)
            pairs(f"{' '.join(words)}, real /sys", options.rounds, real, plain)
            pairs(f"{' '.join(words)}, ours", options.rounds, ours, plain)


READER = """
import os, sys, time
path, end = sys.argv[1], time.perf_counter() + float(sys.argv[2])
times = []
while (start := time.perf_counter()) < end:
    file = os.open(path, os.O_RDONLY)
    os.read(file, 4096)
    os.close(file)
    times.append(time.perf_counter() - start)
    if len(sys.argv) > 3:
        time.sleep(float(sys.argv[3]))
times.sort()
print(len(times), times[len(times) * 99 // 100])
"""


def readers(path: str, duration: float, number: int = 8, pause: str = "") -> tuple[float, float]:
    """Operations a second of so many readers together, and the median of their 99th percentiles."""
    arguments = [sys.executable, "-c", READER, path, str(duration), *([pause] if pause else [])]
    started = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(number)]
    answers = [process.communicate()[0].split() for process in started]
    return sum(int(count) for count, _ in answers) / duration, statistics.median(float(last) for _, last in answers)


def many_readers(program: Path, options: argparse.Namespace) -> None:
    """Eight processes that read the same attribute."""
    with both(program, 192) as mounts:
        mine, c = f"{mounts.ours}/{MEMORY}/memory60/state", f"{mounts.plain}/{MEMORY}/memory60/state"
        measured = [(readers(mine, 1.0)[0], readers(c, 1.0)[0]) for _ in range(min(options.rounds, 7))]
    ratio = statistics.median(ours / plain for ours, plain in measured)
    ours, plain = (statistics.median(column) for column in zip(*measured, strict=True))
    tell("8 readers, reads a second", f"{ours:9.0f} {plain:9.0f} {ratio:7.2f}")


def sleepers(program: Path, options: argparse.Namespace) -> None:
    """Readers beside writers that sleep in the kernel (a block whose pages stay pinned)."""
    del program
    with mounted("default") as (point, _):
        path = f"{point}/{MEMORY}/memory60/state"
        files: list[subprocess.Popen[bytes]] = []

        def p99() -> float:
            return statistics.median(readers(path, 1.0, 8, "0.001")[1] for _ in range(min(options.rounds, 5)))

        idle = p99()
        (point / "control/blocks/memory40/pinned").write_text("1")
        script = f"echo offline > {point}/{MEMORY}/memory40/state"
        for number in (1, 1000):
            while len(files) < number:
                files.append(subprocess.Popen(["sh", "-c", script], stderr=subprocess.DEVNULL))
            time.sleep(2)
            slept = p99()
            tell(f"p99 of 8 readers, {number} sleeping", f"{shown(slept)}, idle {shown(idle)}: {slept / idle:.2f}")
        (point / "control/blocks/memory40/pinned").write_text("0")
        for process in files:
            process.wait(60)


CROWD = 64
STAT = """
import os, sys
print("begun", flush=True)
names = [f"{sys.argv[1]}/memory{number}/state" for number in range(16, 48)]
while True:
    for name in names:
        try:
            os.stat(name)
        except OSError:
            pass
"""


@contextlib.contextmanager
def crowd(directory: str | Path) -> Iterator[None]:
    """As many processes as CROWD that stat memory blocks all the time."""
    with contextlib.ExitStack() as stack:
        started = []
        for _ in range(CROWD):
            process = subprocess.Popen([sys.executable, "-c", STAT, directory], stdout=subprocess.PIPE)
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append(process)
        for process in started:
            assert process.stdout is not None
            stack.callback(process.stdout.close)
            process.stdout.readline()
        yield


def plugs(device: Path, seconds: float) -> list[float]:
    """How long each write to the device's `hotplug` took, unplug and plug in turn."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end or len(taken) % 2:
        (device / "hotplug").write_text("online_movable" if len(taken) % 2 else "unplug")
        taken.append(time.perf_counter() - start)
    return sorted(taken)


def writers(program: Path, options: argparse.Namespace) -> None:
    """Plugs beside CROWD processes that stat what comes and goes, and beside as many that stat C's tree."""
    with both(program, 48) as mounts:
        device = mounts.ours / "sys/bus/dax/devices/dax0.0"
        medians, lasts, mosts = [], [], []
        for _ in range(min(options.rounds, 5)):
            measured = []
            for directory in (mounts.ours / MEMORY, mounts.plain / MEMORY):
                with crowd(directory):
                    measured.append(plugs(device, 20.0))
            for found, which in ((medians, 0.5), (lasts, 0.99), (mosts, 1.0)):
                ours, plain = (times[min(int(len(times) * which), len(times) - 1)] for times in measured)
                found.append((ours, plain, ours / plain))
        for what, found in (("median", medians), ("p99", lasts), ("slowest", mosts)):
            ours, plain, ratio = (statistics.median(column) for column in zip(*found, strict=True))
            numbers = f"{shown(ours):>10}{shown(plain):>10}{ratio:8.2f}"
            tell(f"a plug beside {CROWD} that stat ours, C's: {what}", numbers)


def resident(pid: int) -> float:
    """MiB of a process that nobody else has in memory."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def huge(program: Path, options: argparse.Namespace) -> None:
    """The machine of 64 TiB: mounted, its device of 458,752 blocks unplugged and plugged."""
    del program
    starts = []
    for _ in range(min(options.rounds, 7)):
        start = time.perf_counter()
        with mounted("huge") as (point, pid):
            (point / "sys").stat()
            starts.append((time.perf_counter() - start, resident(pid)))
    tell("huge: mount answers after", f"{shown(statistics.median(at for at, _ in starts))}, {starts[0][1]:.0f} MiB")
    with mounted("huge") as (point, pid):
        hotplug = point / "sys/bus/dax/devices/dax0.0/hotplug"
        for held in (False, True, True):
            reader = None
            if held:
                list((point / MEMORY).iterdir())
                reader = subprocess.Popen(
                    [sys.executable, "-c", READER, f"{point}/{MEMORY}/memory1/state", "3", "0.001"],
                    stdout=subprocess.PIPE,
                    text=True,
                )
                time.sleep(0.3)
            for word in ("unplug", "online_movable"):
                start = time.perf_counter()
                hotplug.write_text(word)
                passed = time.perf_counter() - start
                tell(f"huge: {word}{', every name held' if held else ''}", f"{shown(passed)}, {resident(pid):.0f} MiB")
            if reader is not None:
                tell("huge: p99 of a reader meanwhile", shown(float(reader.communicate()[0].split()[1])))


LISTENER = """
import os, socket, subprocess, sys, threading, time
reader, hotplug, state, blocks = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
heard = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15)  # NETLINK_KOBJECT_UEVENT
heard.bind((0, 1))
seen = {}
def listen():
    while True:
        action = heard.recv(4096).partition(b"@/devices/system/memory/")[0]
        seen[action] = seen.get(action, 0) + 1
threading.Thread(target=listen, daemon=True).start()
for word, action in (("unplug", b"remove"), ("online_movable", b"online")):
    beside = subprocess.Popen([sys.executable, "-c", reader, state, "2", "0.001"], stdout=subprocess.PIPE, text=True)
    time.sleep(0.3)
    start = time.perf_counter()
    with open(hotplug, "w") as file:
        file.write(word)
    answered = time.perf_counter() - start
    while seen.get(action, 0) < blocks:
        time.sleep(0.001)
    heard_all = time.perf_counter() - start
    print(word, answered, heard_all, beside.communicate()[0].split()[1], seen[action], flush=True)
"""


def delivered(program: Path, options: argparse.Namespace) -> None:
    """A device unplugged and plugged while somebody listens to all uevents and the host holds all names."""
    del program
    for blocks in options.sizes:
        with machine_file(blocks) as machine:
            device = blocks - BOOT_BLOCKS
            script = f'ls -f /{MEMORY} >/dev/null; exec "$@"'
            run = [*FAKESYSFS, "run", "--machine", str(machine), "--", "sh", "-c", script, "sh"]
            run += [sys.executable, "-c", LISTENER, READER, "/sys/bus/dax/devices/dax0.0/hotplug"]
            run += [f"/{MEMORY}/memory1/state", str(device)]
            done = subprocess.run(run, capture_output=True, text=True, check=False)
            if done.returncode:
                tell(f"delivered, {blocks}", f"failed: {done.stderr.strip()[-200:]}")
                continue
            for line in done.stdout.splitlines():
                word, answered, heard, p99, count = line.split()
                tell(
                    f"{word}, names held, {count} of each uevent heard",
                    f"{shown(float(answered))}, {float(answered) / device * 1e6:.1f} us a block; all heard after "
                    f"{shown(float(heard))}; a reader's p99 {shown(float(p99))}",
                )


def memory(program: Path, options: argparse.Namespace) -> None:
    """What the server keeps after a lot of work."""
    del program, options
    with mounted("huge") as (point, pid):
        sizes = [resident(pid)]
        for _ in range(3):
            command("find", point / MEMORY, "-maxdepth", "1")()
            sizes.append(resident(pid))
        tell("huge: MiB after 0, 1, 2, 3 listings", " ".join(f"{size:.0f}" for size in sizes))
    with machine_file(8_192) as machine, mounted(machine) as (point, pid):
        sizes = []
        for _ in range(3):
            command("find", point)()
            sizes.append(resident(pid))
        tell("8192: MiB after 1, 2, 3 walks of all of it", " ".join(f"{size:.1f}" for size in sizes))
    with mounted("tiny") as (point, pid):
        hotplug = point / "sys/bus/dax/devices/dax0.0/hotplug"
        sizes = []
        for cycle in range(10_001):
            if cycle % 2_500 == 0:
                sizes.append(resident(pid))
            hotplug.write_text("unplug")
            hotplug.write_text("online_movable")
            list((point / MEMORY).iterdir())
        tell("tiny: MiB after 0, 2500, ... 10000 plug cycles", " ".join(f"{size:.1f}" for size in sizes))


def start(program: Path, options: argparse.Namespace) -> None:
    """Commands that do next to nothing."""
    del program
    imports = command(sys.executable, "-c", "import pyfuse3, trio")
    for words in (["--help"], ["run", "--", "true"]):
        what = f"fakesysfs {' '.join(words)} / import pyfuse3, trio"
        pairs(what, options.rounds, command(*FAKESYSFS, *words), imports)


def daxctl(program: Path, options: argparse.Namespace) -> None:
    """The tool daxctl on a device of 1,024 blocks."""
    del program
    if shutil.which("daxctl") is None:
        return
    timed = "import subprocess, sys, time; s = time.perf_counter(); subprocess.run(sys.argv[1:], check=True, "
    timed += "stdout=subprocess.DEVNULL); print(time.perf_counter() - s)"
    away = "echo offline > /sys/devices/system/memory/auto_online_blocks"
    away += " && daxctl reconfigure-device -f -m devdax dax0.0 >&2 && "
    with machine_file(1_024 + BOOT_BLOCKS) as machine:
        for name, first in (("list -DR", ""), ("reconfigure-device -m system-ram dax0.0", away)):
            script = f'{first}exec "$@"'
            took = []
            for _ in range(min(options.rounds, 5)):
                run = [*FAKESYSFS, "run", "--kernel", "7.2", "--machine", str(machine), "--", "sh", "-c", script, "sh"]
                run += [sys.executable, "-c", timed, "daxctl", *name.split()]
                done = subprocess.run(run, capture_output=True, text=True, check=False)
                if done.returncode:
                    tell(f"daxctl {name}, 1024 blocks", f"failed: {done.stderr.strip()[-200:]}")
                    break
                took.append(float(done.stdout.split()[-1]))
            else:
                tell(f"daxctl {name}, 1024 blocks", f"{shown(statistics.median(took))} ({shown(min(took))})")


def machines(program: Path, options: argparse.Namespace) -> None:
    """Boots, resets and writes of the default machine: CPU time of the thread; of a mount, that of the server.

    The counterparts are the boot of the kernel and its store, without files.
    """
    del program
    words = (b"online", b"online_kernel", b"offline", b"online_movable")
    with testing.Machine():
        pass  # the first one makes the tables that all share
    sysroot = Sysroot.boot(load("default"), PROFILES["hotplug-v3"])
    files = FileSystem(sysroot.tree, sysroot.journal, Caller(os.getpid(), "benchmark"))

    def machine() -> None:
        with testing.Machine():
            pass

    def kernel() -> None:
        sched.run(Kernel(sysroot.machine.setup(), sysroot.profile).boot())

    def writes() -> None:
        for number in range(16):
            file = files.open(f"/{MEMORY}/auto_online_blocks", os.O_WRONLY)
            sched.run(files.write(file, words[number % 4]))

    def stores() -> None:
        for number in range(16):
            sysroot.kernel.memory_hotplug.mhp_set_default_online_type(words[number % 4])

    def order() -> None:
        sysroot.reset()
        writes()

    def cpu(operation: Callable[[], None], times: int) -> Callable[[], float]:
        def run() -> float:
            start = time.thread_time()
            for _ in range(times):
                operation()
            return (time.thread_time() - start) / times

        return run

    boot = cpu(kernel, 20)
    pairs("with Machine() / boot of the kernel alone", options.rounds, cpu(machine, 20), boot)
    pairs("reset in process / boot of the kernel alone", options.rounds, cpu(sysroot.reset, 20), boot)
    pairs("16 x open+write in process / the stores alone", options.rounds, cpu(writes, 20), cpu(stores, 200))
    orders, _ = pairs("reset + 16 writes / boot of the kernel alone", options.rounds, cpu(order, 20), boot)
    tell("    orders a second", f"{1 / orders:.0f}")
    with mounted("default") as (point, pid):

        def server() -> float:
            before = server_seconds(pid)
            for _ in range(20):
                (point / "control" / "reset").write_text("1")
            return (server_seconds(pid) - before) / 20

        pairs("reset of a mount / boot of the kernel alone", options.rounds, server, boot)


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """On one CPU, with all that is started."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


PARTS = {
    "requests": requests,
    "anywhere": anywhere,
    "getdents": getdents,
    "directories": directories,
    "numeric": numeric,
    "lsmem": lsmem,
    "sysfs": sysfs,
    "readers": many_readers,
    "sleepers": sleepers,
    "writers": writers,
    "huge": huge,
    "delivered": delivered,
    "memory": memory,
    "start": start,
    "daxctl": daxctl,
    "machines": machines,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--sizes", type=lambda text: [int(size) for size in text.split(",")], default="192,8192,65536,524288"
    )
    parser.add_argument("--only", type=lambda text: text.split(","), default=",".join(PARTS))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as where:
        program = build(Path(where))
        print(processor())
        print(f"{'':50}{'ours':>10}{'C':>10}{'ratio':>8}  (of {options.rounds} pairs)")
        for name in options.only:
            PARTS[name](program, options)


if __name__ == "__main__":
    main()
