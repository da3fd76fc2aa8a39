"""How to reach each snapshot (FORMAT.md, Snapshots), as operations in a session's form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fakesysfs.replay.recording import Operation, Session, Snapshot, load


@dataclass(frozen=True, slots=True)
class Recipe:
    """The recorded machine's variant, and what to do after boot."""

    variant: str
    operations: tuple[Operation, ...] = ()


_BLOCKS = "/sys/devices/system/memory"
_POLICY = f"{_BLOCKS}/auto_online_blocks"
_DEVICES = "/sys/bus/dax/devices"
_KMEM = "/sys/bus/dax/drivers/kmem"
_REGION_0 = "/sys/devices/platform/hmem_platform.0/hmem.0/dax_region"
_WRITE_ONLY = 1


def _write(path: str, word: str) -> Operation:
    return {"op": "write", "path": path, "data": f"{word}\n", "flags": _WRITE_ONLY, "off": None}


def _sh(command: str) -> Operation:
    return {"op": "sh", "cmd": command}


def _size(device: str, size: int) -> Operation:
    return _write(f"{_DEVICES}/{device}/size", str(size))


_MIB, _GIB = 1 << 20, 1 << 30
_DEVICE_AND_REGIONS = _sh("modprobe device_dax; modprobe dax_hmem")
_LOAD = _sh("modprobe device_dax; modprobe dax_hmem; modprobe kmem")
_LOAD_IDLE = _sh("modprobe device_dax; modprobe dax_hmem region_idle=1; modprobe kmem")

_SEVERAL_DEVICES = (
    _LOAD,
    _write(f"{_KMEM}/unbind", "dax0.0"),
    _size("dax0.0", 0),
    _write(f"{_REGION_0}/create", "1"),
    _write(f"{_REGION_0}/create", "1"),
    _size("dax0.1", _GIB),
    _size("dax0.2", 512 * _MIB),
    _size("dax0.0", 256 * _MIB),
    _size("dax0.1", 0),
    _size("dax0.2", 2 * _GIB),
    _write(f"{_REGION_0}/delete", "dax0.1"),
    # `create` is empty in the snapshots: the device created last had been deleted again.
    _write(f"{_REGION_0}/create", "1"),
    _write(f"{_REGION_0}/delete", "dax0.1"),
)
_STATE = f"{_DEVICES}/dax0.0/state"
_HOTPLUG = f"{_DEVICES}/dax0.0/hotplug"
_UNPLUGGED_V3 = (
    _write(_POLICY, "offline"),
    _DEVICE_AND_REGIONS,
    _write(_POLICY, "online"),
    _sh("modprobe kmem"),
)

RECIPES: dict[tuple[str, str], Recipe] = {
    ("7.2-distribution", "00"): Recipe("distribution"),
    ("7.2-distribution", "01"): Recipe("distribution", (_LOAD,)),
    ("7.2-distribution", "02"): Recipe("distribution", (_DEVICE_AND_REGIONS,)),
    ("7.2", "00"): Recipe("default"),
    ("7.2", "01"): Recipe("default", (_DEVICE_AND_REGIONS,)),
    ("7.2", "02"): Recipe("default", (_LOAD,)),
    ("7.2", "03"): Recipe(
        "default",
        (
            _LOAD,
            _write(f"{_BLOCKS}/memory51/state", "online_movable"),
            _write(f"{_BLOCKS}/memory52/state", "online_kernel"),
        ),
    ),
    ("7.2", "04"): Recipe(
        "default", (*_SEVERAL_DEVICES, _write(_POLICY, "online_movable"), _write(f"{_KMEM}/bind", "dax0.2"))
    ),
    ("7.2", "05"): Recipe(
        "default", (*_SEVERAL_DEVICES, _write(_POLICY, "offline"), _write(f"{_KMEM}/bind", "dax0.2"))
    ),
    ("7.2", "06"): Recipe(
        "pmem",
        (
            _sh("modprobe nd_e820; modprobe nd_pmem; modprobe dax_pmem"),
            _sh("modprobe device_dax; modprobe kmem; modprobe libnvdimm"),
            {"op": "fixture", "what": "pmem-devdax", "node": None},
        ),
    ),
    ("7.2", "07"): Recipe("hmat", (_LOAD, _write(f"{_BLOCKS}/memory48/state", "online_movable"))),
    ("7.2", "08"): Recipe(
        "memmap_on_memory",
        (
            _LOAD,
            _write(f"{_KMEM}/unbind", "dax0.0"),
            _write(f"{_DEVICES}/dax0.0/memmap_on_memory", "1"),
            _write(f"{_KMEM}/bind", "dax0.0"),
        ),
    ),
    ("7.3", "00"): Recipe("default", (_LOAD,)),
    ("7.3", "01"): Recipe("default", (_LOAD, _write(_STATE, "unplugged"))),
    ("7.3", "02"): Recipe("default", (_LOAD, _write(_STATE, "unplugged"), _write(_STATE, "online_movable"))),
    ("7.3", "03"): Recipe(
        "default", (_LOAD, _write(_STATE, "unplugged"), _write(_STATE, "online"), _write(_STATE, "unplugged"))
    ),
    ("7.3", "04"): Recipe(
        "region_idle",
        (
            _LOAD_IDLE,
            _write(f"{_DEVICES}/dax0.0/mapping", "1c0000000-1cfffffff"),
            _write(f"{_DEVICES}/dax0.0/mapping", "180000000-18fffffff"),
            _write(f"{_DEVICES}/dax0.0/mapping", "1e0000000-1efffffff"),
            _write(f"{_KMEM}/new_id", "dax0.0"),
            _write(_STATE, "unplugged"),
            _write(_STATE, "online_movable"),
        ),
    ),
    ("7.3", "05"): Recipe(
        "default",
        (
            _LOAD,
            _write(_STATE, "unplugged"),
            _write(f"{_BLOCKS}/memory81/state", "online_movable"),
            _write(f"{_BLOCKS}/memory83/state", "online_movable"),
            _write(f"{_KMEM}/unbind", "dax1.0"),
        ),
    ),
    ("7.3", "06"): Recipe("boot-policy-online", (_LOAD,)),
    ("hotplug-v3-as-posted", "00"): Recipe("default", _UNPLUGGED_V3),
    ("hotplug-v3-as-posted", "01"): Recipe(
        "default",
        (
            *_UNPLUGGED_V3,
            _write(_HOTPLUG, "online_movable"),
            _write(_HOTPLUG, "unplug"),
            _write(_HOTPLUG, "online_movable"),
        ),
    ),
    ("hotplug-v3-as-posted", "02"): Recipe("boot-policy-offline", (_LOAD,)),
}
"""(profile, number of the snapshot) -> its recipe."""


def session_with(snapshot: Snapshot) -> Session | None:
    """The session that was at a snapshot when it came to its note `snapshot NAME.jsonl`, up to that note, or None.

    It is looked for in the folder that has the snapshot's folder `snapshots`, or else in the snapshot's own.
    """
    path = snapshot.path.resolve()
    folder = next((parent.parent for parent in path.parents if parent.name == "snapshots"), path.parent)
    note = f"snapshot {path.name}"
    for file in sorted(folder.rglob("*.jsonl")):
        if file == path or note not in file.read_text(encoding="utf-8", errors="replace"):
            continue
        session = load(file)
        if isinstance(session, Session):
            for position, operation in enumerate(session.operations):
                if operation["op"] == "note" and operation.get("text") == note:
                    return Session(session.path, session.header, session.operations[:position])
    return None


def recipe_of(header: dict[str, Any]) -> Recipe | None:
    """The recipe of a snapshot, or None.

    A header with a `variant` brings its own `operations`. Otherwise the recipe is in RECIPES.
    """
    if "variant" in header:
        return Recipe(header["variant"], tuple(header.get("operations", ())))
    return RECIPES.get((header["profile"], header["name"].split("-", 1)[0]))
