"""Sequences of operations, drawn at random from what the model has at each moment.

The model tells which files there are to write; the kernel then does the same operations. After each operation follow
the probes that compare the rest of the machine.
"""

from __future__ import annotations

import ast
import random
import re
import shlex
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fakesysfs.replay.model_target import ModelTarget, boot, machine_and_kernel
from fakesysfs.replay.record import Recorder, written
from fakesysfs.replay.recording import Operation
from fakesysfs.replay.target import BlockedError
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
"""Of the recorded guest. The kernel itself holds pages of lower blocks, which ones depends on its boot."""

OWN_LAYOUTS = frozenset({"distribution-regions", "distribution-cpus"})
"""Guests with another layout: no block that is there at boot is written."""

NOT_WRITTEN = frozenset({"compact", "reclaim", "nr_hugepages", "demote", "demote_size", "autosuspend_delay_ms"})
"""They depend on what else runs in the guest."""

NOT_READ = re.compile(
    r"/(?:meminfo|numastat|vmstat|coresize|initsize|refcnt|runtime_active_time|runtime_suspended_time)$"
    r"|/(?:sections|notes)(?:/|$)|/hugepages/"
)
"""Their contents depend on the build or on what else runs."""

MODULES = ("device_dax", "dax_hmem", "kmem", "fsdev_dax", "dax_cxl", "memory-notifier-error-inject")
PARAMETERS = (
    "region_idle=Y", "region_idle=1", "region_idle=0", "region_idle", "region_idle=maybe", "priority=10",
    "priority=x", "priority=99999999999", "priority", "nothing=1",
)  # fmt: skip
"""Of modprobe: those that some of the modules have, with values that they take or refuse."""
LOAD_ALL = "modprobe device_dax; modprobe dax_hmem; modprobe kmem"

SCENES = 0.4
"""How often a sequence begins with writes that wait, where a page can be pinned."""

USES = 5
"""How often a list of all files is drawn from: some of them may have gone since, and answer ENOENT."""

STATES = ("offline", "offline", "online", "online_kernel", "online_movable")

OWN_WORDS = {
    "error": ["0", "-12", "-16", "-5", "1", "-5000"],
    "driver_override": ["kmem", "dax_hmem", "\n", "none"],
    "priority": ["0", "10"],
    "auto_movable_ratio": ["0", "50", "96", "97", "228", "229", "301", "100000"],
}

BLOCK_SIZE = 128 << 20


@dataclass(frozen=True, slots=True)
class Step:
    """Operations that belong together, most often one, and what is compared after them."""

    acts: tuple[Operation, ...]
    probes: tuple[Operation, ...] = ()

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All of them."""
        return (*self.acts, *self.probes)


def line(operation: Operation) -> str:
    """An operation as a line of a script for `fakesysfs record`."""
    kind = operation["op"]
    if kind == "note":
        return f"# {operation['text']}"
    if kind == "write":
        text = operation["data"].encode("unicode_escape").decode("ascii")
        return f"bytes {operation['path']} {shlex.quote(text)}"
    if kind == "async_start":
        return f"start {operation['id']} {operation['path']} {ast.literal_eval(operation['data'])}".rstrip()
    if kind == "read" and "n" in operation:
        return f"read {operation['path']} all"
    words = [kind.removeprefix("async_"), *(str(operation[key]) for key in _WORDS if operation.get(key) is not None)]
    return " ".join(words)


_WORDS = ("id", "cmd", "path", "what", "node")


def script(steps: Sequence[Step]) -> str:
    """A sequence as a script."""
    return "".join(f"{line(operation)}\n" for step in steps for operation in step.operations)


def in_background(act: Operation) -> tuple[Operation, ...]:
    """A write that waits until it is killed, as operations that a recording can have."""
    key = {"id": 1}
    return (
        {"op": "async_start", **key, "path": act["path"], "data": repr(f"{act['data'].strip()}\n"), "alarm_s": 0},
        {"op": "async_poll", **key},
        {"op": "async_signal", **key, "sig": "SIGKILL"},
        {"op": "async_end", **key},
    )


class Drawer:
    """Draws operations for a machine, and acts them out on the model, to know what there is next."""

    def __init__(self, chance: random.Random, profile: str, variant: str) -> None:
        self.chance = chance
        self.target = ModelTarget(boot(machine_and_kernel(profile, variant)))
        self.first = True
        self._recorder = Recorder(self.target)
        self._known: dict[str, list[str]] = {}
        self._uses = 0
        self._at_boot = frozenset(self._blocks())
        own_layout = variant in OWN_LAYOUTS
        self._kept = {number for number in self._at_boot if own_layout or number < FIRST_BLOCK}

    def steps(self, count: int) -> Iterator[Step]:
        """That many operations, or a few more, with their probes. Fewer before a command that does not return."""
        drawn = 0
        while drawn < count:
            scene = self._scene() if drawn == 1 and self.chance.random() < SCENES else ()
            try:
                step = self._step(scene or (self._act(),))
            except BlockedError:
                break
            yield step
            drawn += max(1, len(scene))
        yield Step(({"op": "note", "text": "files"},), tuple(self._sample(60)))

    def _step(self, acts: tuple[Operation, ...]) -> Step:
        try:
            succeeded = self._perform(acts)
        except BlockedError:
            if [act["op"] for act in acts] != ["write"]:
                raise
            acts, succeeded = in_background(acts[0]), True
        self.first = False
        # a refusal changes nothing, as a rule: now and then the state is compared all the same
        if not succeeded and self.chance.random() < 0.8:
            return Step(acts)
        state: list[Operation] = [{"op": kind} for kind in ("tiers", "iomem", "memtotal")]
        zones: Operation = {"op": "read", "path": "/proc/zoneinfo", "n": None, "off": None}
        return Step(acts, ({"op": "blocks", "full": False}, *state, zones, *self._devices()))

    def _perform(self, acts: tuple[Operation, ...]) -> bool:
        """Whether all of them succeed on the model. Raises BlockedError for one that waits until it is killed."""
        answers = list(self._recorder.record(acts))
        return all(answer.get("rc", 0) == 0 and not {"errno", "open_errno"} & answer.keys() for answer in answers)

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
            self._parameter: 4,
            self._other: 14,
        }
        while True:
            (way,) = self.chance.choices(list(ways), list(ways.values()))
            operation = way()
            if operation is not None:
                return operation

    def _names(self, directory: str) -> list[str]:
        return self.target.listed(directory) or []

    def _blocks(self) -> list[int]:
        found = (re.fullmatch(r"memory(\d+)", name) for name in self._names(MEMORY))
        return [int(one[1]) for one in found if one]

    def _data(self, path: str) -> bytes:
        if self.chance.random() < 0.12:
            return self.chance.choice(CORPUS)
        name = path.rpartition("/")[2]
        if name in {"hard_offline_page", "soft_offline_page"}:
            word = f"{self.address():#x}"
        elif name == "mapping":
            word = self._mapping(path)
        else:
            word = self.chance.choice(OWN_WORDS.get(name) or WORDS.get(name, ["0", "1"]))
        return f"{word}\n".encode() if self.chance.random() < 0.9 else word.encode()

    def address(self) -> int:
        """Of a page that the kernel does not use, or of no page.

        Which pages it uses depends on its build and on its boot: pages of boot memory, and after a while also pages
        that are online in a kernel zone. It takes the first pages of the buddy allocator's pieces, never the last one.
        """
        added = [number for number in self._blocks() if number not in self._at_boot]
        block = self.chance.choice(added) if added and self.chance.random() < 0.8 else 0x7000
        offsets = [0, 0x1000, BLOCK_SIZE - 0x1000]
        return block * BLOCK_SIZE + self.chance.choice(offsets[2:] if self._in_kernel_zone(block) else offsets)

    def _in_kernel_zone(self, block: int) -> bool:
        """Is the block online in a zone that the kernel allocates from for itself?"""
        directory = f"{MEMORY}/memory{block}"
        if self._text(f"{directory}/state") != "online":
            return False
        return self._text(f"{directory}/valid_zones") != "Movable"

    def _text(self, path: str) -> str | None:
        """What a file says, None where it cannot be read."""
        kind, got = self.target.read_result(path, None)
        return got.decode().strip() if kind == "data" and isinstance(got, bytes) else None

    def _mapping(self, path: str) -> str:
        """A range near the device, most often one that its alignment allows."""
        resource = self._text(f"{path.rpartition('/')[0]}/resource")
        start = int(resource, 0) if resource else 0x180000000
        start += self.chance.randrange(-2, 12) * BLOCK_SIZE
        size = self.chance.choice([1, 1, 2, 4]) * BLOCK_SIZE if self.chance.random() < 0.9 else 0x1000
        return f"{start:x}-{start + size - 1:x}"

    def _written(self, path: str) -> Operation:
        return written(path, self._data(path))

    def _block(self) -> Operation | None:
        """A few neighbours are written again and again, so that zones meet."""
        numbers = [number for number in self._blocks() if number not in self._kept]
        if not numbers:
            return None
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
        parameter = f" {self.chance.choice(PARAMETERS)}" if self.chance.random() < 0.3 else ""
        command = self.chance.choice([f"modprobe {module}{parameter}", f"rmmod {module.replace('-', '_')}"])
        return {"op": "sh", "cmd": command}

    def _parameter(self) -> Operation | None:
        """A parameter of a loaded module."""
        modules = (f"/sys/module/{name}/parameters" for name in self._names("/sys/module"))
        paths = [f"{directory}/{name}" for directory in modules for name in self._names(directory)]
        return self._written(self.chance.choice(paths)) if paths else None

    def _scene(self) -> tuple[Operation, ...]:
        """Writes in the background that wait for a pinned page, and for each other. Empty without a movable block.

        On a machine after boot: which page the kernel takes on a node depends on what was online before.
        """
        pinned = {node: self.target.sysroot.kernel.pin(node) for node in (1, 2, 3)}
        self.target.sysroot.kernel.unpin()
        nodes = [node for node, block in pinned.items() if block is not None and block not in self._kept]
        if not nodes:
            return ()
        node = self.chance.choice(nodes)
        acts: list[Operation] = [{"op": "fixture", "what": "pin", "node": node}]
        keys = list(range(1, self.chance.choice([2, 2, 3])))
        for key in keys:
            path, word = self._waiting_write(pinned[node], first=key == 1)
            acts.append({"op": "async_start", "id": key, "path": path, "data": repr(f"{word}\n"), "alarm_s": 0})
            acts += [{"op": "async_poll", "id": other} for other in keys[:key]]
        killed = self.chance.random() < 0.5
        if killed:
            acts += [{"op": "async_signal", "id": key, "sig": "SIGKILL"} for key in keys]
        else:
            acts.append({"op": "fixture", "what": "unpin", "node": None})
        acts += [{"op": "async_end", "id": key} for key in keys]
        return (*acts, {"op": "fixture", "what": "unpin", "node": None}) if killed else tuple(acts)

    def _waiting_write(self, block: int | None, *, first: bool) -> tuple[str, str]:
        """The first one waits for the pinned page, the others for the first.

        A write that does not wait takes its time on the kernel all the same: where it is when it is looked at or killed
        would depend on the machine's load.
        """
        devices = [name for name in self._names(f"{DAX}/devices") if self._names(f"{DAX}/devices/{name}/driver")]
        ways = [(f"{MEMORY}/memory{block}/state", "offline")]
        for device in devices:
            if not first:
                ways.append((f"{DAX}/drivers/kmem/unbind", device))
            has_state = "state" in self._names(f"{DAX}/devices/{device}")
            if has_state and (not first or self._has_block(device, block)):
                ways.append((f"{DAX}/devices/{device}/state", "unplugged"))
        return self.chance.choice(ways)

    def _has_block(self, device: str, block: int | None) -> bool:
        """Is the block memory of the dax device?"""
        start, size = (self._text(f"{DAX}/devices/{device}/{attribute}") for attribute in ("resource", "size"))
        if block is None or start is None or size is None:
            return False
        return int(start, 0) <= block * BLOCK_SIZE < int(start, 0) + int(size)

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
            if block.isdigit() and int(block) in self._kept:
                continue
            can_be_written = stat.S_ISREG(mode) and mode & 0o222 and name not in NOT_WRITTEN
            found.setdefault(f"{'w' if can_be_written else 'r'} {kind_of(path)}", []).append(path)
            if stat.S_ISDIR(mode):
                self._walk(path, found)
