"""What a trace costs: the same reads on mounts without one, with JSON lines, with Perfetto's protobuf.

    python benchmarks/trace.py [--rounds N] [--times N]

The mounts are measured in turns, all on one CPU. Printed are the medians of the CPU time, of client and server
together: it does not depend on what else the machine does. The ratio is the median of those to the mount without a
trace. `off` is a second mount without one: its ratio is the noise. Nothing here fails when it is slow.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from smoke import served, server_seconds

FAKESYSFS = [sys.executable, "-m", "fakesysfs"]
FILE = "sys/devices/system/memory/memory70/state"
WRITTEN = "sys/devices/system/memory/auto_online_blocks"
MOUNTS = {"without": [], "off": [], "jsonl": ["t.jsonl"], "pftrace": ["t.pftrace"]}


@contextlib.contextmanager
def mounted(traces: list[str]) -> Iterator[tuple[Path, int]]:
    """A mount that writes these traces, and its server."""
    with tempfile.TemporaryDirectory() as where:
        point = Path(where) / "mnt"
        point.mkdir()
        options = [word for trace in traces for word in ("--trace", f"{where}/{trace}")]
        with served([*FAKESYSFS, "mount", "--foreground", *options, str(point)], point) as pid:
            yield point, pid


def read(point: Path, times: int) -> None:
    """pread(2) of an open file."""
    file = os.open(point / FILE, os.O_RDONLY)
    for _ in range(times):
        os.pread(file, 4096, 0)
    os.close(file)


def open_and_read(point: Path, times: int) -> None:
    """Open, read to the end, and close, as cat(1) does."""
    path = os.fspath(point / FILE)
    for _ in range(times):
        file = os.open(path, os.O_RDONLY)
        while os.read(file, 4096):
            pass
        os.close(file)


def write(point: Path, times: int) -> None:
    """write(2) of the word that is set already, to an open file."""
    file = os.open(point / WRITTEN, os.O_WRONLY)
    for _ in range(times):
        os.write(file, b"offline\n")
    os.close(file)


def spent(run: Callable[[Path, int], None], mount: tuple[Path, int], times: int) -> float:
    """Seconds of CPU time, of client and server, for each time."""
    point, pid = mount
    before = time.thread_time() + server_seconds(pid)
    run(point, times)
    return (time.thread_time() + server_seconds(pid) - before) / times


WHAT: dict[str, Callable[[Path, int], None]] = {
    "read of an open file": read,
    "open, read to the end, close": open_and_read,
    "write to an open file": write,
}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--times", type=int, default=500, help="how often each is done in a round")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with contextlib.ExitStack() as stack:
        mounts = {name: stack.enter_context(mounted(traces)) for name, traces in MOUNTS.items()}
        print(f"{'':32}" + "".join(f"{name:>20}" for name in mounts))
        for what, run in WHAT.items():
            measured: dict[str, list[float]] = {name: [] for name in mounts}
            for mount in mounts.values():
                spent(run, mount, options.times)
            for _ in range(options.rounds):
                for name, mount in mounts.items():
                    measured[name].append(spent(run, mount, options.times))
            line = f"{what:32}"
            for took in measured.values():
                pairs = zip(took, measured["without"], strict=True)
                ratio = statistics.median(mine / without for mine, without in pairs)
                line += f"{statistics.median(took) * 1e6:9.1f} us {ratio:6.2f}x"
            print(line, flush=True)


if __name__ == "__main__":
    main()
