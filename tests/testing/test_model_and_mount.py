"""The same operations in process and through a mount: the same answers, and then the same messages and files.

Hypothesis draws the operations from the files that can be written, and shrinks a difference to the shortest sequence.
"""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from fakesysfs.testing import Machine, MountedMachine, RunningMachine
from tests.words import CORPUS, WORDS, kind_of

pytestmark = pytest.mark.mount

MEMORY = "/sys/devices/system/memory"
NODES = "/sys/devices/system/node"
DAX = "/sys/bus/dax/devices"
TIERS = "/sys/devices/virtual/memory_tiering"
STEPS = 10

ELSEWHERE = re.compile(r"/control/(reset|writes|latency/.*|blocks/.*/pinned|pages/pin)$")
"""Of no use here: another machine, real time, and waits that nothing would end."""


class Setting(NamedTuple):
    """A machine and a kernel."""

    machine: str
    kernel: str


SETTINGS = [
    *(Setting("default", kernel) for kernel in ("hotplug-v3", "hotplug-v3-as-posted", "7.2", "7.3")),
    Setting("pmem", "7.2"),
    Setting("oracle-distribution", "7.3"),
]


def writable(machine: RunningMachine, below: str) -> Iterator[str]:
    for name in machine.ls(below):
        path = f"{below.rstrip('/')}/{name}"
        mode = machine.stat(path, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield from writable(machine, path)
        elif stat.S_ISREG(mode) and mode & 0o222 and not ELSEWHERE.search(path):
            yield path


@cache
def kinds_at_boot(setting: Setting) -> dict[str, list[str]]:
    """The files that can be written, by their kind."""
    kinds: dict[str, list[str]] = {}
    with Machine(setting.machine, setting.kernel) as machine:
        for path in writable(machine, "/"):
            kinds.setdefault(kind_of(path), []).append(path)
    return kinds


def paths(setting: Setting, machine: RunningMachine) -> st.SearchStrategy[str]:
    """A file to write: of one kind or of another, most often of a block or a dax device that is there now."""
    blocks = [f"{MEMORY}/{name}" for name in machine.ls(MEMORY) if name[-1].isdigit()]
    devices = [f"{DAX}/{name}" for name in machine.ls(DAX)]
    of_block = st.tuples(st.sampled_from(blocks), st.sampled_from(["state", "online"])).map("/".join)
    attributes = ["hotplug", "state", "size", "align", "mapping", "memmap_on_memory"]
    of_device = st.tuples(st.sampled_from(devices or [f"{DAX}/dax0.0"]), st.sampled_from(attributes)).map("/".join)
    of_driver = st.tuples(
        st.sampled_from([f"/sys/bus/dax/drivers/{name}" for name in ("kmem", "device_dax")]),
        st.sampled_from(["bind", "unbind", "new_id", "remove_id"]),
    ).map("/".join)
    kinds = kinds_at_boot(setting)
    other = st.sampled_from(sorted(kinds)).flatmap(lambda kind: st.sampled_from(kinds[kind]))
    return st.one_of(of_block, of_device, of_driver, other)


def data_for(path: str) -> st.SearchStrategy[bytes]:
    words = [word.encode() for word in WORDS.get(path.rpartition("/")[2], ["0", "1"])]
    word = st.tuples(st.sampled_from(words), st.sampled_from([b"\n", b""])).map(b"".join)
    return st.one_of(word, word, word, st.sampled_from(CORPUS))


Either = RunningMachine | MountedMachine


def answer(machine: Either, path: str, data: bytes) -> int | str:
    """How many bytes were taken, or the errno's name."""
    try:
        return machine.write(path, data)
    except OSError as error:
        return f"errno {error.errno}"


def text(machine: Either, path: str) -> str:
    try:
        return machine.read(path)
    except OSError as error:
        return f"errno {error.errno}"


def target(machine: Either, path: str) -> str:
    try:
        return machine.readlink(path)
    except OSError as error:
        return f"errno {error.errno}"


def snapshot(machine: Either) -> dict[str, object]:
    """What the operations may have changed."""
    found: dict[str, object] = {}
    names = found["blocks"] = machine.ls(MEMORY)
    for name in names:
        if name[-1].isdigit():
            found[name] = [text(machine, f"{MEMORY}/{name}/{attribute}") for attribute in ("state", "valid_zones")]
    names = found["devices"] = machine.ls(DAX)
    for name in names:
        device = f"{DAX}/{name}"
        found[name] = [
            machine.ls(device),
            target(machine, f"{device}/driver"),
            *(
                text(machine, f"{device}/{attribute}")
                for attribute in ("size", "align", "hotplug", "state", "resource")
            ),
        ]
    for directory in (NODES, TIERS, "/sys/bus/dax/drivers"):
        with contextlib.suppress(FileNotFoundError):
            found[directory] = machine.ls(directory)
    for path in (
        f"{NODES}/has_memory",
        f"{MEMORY}/auto_online_blocks",
        "/proc/iomem",
        "/proc/modules",
        "/proc/zoneinfo",
    ):
        found[path] = text(machine, path)
    found["MemTotal"] = text(machine, "/proc/meminfo").partition("\n")[0]
    found["log"] = [(message.level, message.text) for message in machine.log]
    found["uevents"] = [event[1:] for event in machine.uevents]
    found["refused"] = [refusal[2:] for refusal in machine.refused]
    return found


@pytest.fixture(scope="module", params=SETTINGS, ids="-".join)
def setting(request: pytest.FixtureRequest) -> Setting:
    chosen: Setting = request.param
    return chosen


@pytest.fixture(scope="module")
def mounted(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedMachine]:
    with MountedMachine(tmp_path_factory.mktemp("mounted"), setting.machine, setting.kernel) as machine:
        yield machine


@settings(
    max_examples=40,
    # the mount boots again for each example, which takes milliseconds
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_same_answers(setting: Setting, mounted: MountedMachine, data: st.DataObject) -> None:
    mounted.reset()
    with Machine(setting.machine, setting.kernel) as in_process:
        for _ in range(data.draw(st.integers(1, STEPS))):
            path = data.draw(paths(setting, in_process))
            written = data.draw(data_for(path))
            expected = answer(in_process, path, written)
            note(f"write({path!r}, {written[:40]!r}) -> {expected}")
            assert answer(mounted, path, written) == expected
        assert snapshot(mounted) == snapshot(in_process)
