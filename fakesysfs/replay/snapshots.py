"""Comparing every path of a machine with a snapshot: what is there, what is not, and what each file says."""

from __future__ import annotations

import fnmatch
import re
import stat
from typing import Any

from fakesysfs.replay.normalise import Context, normalise
from fakesysfs.replay.recipes import Recipe
from fakesysfs.replay.recording import Operation, Snapshot
from fakesysfs.replay.report import NOTHING_TO_COMPARE, Kind, Report, Verdict, compared, difference
from fakesysfs.replay.target import NotRunError, NotSupportedError, Target, errno_name

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
"""Below these everything was recorded: a path that we have and a snapshot lacks is a mismatch."""

MODULES = ("memory_hotplug", "dax_hmem", "device_dax", "kmem", "fsdev_dax", "dax_pmem")
_MODULE_ENTRIES = frozenset({"drivers", "initstate", "parameters", "uevent"})
"""Of a module's directory only these were recorded."""

_CHARACTER_DEVICES = "/sys/dev/char"

NOT_COMPARED = (
    ("/sys/bus/nd*", "the nd bus is outside the model"),
    ("/sys/class/nd*", "the nd bus is outside the model"),
    ("/sys/module/nd_*", "the nd bus is outside the model"),
    ("/sys/module/libnvdimm*", "the nd bus is outside the model"),
    ("/proc/cmdline", "the recording guest's"),
)
"""Patterns of paths that are not compared, and why (FORMAT.md, Snapshots)."""

_PMEM = "/sys/devices/platform/e820_pmem/"
_PMEM_COMPARED = re.compile(r"/sys/devices/platform/e820_pmem/ndbus0/region0/dax0\.0/(dax0\.0|dax_region)(/|$)")
_MODULE_DIRECTORY = re.compile(r"/sys/module/[^/]+$")


def is_compared(path: str) -> bool:
    """Whether FORMAT.md wants a path compared."""
    if any(fnmatch.fnmatchcase(path, pattern) for pattern, _ in NOT_COMPARED):
        return False
    return not path.startswith(_PMEM) or bool(_PMEM_COMPARED.match(path))


def play(snapshot: Snapshot, recipe: Recipe | None, target: Target) -> Report:
    """Bring a freshly booted machine to where the snapshot was taken, and compare all paths."""
    report = Report(snapshot.name)
    if recipe is None:
        report.add("recipe", "no way to get there is known", Verdict(Kind.MISMATCH, "no recipe"))
        return report
    for operation in recipe.operations:
        _act(target, operation, report)
    for path, entry in snapshot.entries.items():
        report.add(
            path, entry.get("type", "absent"), _verdict(target, entry) if is_compared(path) else NOTHING_TO_COMPARE
        )
    for path in _extra(target, snapshot):
        report.add(path, "extra", Verdict(Kind.MISMATCH, "path that the kernel lacks"))
    return report


def _act(target: Target, operation: Operation, report: Report) -> None:
    """One step of a recipe. A refused write may be part of it; a command that cannot run is noted."""
    try:
        if operation["op"] == "write":
            target.write_file(
                operation["path"], operation["data"].encode("latin-1"), operation["flags"], operation["off"]
            )
        else:
            target.sh(operation["cmd"], None)
    except (NotSupportedError, NotRunError) as error:
        report.add("recipe", operation["cmd"], Verdict(Kind.MISMATCH, error.reason))
    except Exception as error:  # noqa: BLE001  a bug of the model is a finding, not the end of the report
        report.add("recipe", str(operation), Verdict(Kind.MISMATCH, f"exception {type(error).__name__}: {error}"))


def _verdict(target: Target, entry: dict[str, Any]) -> Verdict:
    try:
        return compared(_differences(target, entry))
    except OSError as error:
        return Verdict(Kind.MISMATCH, "path that we lack", (errno_name(error.errno),))
    except Exception as error:  # noqa: BLE001  see _act
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
    if not _MODULE_DIRECTORY.match(path):
        got["nlink"] = status.nlink
    differences = [line for key, value in got.items() for line in difference(key, entry[key], value)]
    if "target" in entry:
        differences += difference("target", entry["target"], target.readlink(path))
    if entry["type"] == "file" and not entry.get("volatile"):
        differences += _content(target, entry)
    return differences


def _content(target: Target, entry: dict[str, Any]) -> list[str]:
    path = entry["path"]
    expected: tuple[str, Any] | None = next(
        ((key, entry[key]) for key in ("open_errno", "read_errno", "content") if key in entry), None
    )
    if expected is None:
        return []
    got: tuple[str, Any]
    try:
        descriptor = target.open(path, 0)
    except OSError as error:
        got = ("open_errno", errno_name(error.errno))
    else:
        try:
            parts = []
            while part := target.read(descriptor, 65536):
                parts.append(part)
            data = b"".join(parts)
            hexadecimal = isinstance(expected[1], dict)
            got = ("content", {"hex": data.hex()} if hexadecimal else data.decode("utf-8", "surrogateescape"))
        except OSError as error:
            got = ("read_errno", errno_name(error.errno))
        finally:
            target.close(descriptor)
    if expected[0] == got[0] == "content" and isinstance(got[1], str):
        return difference("content", _compared_lines(path, expected[1]), _compared_lines(path, got[1]))
    return difference("content", expected, got)


def _compared_lines(path: str, text: str) -> list[str]:
    """What of a file's text is compared."""
    lines = text.split("\n")
    if path == "/proc/iomem":
        return [line for line in normalise("text", text, Context()).split("\n") if line]
    if path.endswith("/meminfo"):
        return [line for line in lines if re.search(r"\bMemTotal:|\bHugePages_", line)]
    if path == "/proc/devices":
        return [line for line in lines if line.endswith(" dax")]
    return lines


# Paths that we have and the kernel lacks --------------------------------------------------------------------------


def _extra(target: Target, snapshot: Snapshot) -> list[str]:
    wanted = snapshot.entries
    found: list[str] = []
    for root in ROOTS:
        found += _below(target, root)
    for module in MODULES:
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
    """A path and all below it, links not followed."""
    try:
        status = target.stat(top)
    except OSError:
        return []
    found = [top]
    if stat.S_ISDIR(status.mode):
        for name in sorted(target.ls(top)):
            found += _below(target, f"{top}/{name}")
    return found
