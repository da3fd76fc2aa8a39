"""How much slower than the least possible: our mount against a FUSE file system of the same shape in C (plain.c).

    python benchmarks/smoke.py [--rounds N] [--toy]

Builds plain.c with `cc` and `pkg-config fuse3`, mounts both, measures them in turns (the machine may be busy with other
things: trust the ratios, not the times) and prints per operation the median of the ratios of the rounds. All run on one
CPU: waking another one costs more than all that is measured, and whether that happens is the scheduler's whim.
`--toy` measures tests/mount/toy.py instead of a machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COUNT = 192
"""Directories in the C file system, about as many as a machine has memory blocks."""


def processor() -> str:
    """The model of the CPU, on which every time and ratio depends."""
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def server_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far (Documentation/scheduler/sched-stats.rst)."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks.iterdir()) / 1e9


def build(where: Path) -> Path:
    """Compile plain.c, and getdents.c beside it."""
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], check=True, capture_output=True, text=True)
    program = where / "plain"
    subprocess.run(
        ["cc", "-O2", "-Wall", "-o", program, ROOT / "benchmarks" / "plain.c", *flags.stdout.split()], check=True
    )
    subprocess.run(["cc", "-O2", "-Wall", "-o", where / "getdents", ROOT / "benchmarks" / "getdents.c"], check=True)
    return program


@contextlib.contextmanager
def served(command: list[str | Path], point: Path) -> Iterator[int]:
    """Run a server in the foreground, which prints a line once it answers; gives its process."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as server:
        try:
            assert server.stdout is not None
            if not server.stdout.readline():
                sys.exit(f"{command[0]} did not start")
            yield server.pid
        finally:
            server.terminate()


def stat(name: str, directory: int) -> None:
    """Answered by the host."""
    os.stat(name, dir_fd=directory)


def read(name: str, directory: int) -> None:
    """What `cat` does."""
    file = os.open(name, os.O_RDONLY, dir_fd=directory)
    os.read(file, 4096)
    os.close(file)


def write(name: str, directory: int) -> None:
    """What `echo` does, without O_TRUNC."""
    file = os.open(name, os.O_WRONLY, dir_fd=directory)
    os.write(file, b"online\n")
    os.close(file)


def seconds(operation: Callable[[str, int], None], path: str, times: int) -> float:
    """Per call. Below the file's directory, so that the depth of the tree does not count."""
    above, name = os.path.split(path)
    directory = os.open(above, os.O_PATH)
    operation(name, directory)
    start = time.perf_counter()
    for _ in range(times):
        operation(name, directory)
    passed = time.perf_counter() - start
    os.close(directory)
    return passed / times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--times", type=int, default=1000, help="calls in a round")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    command: list[str | Path]
    with contextlib.ExitStack() as stack:
        where = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours, plain = where / "ours", where / "plain.mnt"
        ours.mkdir()
        plain.mkdir()
        if options.toy:
            command = [sys.executable, "-m", "tests.mount.toy", ours]
            reading = writing = f"{ours}/family/memory5/state"
        else:
            command = [sys.executable, "-m", "fakesysfs", "mount", "--foreground", ours]
            reading = f"{ours}/sys/devices/system/memory/memory0/state"
            writing = f"{ours}/sys/devices/system/memory/auto_online_blocks"
        stack.enter_context(served(command, ours))
        stack.enter_context(served([build(where), plain, str(COUNT)], plain))
        theirs = f"{plain}/memory5/state"
        print(processor())
        print(f"{'operation':22}{'ours':>10}{'C':>10}{'ratio':>8}  (median of {options.rounds} rounds)")
        for name, operation, path, times in (
            ("stat, cached", stat, reading, options.times * 10),
            ("open + read + close", read, reading, options.times),
            ("open + write + close", write, writing, options.times),
        ):
            pairs = [
                (seconds(operation, path, times), seconds(operation, theirs, times)) for _ in range(options.rounds)
            ]
            mine, c = (statistics.median(column) * 1e6 for column in zip(*pairs, strict=True))
            ratio = statistics.median(a / b for a, b in pairs)
            print(f"{name:22}{mine:7.1f} us{c:7.1f} us{ratio:8.2f}")


if __name__ == "__main__":
    main()
