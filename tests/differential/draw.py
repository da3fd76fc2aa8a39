"""Sequences of operations, drawn at random from what the model has at each moment.

The model tells which files there are to write; the kernel then does the same operations. After each operation follow
the probes that compare the rest of the machine.
"""

from __future__ import annotations

import random
import re
import shlex
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fakesysfs.replay.model_target import ModelTarget, boot, machine_and_kernel
from fakesysfs.replay.record import written
from fakesysfs.replay.recording import Operation
from fakesysfs.replay.target import BlockedError, Outcome
from tests.words import CORPUS, WORDS, kind_of

MEMORY = "/sys/devices/system/memory"
DAX = "/sys/bus/dax"
INJECTION = "/sys/kernel/debug/notifier-error-inject/memory/actions"

PLACES = (
    MEMORY,
    "/sys/devices/system/node",
    DAX,
    "/sys/devices/platform",
    "/sys/devices/virtual/memory_tiering",
    "/sys/module",
    "/sys/kernel/mm/numa",
    INJECTION,
)
"""Where files are drawn from. Other places are those of drivers that the model does not have."""

FIRST_BLOCK = 41
"""Which pages of lower blocks the kernel itself holds depends on its boot: some cannot go offline."""

NOT_WRITTEN = frozenset({"compact", "reclaim", "nr_hugepages", "demote", "demote_size", "autosuspend_delay_ms"})
"""They depend on what else runs in the guest."""

NOT_READ = re.compile(
    r"/(?:meminfo|numastat|vmstat|coresize|initsize|refcnt|runtime_active_time|runtime_suspended_time)$"
    r"|/(?:sections|notes)(?:/|$)|/hugepages/"
)
"""Their contents depend on the build or on what else runs."""

MODULES = ("device_dax", "dax_hmem", "kmem", "fsdev_dax", "dax_cxl", "memory-notifier-error-inject")
LOAD_ALL = "modprobe device_dax; modprobe dax_hmem; modprobe kmem"

USES = 5
"""How often a list of all files is drawn from: some of them may have gone since, and answer ENOENT."""

STATES = ("offline", "offline", "online", "online_kernel", "online_movable")

OWN_WORDS = {
    "hard_offline_page": ["0x180000000", "0x188001000", "0x288000000", "0x1f0000000", "0x2f8000000"],
    "mapping": ["180000000-187ffffff", "200000000-20fffffff", "288000000-28fffffff", "188000000-180000000"],
    "error": ["0", "-12", "-16", "-5", "1", "-5000"],
    "driver_override": ["kmem", "dax_hmem", "\n", "none"],
    "priority": ["0", "10"],
    "auto_movable_ratio": ["0", "50", "96", "97", "228", "229", "301", "100000"],
}
OWN_WORDS["soft_offline_page"] = OWN_WORDS["hard_offline_page"]


@dataclass(frozen=True, slots=True)
class Step:
    """An operation, and what is compared after it."""

    act: Operation
    probes: tuple[Operation, ...]


def line(operation: Operation) -> str:
    """An operation as a line of a script for `fakesysfs record`."""
    kind = operation["op"]
    if kind == "note":
        return f"# {operation['text']}"
    if kind == "write":
        text = operation["data"].encode("unicode_escape").decode("ascii")
        return f"bytes {operation['path']} {shlex.quote(text)}"
    return f"{kind} {operation.get('cmd') or operation.get('path', '')}".rstrip()


def script(steps: Sequence[Step]) -> str:
    """A sequence as a script."""
    return "".join(f"{line(operation)}\n" for step in steps for operation in (step.act, *step.probes))


class Drawer:
    """Draws operations for a machine, and acts them out on the model, to know what there is next."""

    def __init__(self, chance: random.Random, profile: str, variant: str) -> None:
        self.chance = chance
        self.target = ModelTarget(boot(machine_and_kernel(profile, variant)))
        self.first = True
        self._known: dict[str, list[str]] = {}
        self._uses = 0

    def steps(self, count: int) -> Iterator[Step]:
        """That many operations with their probes."""
        for _ in range(count):
            yield self._step()
        yield Step({"op": "note", "text": "files"}, tuple(self._sample(60)))

    def _step(self) -> Step:
        act = self._act()
        succeeded = self._perform(act)
        self.first = False
        # a refusal changes nothing, as a rule: now and then the state is compared all the same
        if not succeeded and self.chance.random() < 0.8:
            return Step(act, ())
        state: list[Operation] = [{"op": kind} for kind in ("tiers", "iomem", "memtotal")]
        return Step(act, ({"op": "blocks", "full": False}, *state, *self._devices()))

    def _perform(self, act: Operation) -> bool:
        """Whether it succeeds on the model."""
        try:
            if act["op"] == "sh":
                return self.target.sh(act["cmd"], None).rc == 0
            return self._write(act).ret is not None
        except BlockedError:
            return False

    def _write(self, act: Operation) -> Outcome:
        return self.target.write_file(act["path"], act["data"].encode("latin-1"), act["flags"])

    # What to do ----------------------------------------------------------------------------------------------------

    def _act(self) -> Operation:
        if self.first and self.chance.random() < 0.9:
            return {"op": "sh", "cmd": LOAD_ALL}
        ways = {
            self._block: 30,
            self._device: 25,
            self._driver: 15,
            self._policy: 10,
            self._module: 4,
            self._other: 14,
        }
        while True:
            (way,) = self.chance.choices(list(ways), list(ways.values()))
            operation = way()
            if operation is not None:
                return operation

    def _names(self, directory: str) -> list[str]:
        return self.target.listed(directory) or []

    def _data(self, path: str) -> bytes:
        if self.chance.random() < 0.12:
            return self.chance.choice(CORPUS)
        name = path.rpartition("/")[2]
        word = self.chance.choice(OWN_WORDS.get(name) or WORDS.get(name, ["0", "1"]))
        return f"{word}\n".encode() if self.chance.random() < 0.9 else word.encode()

    def _written(self, path: str) -> Operation:
        return written(path, self._data(path))

    def _block(self) -> Operation | None:
        """A few neighbours are written again and again, so that zones meet."""
        numbers = [int(name[6:]) for name in self._names(MEMORY) if name[6:].isdigit() and name.startswith("memory")]
        numbers = [number for number in numbers if number >= FIRST_BLOCK]
        near = [number for number in numbers if number % 16 < 4]
        number = self.chance.choice(near if near and self.chance.random() < 0.5 else numbers)
        path = f"{MEMORY}/memory{number}/{self.chance.choice(['state', 'state', 'state', 'online'])}"
        if path.endswith("state") and self.chance.random() < 0.8:
            return written(path, f"{self.chance.choice(STATES)}\n".encode())
        return self._written(path)

    def _device(self) -> Operation | None:
        devices = self._names(f"{DAX}/devices")
        if not devices:
            return None
        attributes = ["state", "state", "hotplug", "size", "align", "mapping", "memmap_on_memory", "uevent"]
        device = self.chance.choice(devices)
        there = [name for name in attributes if name in self._names(f"{DAX}/devices/{device}")]
        region = f"{DAX}/devices/{device}/../dax_region"
        if not there or self.chance.random() < 0.2:
            return self._written(f"{region}/{self.chance.choice(['create', 'delete'])}")
        return self._written(f"{DAX}/devices/{device}/{self.chance.choice(there)}")

    def _driver(self) -> Operation | None:
        drivers = self._names(f"{DAX}/drivers")
        if not drivers:
            return None
        driver = self.chance.choice([*drivers, *(name for name in drivers if name == "kmem")])
        attribute = self.chance.choice(["bind", "bind", "unbind", "unbind", "new_id", "remove_id"])
        devices = self._names(f"{DAX}/devices")
        if devices and self.chance.random() < 0.8:
            return written(f"{DAX}/drivers/{driver}/{attribute}", f"{self.chance.choice(devices)}\n".encode())
        return self._written(f"{DAX}/drivers/{driver}/{attribute}")

    def _policy(self) -> Operation | None:
        parameters = "/sys/module/memory_hotplug/parameters"
        return self._written(
            self.chance.choice(
                [
                    f"{MEMORY}/auto_online_blocks",
                    f"{MEMORY}/auto_online_blocks",
                    f"{parameters}/online_policy",
                    f"{parameters}/auto_movable_ratio",
                    f"{parameters}/auto_movable_numa_aware",
                ]
            )
        )

    def _module(self) -> Operation | None:
        module = self.chance.choice(MODULES)
        parameter = " region_idle=Y" if module == "dax_hmem" and self.chance.random() < 0.2 else ""
        command = self.chance.choice([f"modprobe {module}{parameter}", f"rmmod {module.replace('-', '_')}"])
        return {"op": "sh", "cmd": command}

    def _other(self) -> Operation | None:
        if self._uses % USES == 0:
            self._known = self._files()
        self._uses += 1
        kinds = self._known
        writable = [kind for kind in kinds if kind.startswith("w ")]
        kind = self.chance.choice(writable)
        return self._written(self.chance.choice(kinds[kind]))

    # What to compare -----------------------------------------------------------------------------------------------

    def _devices(self) -> Iterator[Operation]:
        """The attributes of the dax devices."""
        names = self._names(f"{DAX}/devices")
        yield {"op": "ls", "path": f"{DAX}/devices"}
        for name in names:
            device = f"{DAX}/devices/{name}"
            for attribute in ("size", "resource", "align", "memmap_on_memory", "hotplug", "state"):
                if attribute in self._names(device):
                    yield {"op": "read", "path": f"{device}/{attribute}", "off": None}
            yield {"op": "stat", "path": f"{device}/driver"}

    def _sample(self, count: int) -> Iterator[Operation]:
        """Some of all files, of each kind as often."""
        kinds = self._files()
        for _ in range(count):
            path = self.chance.choice(kinds[self.chance.choice(list(kinds))])
            if NOT_READ.search(path):
                continue
            mode = self.target.stat(path).mode
            if stat.S_ISDIR(mode):
                yield {"op": "ls", "path": path}
            elif stat.S_ISREG(mode) and mode & 0o444:
                yield {"op": "read", "path": path, "off": None}
            yield {"op": "stat", "path": path}

    def _files(self) -> dict[str, list[str]]:
        """All paths by their kinds. Those that can be written are kinds of their own."""
        found: dict[str, list[str]] = {}
        for place in PLACES:
            self._walk(place, found)
        return found

    def _walk(self, directory: str, found: dict[str, list[str]]) -> None:
        for name in self._names(directory):
            path = f"{directory}/{name}"
            mode = self.target.stat(path).mode
            block = path.removeprefix(f"{MEMORY}/memory").partition("/")[0]
            if block.isdigit() and int(block) < FIRST_BLOCK:
                continue
            can_be_written = stat.S_ISREG(mode) and mode & 0o222 and name not in NOT_WRITTEN
            found.setdefault(f"{'w' if can_be_written else 'r'} {kind_of(path)}", []).append(path)
            if stat.S_ISDIR(mode):
                self._walk(path, found)
