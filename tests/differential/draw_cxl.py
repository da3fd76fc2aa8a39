"""Sequences of operations on CXL devices, drawn at random from what the model has at each moment.

Memory goes online in ZONE_MOVABLE only: with memory in a kernel zone, a reset of its decoders kills the kernel. Which
device becomes which memN is a matter of chance. The model draws with the numbers of its machine file, and `Renaming`
gives the devices of the sequence the numbers that they have in the guest.
"""

from __future__ import annotations

import random
import re
import stat
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from fakesysfs.kernel.cxl.core.hdm import SZ_256M, CxlEndpointDecoder
from fakesysfs.kernel.cxl.core.memdev import CxlMemdev
from fakesysfs.kernel.cxl.core.port import CxlBusDevice, CxlPort, CxlRootDecoder
from fakesysfs.kernel.cxl.core.region import CxlConfig, CxlRegion
from fakesysfs.kernel.cxl.core.region_dax import CxlDaxRegion
from fakesysfs.lab.machines import CXL_GUESTS
from fakesysfs.replay.record import written
from fakesysfs.replay.recording import Operation
from fakesysfs.replay.target import Target
from tests.differential.draw import DAX, MEMORY, Drawer, Step
from tests.words import CORPUS, kind_of

GUESTS = frozenset(guest.name for guest in CXL_GUESTS)
"""The guests whose sequences are drawn here."""

CXL = "/sys/bus/cxl"
DEVICES = f"{CXL}/devices"
DRIVERS = f"{CXL}/drivers"

MODULES = (
    "libnvdimm", "cxl_pmem", "cxl_acpi", "cxl_mem", "cxl_pci", "device_dax", "fsdev_dax", "dax_hmem", "dax_cxl", "kmem",
)  # fmt: skip
LOAD_ALL = "; ".join(f"modprobe {module}" for module in MODULES)
POLICIES = ("online_movable", "online_movable", "offline")
KEEPS_ORDER = ("dax_cxl", "dax_cxl", "kmem", "device_dax", "fsdev_dax", "cxl_mem", "cxl_pmem")
"""Modules whose load probes no memory device."""

SYSTEM_RAM_ATTRIBUTES = ("state", "size", "align", "mapping", "memmap_on_memory", "uevent")
NOT_WRITTEN = frozenset({"cancel", "control", "data", "driver_override", "loading", "sanitize", "drivers_autoprobe"})
"""A device erases itself, or takes firmware, in its own time; without autoprobe nothing more happens."""
NOT_DRAWN_FROM = frozenset({"firmware", "power", "wakeup", "ndbus0", "dax_region"})
"""Directories of files that depend on time, or that `_dax` draws."""

REFUSALS = 2
"""A region whose next step was refused so often is left alone, and taken away soon."""

T = TypeVar("T")


class CxlDrawer(Drawer):
    """Draws operations for a machine with CXL devices."""

    def __init__(self, chance: random.Random, profile: str, variant: str) -> None:
        super().__init__(chance, profile, variant)
        self._forwarded: CxlRegion | None = None
        self._refused: Counter[CxlRegion] = Counter()
        """How often the next step of a region was refused."""
        self._uuids = [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(3)]

    def steps(self, count: int) -> Iterator[Step]:
        """That many operations with their probes, after the load of all modules."""
        load: tuple[Operation, ...] = (
            {"op": "sh", "cmd": LOAD_ALL},
            COLLECT,
            written(f"{MEMORY}/auto_online_blocks", f"{self.chance.choice(POLICIES)}\n".encode()),
        )
        self._perform(load)
        yield Step(load, ({"op": "changes"}, {"op": "blocks", "full": False}))
        for _ in range(count):
            yield self._step((self._act(),))
        yield Step(({"op": "note", "text": "files"},), ({"op": "changes"}, *self._sample(40)))

    def _step(self, acts: tuple[Operation, ...]) -> Step:
        deep = not _SHALLOW.search(acts[0].get("path", ""))
        if deep:
            acts = (*acts, COLLECT)
        succeeded = self._perform(acts)
        if self._forwarded is not None:
            self._refused[self._forwarded] += not succeeded
            self._forwarded = None
        if not succeeded and self.chance.random() < 0.8:
            return Step(acts)
        changes: list[Operation] = [{"op": "changes"}, {"op": "iomem"}]
        if not deep:
            return Step(acts, tuple(changes))
        state: list[Operation] = [{"op": "memtotal"}, {"op": "tiers"}, {"op": "blocks", "full": False}]
        return Step(acts, (*changes, *state, *self._devices()))

    # What there is -------------------------------------------------------------------------------------------------

    def devices(self, kind: type[T]) -> list[T]:
        devices = self.target.sysroot.kernel.cxl_bus.devices.values()
        return [device for device in devices if isinstance(device, kind)]

    def _one(self, values: Sequence[T]) -> T:
        return self.chance.choice(values)

    def _name(self) -> str:
        """Of any device, or of none."""
        names = self._names(DEVICES)
        return self._one([*names, *names, "decoder9.9", "region9", "x", ""])

    # What to do ----------------------------------------------------------------------------------------------------

    def _act(self) -> Operation:
        ways: dict[Callable[[], Operation | None], int] = {
            self._forward: 50,
            self._backward: 12,
            self._attribute: 20,
            self._repair: 10,
            self._bind: 3,
            self._dax: 8,
            self._memory: 2,
            self._cxl_module: 1,
            self._other: 6,
        }
        while True:
            (way,) = self.chance.choices(list(ways), list(ways.values()))
            operation = way()
            if operation is not None:
                return operation

    def _write(self, device: CxlBusDevice | str, attribute: str, word: object) -> Operation:
        name = device if isinstance(device, str) else device.name
        end = "" if self.chance.random() < 0.05 else "\n"
        return written(f"{DEVICES}/{name}/{attribute}", f"{word}{end}".encode())

    def _driver_write(self, driver: str, attribute: str, name: str) -> Operation:
        return written(f"{DRIVERS}/{driver}/{attribute}", f"{name}\n".encode())

    def _forward(self) -> Operation | None:
        """The next step of a region on its way to a dax device."""
        regions = self.devices(CxlRegion)
        if not regions or (len(regions) < 4 and self.chance.random() < 0.1):
            return self._create()
        region = self._one(regions)
        open_ = [other for other in regions if other.driver is None and self._refused[other] < REFUSALS]
        if open_ and self.chance.random() < 0.8:
            region = max(open_, key=lambda other: (other.state, other.nr_targets))
        self._forwarded = region
        if region.state == CxlConfig.IDLE:
            return self._set_up(region)
        if region.state == CxlConfig.INTERLEAVE_ACTIVE:
            return self._target(region)
        if region.state == CxlConfig.ACTIVE:
            return self._write(region, "commit", self._one(["1", "1", "y", "on"]))
        return None if region.driver else self._driver_write("cxl_region", "bind", region.name)

    def _create(self) -> Operation | None:
        decoders = self.devices(CxlRootDecoder)
        if not decoders:
            return None
        decoder = self._one(decoders)
        has_pmem = any(memdev.setup.pmem for memdev in self.devices(CxlMemdev))
        mode = self._one(["ram", "ram", "pmem"] if has_pmem else ["ram"] * 19 + ["pmem"])
        return self._write(decoder, f"create_{mode}_region", f"region{decoder.region_id}")

    def _set_up(self, region: CxlRegion) -> Operation:
        of_window = region.root_decoder.interleave_ways
        missing: list[tuple[str, object]] = []
        if not region.interleave_ways:
            several = len(self.devices(CxlMemdev)) > of_window
            missing.append(("interleave_ways", of_window * self._one([1, 2] if several else [1])))
        if not region.interleave_granularity:
            granularity = region.root_decoder.interleave_granularity
            missing.append(("interleave_granularity", granularity if of_window > 1 else self._one([256, 512, 4096])))
        if region.mode == "pmem" and not region.uuid:
            missing.append(("uuid", self._one(self._uuids)))
        if missing:
            return self._write(region, *self._one(missing))
        smallest = min((memdev.setup.ram for memdev in self.devices(CxlMemdev)), default=SZ_256M)
        each = self._one([SZ_256M, SZ_256M, SZ_256M, smallest // 2, smallest])
        return self._write(region, "size", max(each, SZ_256M) * region.interleave_ways)

    def _target(self, region: CxlRegion) -> Operation | None:
        """A missing target, or what its decoder lacks."""
        empty = [pos for pos in range(region.interleave_ways) if region.targets[pos] is None]
        window = region.root_decoder.window.targets
        if not empty:
            return None
        pos = self._one(empty)
        bridge = window[pos % len(window)]
        used = {target.memdev for target in region.targets if target is not None}
        decoders = [
            decoder
            for decoder in self.devices(CxlEndpointDecoder)
            if decoder.memdev.setup.bridge == bridge and decoder.region is None and decoder.memdev not in used
        ]
        size = region.size // region.interleave_ways
        ready = [decoder for decoder in decoders if decoder.dpa_size == size and decoder.mode == region.mode]
        if ready:
            return self._write(region, f"target{pos}", self._one(ready).name)
        last = [decoder for decoder in decoders if decoder.id == decoder.port.hdm_end]
        free = [decoder for decoder in decoders if decoder.id == decoder.port.hdm_end + 1 and has_room(decoder, size)]
        if not last and not free:
            return None
        decoder = self._one(free or last)
        if decoder.mode != region.mode:
            if decoder.dpa_size:
                return self._write(decoder, "dpa_size", 0)
            return self._write(decoder, "mode", region.mode)
        return self._write(decoder, "dpa_size", f"{size:#x}")

    def _backward(self) -> Operation | None:
        """What takes a region or device memory away."""
        regions, decoders = self.devices(CxlRegion), self.devices(CxlEndpointDecoder)
        last = [decoder for decoder in decoders if decoder.dpa and decoder.id == decoder.port.hdm_end]
        if last and (not regions or self.chance.random() < 0.35):
            return self._write(self._one(last), "dpa_size", 0)
        if not regions:
            return None
        for region in regions:
            if self._refused[region] >= REFUSALS and self.chance.random() < 0.7:
                del self._refused[region]
                return self._write(region.root_decoder, "delete_region", region.name)
        committed = [region for region in regions if region.state >= CxlConfig.COMMIT]
        region = self._one(committed if committed and self.chance.random() < 0.7 else regions)
        if region.state < CxlConfig.ACTIVE and self.chance.random() < 0.5:
            return None
        ways = [self._write(region.root_decoder, "delete_region", region.name)]
        if region.state < CxlConfig.ACTIVE:
            ways.append(self._write(region, "size", 0))
        if region.state >= CxlConfig.COMMIT:
            ways += [self._write(region, "commit", 0)] * 2
        if region.driver is not None:
            ways += [self._driver_write("cxl_region", "unbind", region.name)] * 3
        if region.nr_targets:
            ways += [self._write(region, f"target{self.chance.randrange(region.interleave_ways)}", "")] * 2
        return self._one(ways)

    def _attribute(self) -> Operation | None:
        """Any word into an attribute of any region or decoder."""
        places: list[tuple[CxlBusDevice, str, list[str]]] = []
        for region in self.devices(CxlRegion):
            words = [*self._names(DEVICES), ""]
            target = f"target{self.chance.randrange(max(1, region.interleave_ways) + 1)}"
            places += [(region, name, options) for name, options in REGION_WORDS.items()]
            places += [(region, "uuid", [*self._uuids, "x", "00000000-0000-0000-0000-000000000000"])]
            places += [(region, target, words)] * 3
        for decoder in self.devices(CxlEndpointDecoder):
            places += [(decoder, "mode", ["ram", "ram", "pmem", "none", ""]), (decoder, "dpa_size", SIZES)]
        for root in self.devices(CxlRootDecoder):
            regions = [region.name for region in self.devices(CxlRegion)]
            names = [f"region{root.region_id}", f"region{root.region_id}x", *regions, "region9", "region", "x"]
            places += [(root, f"create_{mode}_region", names) for mode in ("ram", "pmem")]
            places += [(root, "delete_region", ["region9", "region", "x", "", *regions[:1]])]
        if not places:
            return None
        device, name, options = self._one(places)
        if self.chance.random() < 0.1:
            return written(f"{DEVICES}/{device.name}/{name}", self._one(CORPUS))
        return self._write(device, name, self._one(options))

    def _repair(self) -> Operation | None:
        """Bind what has lost its driver, load what is not loaded."""
        loaded = self._names("/sys/module")
        absent = [module for module in MODULES if module not in loaded]
        if absent and self.chance.random() < 0.5:
            return self._module_command("modprobe", self._one(absent))
        ports = [port.name for port in self.devices(CxlPort) if port.driver is None and not port.is_root]
        memdevs = [memdev.name for memdev in self.devices(CxlMemdev) if memdev.driver is None]
        ways = [("cxl_port", name) for name in ports] or [("cxl_mem", name) for name in memdevs]
        if not ways:
            return None
        driver, name = self._one(ways)
        return self._driver_write(driver, "bind", name)

    def _bind(self) -> Operation:
        driver = self._one(["cxl_mem", "cxl_mem", "cxl_port", "cxl_region", "cxl_dax_region", "cxl_nvdimm"])
        prefixes = {"cxl_mem": ("mem",), "cxl_port": ("port", "endpoint"), "cxl_region": ("region",)}
        names = [name for name in self._names(DEVICES) if name.startswith(prefixes.get(driver, ("dax_region",)))]
        name = self._one(names) if names and self.chance.random() < 0.7 else self._name()
        return self._driver_write(driver, self._one(["bind", "bind", "bind", "unbind"]), name)

    def _dax(self) -> Operation | None:
        """What can be done to the dax devices of regions. Never into a kernel zone."""
        devices = self._names(f"{DAX}/devices")
        if not devices:
            return None
        device = self._one(devices)
        if self.chance.random() < 0.3:
            driver = self._one(["kmem", "kmem", "kmem", "device_dax", "fsdev_dax"])
            return written(f"{DAX}/drivers/{driver}/{self._one(['bind', 'unbind'])}", f"{device}\n".encode())
        if self.chance.random() < 0.2:
            word = self._one(["1", "0", device, "x"])
            return written(
                f"{DAX}/devices/{device}/../dax_region/{self._one(['create', 'delete'])}", f"{word}\n".encode()
            )
        name = self._one(["state", "state", "state", *SYSTEM_RAM_ATTRIBUTES])
        if name == "state":
            return written(f"{DAX}/devices/{device}/state", self._one(STATE_WORDS))
        return self._written(f"{DAX}/devices/{device}/{name}")

    def _memory(self) -> Operation | None:
        numbers = [number for number in self._blocks() if number not in self._at_boot]
        if not numbers:
            return None
        word = self._one(["offline", "online_movable", "online_movable"])
        return written(f"{MEMORY}/memory{self._one(numbers)}/state", f"{word}\n".encode())

    def _cxl_module(self) -> Operation | None:
        cxl = self.target.sysroot.kernel.cxl
        alone = cxl is not None and len(cxl.setup.devices) == 1
        modules = (*KEEPS_ORDER, "cxl_pci", "cxl_acpi") if alone else KEEPS_ORDER
        return self._module_command(self._one(["modprobe", "rmmod", "rmmod"]), self._one(modules))

    def _module_command(self, command: str, module: str) -> Operation | None:
        """None where the kernel would probe several dax regions at once: their order is a matter of chance."""
        if (command, module) == ("modprobe", "dax_cxl") and len(self.devices(CxlDaxRegion)) > 1:
            return None
        return {"op": "sh", "cmd": f"{command} {module}"}

    def _data(self, path: str) -> bytes:
        name = path.rpartition("/")[2]
        if name in {"bind", "unbind", "drivers_probe"} and self.chance.random() < 0.8:
            return f"{self._name()}\n".encode()
        if name in {"flush", "trigger_poison_list", "raw_allow_all"}:
            return self._one([b"1\n", b"0\n", b"y", b"x\n", b"\n", b"", b"on\n"])
        return super()._data(path)

    # Files ---------------------------------------------------------------------------------------------------------

    def _files(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        memdevs = [f"/sys{memdev.devpath}" for memdev in self.devices(CxlMemdev)]
        for place in ("/sys/devices/platform/ACPI0017:00", CXL, "/sys/kernel/debug/cxl", *memdevs):
            self._walk(place, found)
        return found

    def _walk(self, directory: str, found: dict[str, list[str]]) -> None:
        for name in self._names(directory):
            if name in NOT_DRAWN_FROM or re.fullmatch(r"dax\d+\.\d+|CDAT", name):
                continue
            path = f"{directory}/{name}"
            mode = self.target.stat(path).mode
            can_be_written = stat.S_ISREG(mode) and mode & 0o222 and name not in NOT_WRITTEN
            found.setdefault(f"{'w' if can_be_written else 'r'} {kind_of(path)}", []).append(path)
            if stat.S_ISDIR(mode):
                self._walk(path, found)


def has_room(decoder: CxlEndpointDecoder, size: int) -> bool:
    """Is so much memory free in any partition of its device?"""
    return any(
        partition.start + partition.size - partition.free_from >= size for partition in decoder.memdev.partitions
    )


_SHALLOW = re.compile(r"/(?:interleave_\w+|size|uuid|mode|dpa_size|create_\w+)$")
"""Attributes whose stores begin no work in the background, and change no memory."""

COLLECT: Operation = {"op": "collect", "text": ""}
SIZES = ["0", "0", "0x10000000", "0x10000000", "0x20000000", "0x40000000", "0x8000000", "1", "0x100000000", "x", "-1"]
REGION_WORDS = {
    "interleave_ways": ["1", "2", "4", "3", "0", "5", "16", "-1", "+1", "0x2", "99999999999"],
    "interleave_granularity": ["256", "512", "1024", "8192", "16384", "32768", "100", "0", "x", "0400"],
    "size": [*SIZES, "0x200000000"],
    "commit": ["0", "1", "y", "n", "x", "2", ""],
}
STATE_WORDS = [b"unplugged\n", b"unplugged\n", b"online_movable\n", b"online_movable\n", b"offline\n", b"x\n", b"\n"]


class Renaming:
    """The names of devices in a guest for those of the machine that drew a sequence."""

    def __init__(self, drawn: Mapping[str, str], there: Mapping[str, str]) -> None:
        """`drawn`, `there`: results of `names_by_address`."""
        self._names = {name: there[address] for address, name in drawn.items() if address in there}

    def operation(self, operation: Operation) -> Operation:
        """An operation with the names that the guest has."""
        renamed: Operation = {key: self._text(operation[key]) for key in ("path", "cmd", "data") if key in operation}
        if "data" in renamed:
            renamed["len"] = len(renamed["data"])
        return operation | renamed

    def _text(self, text: str) -> str:
        return _NAME.sub(lambda found: self._name(found[1], found[2]), text)

    def _name(self, kind: str, number: str) -> str:
        if kind != "decoder":
            return self._names.get(kind + number, kind + number)
        return self._names.get(f"endpoint{number}", f"endpoint{number}").replace("endpoint", "decoder")


_NAME = re.compile(r"\b(mem|endpoint|decoder)(\d+)(?!\d)")


def names_by_address(target: Target) -> dict[str, str]:
    """`mem ADDRESS` and `endpoint ADDRESS` -> name, for the PCI address of each memory device after the load."""
    found: dict[str, str] = {}
    for name in target.listed(DEVICES) or ():
        if re.fullmatch(r"mem\d+", name):
            found[f"mem {target.readlink(f'{DEVICES}/{name}').split('/')[-2]}"] = name
        elif re.fullmatch(r"endpoint\d+", name):
            found[f"endpoint {target.readlink(f'{DEVICES}/{name}/uport').split('/')[-2]}"] = name
    return found
