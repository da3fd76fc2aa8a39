"""Comparing a machine with a snapshot: which paths exist, and what each file reads."""

from __future__ import annotations

import fnmatch
import re
import stat
from dataclasses import replace
from typing import Any

from fakesysfs.replay.normalise import Context, normalise, with_wakeup_number
from fakesysfs.replay.recording import Operation, Snapshot
from fakesysfs.replay.report import NOTHING_TO_COMPARE, Kind, Report, Verdict, compared, difference
from fakesysfs.replay.target import NotRunError, Target, errno_name

ROOTS = (
    "/sys/bus/dax",
    "/sys/bus/memory",
    "/sys/bus/node",
    "/sys/bus/memory_tiering",
    "/sys/devices/platform/hmem_platform.0",
    "/sys/devices/platform/e820_pmem",
    "/sys/devices/system/memory",
    "/sys/devices/system/node",
    "/sys/devices/virtual/memory_tiering",
    "/sys/kernel/mm/numa",
)
"""The recorder took everything below these. A path that a snapshot lacks is a mismatch."""

MODULES = ("memory_hotplug", "dax_hmem", "device_dax", "kmem", "fsdev_dax", "dax_pmem")
_MODULE_ENTRIES = frozenset({"drivers", "initstate", "parameters", "uevent"})
"""The recorder took only these of a module's directory."""

_CHARACTER_DEVICES = "/sys/dev/char"

_ND_BUS = "/sys/devices/platform/e820_pmem/ndbus0"
_ND_REGION = f"{_ND_BUS}/region0"
_NO_CONTROL_DEVICE = "the model has no control device for ndctl, and no firmware of DIMMs"
_NO_SEEDS = "the model has the namespace of the nd bus, but no seeds of further ones"
_NOT_MODELLED = "an attribute of the nd bus that no dax tool reads, and that the model lacks"

NOT_COMPARED = (
    ("/proc/cmdline", "it is that of the recorded guest"),
    ("/sys/class/nd", _NO_CONTROL_DEVICE),
    ("/sys/class/nd/*", _NO_CONTROL_DEVICE),
    ("*/ndbus0/nd", _NO_CONTROL_DEVICE),
    ("*/ndbus0/nd/*", _NO_CONTROL_DEVICE),
    (f"{_ND_REGION}/*_seed", _NO_SEEDS),
    (f"{_ND_REGION}/btt*", _NO_SEEDS),
    (f"{_ND_REGION}/pfn*", _NO_SEEDS),
    (f"{_ND_REGION}/dax0.[!0]*", _NO_SEEDS),
    ("/sys/bus/nd/devices/btt*", _NO_SEEDS),
    ("/sys/bus/nd/devices/pfn*", _NO_SEEDS),
    ("/sys/bus/nd/devices/dax0.[!0]*", _NO_SEEDS),
    (f"{_ND_REGION}/badblocks", _NOT_MODELLED),
    (f"{_ND_REGION}/init_namespaces", _NOT_MODELLED),
    (f"{_ND_REGION}/max_available_extent", _NOT_MODELLED),
    (f"{_ND_REGION}/read_only", _NOT_MODELLED),
    (f"{_ND_REGION}/namespace0.0/force_raw", _NOT_MODELLED),
    (f"{_ND_REGION}/namespace0.0/holder_class", _NOT_MODELLED),
    (f"{_ND_REGION}/dax0.0/uuid", "ndctl draws it at random"),
    ("/sys/class/wakeup/wakeup*", "the model has only the one of ACPI's CXL root; its number depends on the guest"),
)
"""Patterns of paths that are not compared, and why (FORMAT.md, Snapshots)."""

_LINKS_NOT_COMPARED = re.compile(r"/sys/module/[^/]+$|.*/ndbus0(?:/region0)?$")
"""Directories with subdirectories that are not recorded or not compared."""


def is_compared(path: str) -> bool:
    """Whether a path is compared (FORMAT.md, Snapshots)."""
    return not any(fnmatch.fnmatchcase(path, pattern) for pattern, _ in NOT_COMPARED)


def replay(snapshot: Snapshot, operations: list[Operation], target: Target) -> Report:
    """Replay `operations` on a freshly booted machine, and compare all paths with the snapshot."""
    report = Report(snapshot.name, "paths")
    if snapshot.header["profile"].endswith("-cxl"):
        snapshot = replace(snapshot, entries=with_wakeup_number(snapshot.entries))
    not_run: Verdict | None = None
    for operation in operations:
        try:
            _act(target, operation)
        except NotRunError as error:
            not_run = Verdict(Kind.NOT_RUN, error.reason)
            break
        except Exception as error:  # noqa: BLE001  a bug of the model is a finding, not the end of the report
            report.add("recipe", str(operation), Verdict(Kind.MISMATCH, f"exception {type(error).__name__}: {error}"))
    for path, entry in snapshot.entries.items():
        verdict = (not_run or _verdict(target, entry)) if is_compared(path) else NOTHING_TO_COMPARE
        report.add(path, entry.get("type", "absent"), verdict)
    for path in [] if not_run else _extra(target, snapshot):
        report.add(path, "extra", Verdict(Kind.MISMATCH, "the kernel has no such path"))
    return report


def _act(target: Target, operation: Operation) -> None:
    """Do one step of a recipe. The machine may refuse a write."""
    if operation["op"] == "write":
        target.write_file(operation["path"], operation["data"].encode("latin-1"), operation["flags"], operation["off"])
    elif operation["op"] == "fixture":
        target.fixture(operation["what"], operation["node"])
    elif operation["op"] == "collect":
        target.await_quiet()
    elif operation["op"] == "sh":
        target.sh(operation["cmd"], operation.get("tool"))


def _verdict(target: Target, entry: dict[str, Any]) -> Verdict:
    try:
        return compared(_differences(target, entry))
    except OSError as error:
        return Verdict(Kind.MISMATCH, "the path is missing", (errno_name(error.errno),))
    except Exception as error:  # noqa: BLE001  see replay
        return Verdict(Kind.MISMATCH, f"exception {type(error).__name__}: {error}")


_TYPES = {stat.S_IFDIR: "dir", stat.S_IFREG: "file", stat.S_IFLNK: "symlink"}


def _differences(target: Target, entry: dict[str, Any]) -> list[str]:
    path = entry["path"]
    try:
        status = target.stat(path)
    except OSError as error:
        if "lstat_errno" not in entry:
            raise
        return difference("lstat", entry["lstat_errno"], errno_name(error.errno))
    if "lstat_errno" in entry:
        return [f"lstat: expected {entry['lstat_errno']}, got success"]
    got: dict[str, Any] = {
        "type": _TYPES.get(stat.S_IFMT(status.mode), "other"),
        "mode": f"{stat.S_IMODE(status.mode):04o}",
        "size": status.size,
    }
    if target.owner_is_root:
        got |= {"uid": status.uid, "gid": status.gid}
    if not _LINKS_NOT_COMPARED.match(path):
        got["nlink"] = status.nlink
    differences = [line for key, value in got.items() for line in difference(key, entry[key], value)]
    if "target" in entry:
        differences += difference("target", entry["target"], target.readlink(path))
    if entry["type"] == "file" and not entry.get("volatile"):
        differences += _content(target, entry)
    return differences


_CONTENT_KEYS = {"open_errno": "open_errno", "errno": "read_errno", "data": "content"}
"""What `Target.read_result` returns -> the key in a snapshot."""


def _content(target: Target, entry: dict[str, Any]) -> list[str]:
    path = entry["path"]
    expected: tuple[str, Any] | None = next(((key, entry[key]) for key in _CONTENT_KEYS.values() if key in entry), None)
    if expected is None:
        return []
    kind, data = target.read_result(path, None)
    got: tuple[str, Any] = (_CONTENT_KEYS[kind], data)
    if isinstance(data, bytes):
        hexadecimal = isinstance(expected[1], dict)
        got = ("content", {"hex": data.hex()} if hexadecimal else data.decode("utf-8", "surrogateescape"))
    if expected[0] == got[0] == "content" and isinstance(got[1], str):
        return difference("content", _compared_lines(path, expected[1]), _compared_lines(path, got[1]))
    return difference("content", expected, got)


def _compared_lines(path: str, text: str) -> list[str]:
    """The compared lines of a file."""
    lines = text.split("\n")
    if path == "/proc/iomem":
        return [line for line in normalise("text", text, Context()).split("\n") if line]
    if path.endswith("/meminfo"):
        return [line for line in lines if re.search(r"\bMemTotal:|\bHugePages_", line)]
    if path == "/proc/devices":
        return [line for line in lines if line.endswith(" dax")]
    return lines


# Paths that the kernel lacks --------------------------------------------------------------------------


def _extra(target: Target, snapshot: Snapshot) -> list[str]:
    wanted = snapshot.entries
    found: list[str] = []
    roots: tuple[str, ...] = ROOTS
    modules: tuple[str, ...] = MODULES
    if snapshot.header["profile"].endswith("-cxl"):  # other roots were recorded, of these only some
        roots = tuple(root for root in ROOTS if root in wanted)
        modules = tuple(module for module in MODULES if f"/sys/module/{module}" in wanted)
    for root in roots:
        found += _below(target, root)
    for module in modules:
        found += [
            path
            for path in _below(target, f"/sys/module/{module}")
            if path.count("/") == _DEPTH_OF_MODULE or path.split("/")[_DEPTH_OF_MODULE + 1] in _MODULE_ENTRIES
        ]
    majors = {path.rsplit("/", 1)[1].split(":")[0] for path in wanted if path.startswith(f"{_CHARACTER_DEVICES}/")}
    found += [path for path in _below(target, _CHARACTER_DEVICES) if path.rsplit("/", 1)[1].split(":")[0] in majors]
    return [path for path in found if path not in wanted and is_compared(path)]


_DEPTH_OF_MODULE = 3


def _below(target: Target, top: str) -> list[str]:
    """A path and all paths below it. Links are not followed."""
    try:
        status = target.stat(top)
    except OSError:
        return []
    found = [top]
    if stat.S_ISDIR(status.mode):
        for name in sorted(target.ls(top)):
            found += _below(target, f"{top}/{name}")
    return found
