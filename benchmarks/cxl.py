#!/usr/bin/env python3
"""How long `cxl list` takes on a machine with many CXL devices, and what that leaves in the server's memory.

.venv/bin/python benchmarks/cxl.py [DEVICES [REGIONS]]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fakesysfs.replay import daxctl_versions

BRIDGES = 8
RUNS = 7
SIZE = 1
"""GiB of each device and of each region."""


def machine(devices: int, regions: int) -> str:
    """A machine file: host bridges with a window each, and regions of one device each."""
    each = devices // BRIDGES
    buses = [16 * (number + 1) for number in range(BRIDGES)]
    where = [(number % BRIDGES, number // BRIDGES) for number in range(each * BRIDGES)]
    lines = [
        'block_size = "128M"',
        f"modules = {json.dumps(['cxl_pmem', 'cxl_acpi', 'cxl_mem', 'cxl_pci', 'device_dax', 'dax_cxl', 'kmem'])}",
        '[[node]]\nid = 0\ncpus = "0-1"\nmemory = [{ start = "0", size = "2G" }]',
        *(f"[[node]]\nid = {number + 1}" for number in range(BRIDGES)),
        "[cxl]",
        f"bridges = {buses}",
        "windows = [",
        *(
            f'    {{ start = "{16 + number * each}G", size = "{each * SIZE}G", bridges = [{bus}],'
            f" node = {number + 1} }},"
            for number, bus in enumerate(buses)
        ),
        "]",
        "devices = [",
        *(
            f'    {{ bridge = {buses[bridge]}, path = ["0000:{buses[bridge]:02x}:{port:02x}.0",'
            f' "0000:{buses[bridge] + 1 + port:02x}:00.0"], ports = [{port}], ram = "{SIZE}G" }},'
            for bridge, port in where
        ),
        "]",
        "regions = [",
        *(
            f'    {{ window = {bridge}, targets = ["0000:{buses[bridge] + 1 + port:02x}:00.0"], size = "{SIZE}G" }},'
            for bridge, port in where[:regions]
        ),
        "]",
    ]
    return "\n".join(lines) + "\n"


def inside() -> None:
    """Within the run: list, and say how long that took."""
    children = Path("/proc/1/task/1/children").read_text("ascii").split()
    (server,) = (Path("/proc", pid) for pid in children if int(pid) != os.getpid())
    resident, cpu = resident_kb(server), cpu_seconds(server)
    taken = []
    for _ in range(RUNS):
        start = time.monotonic()
        said = subprocess.run(["cxl", "list", "-M", "-R"], check=True, capture_output=True, text=True).stdout
        taken.append((time.monotonic() - start) * 1000)
    cpu = (cpu_seconds(server) - cpu) / RUNS * 1000
    lists = {key: part for section in json.loads(said) for key, part in section.items()}
    print(f"{len(lists['memdevs'])} memory devices, {len(lists['regions'])} regions")
    print(f"cxl list: {statistics.median(taken):.0f} ms (median of {RUNS}), {min(taken):.0f} ms at best")
    print(f"server: {cpu:.0f} ms of CPU each time; memory {resident} kB before, {resident_kb(server)} kB after")


def resident_kb(process: Path) -> int:
    """The memory of a process."""
    lines = (process / "status").read_text("utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])


def cpu_seconds(process: Path) -> float:
    """What a process has taken so far."""
    fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(devices: int, regions: int) -> None:
    """Print the figures."""
    folder = daxctl_versions.cxl_folder()
    path = os.environ["PATH"] if folder is None else f"{folder}:{os.environ['PATH']}"
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(machine(devices, regions))
        file.flush()
        run = [sys.executable, "-m", "fakesysfs", "run", "--kernel", "7.3", "--machine", file.name]
        command = [*run, "--", sys.executable, __file__, "inside"]
        subprocess.run(command, check=True, env={**os.environ, "PATH": path})


if sys.argv[1:] == ["inside"]:
    inside()
else:
    numbers = [int(argument) for argument in sys.argv[1:]]
    main(*[*numbers, *(32, 16)[len(numbers) :]])
