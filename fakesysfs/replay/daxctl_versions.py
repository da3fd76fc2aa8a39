"""The tools that sessions run: which are installed, and which daxctl runs for a recorded version.

Sessions were recorded with two versions of daxctl and one of cxl. This system's version is in PATH.
Other versions are in a cache folder that scripts/fetch_tools.sh fills; they are unpacked there, not
installed.

Where a version of daxctl is missing, the nearest one stands in: the rest of the session needs its
effects. It is compared, except for the known differences of the versions
(normalise.VERSION_DIFFERENCES). No older cxl stands in.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from fakesysfs.replay.target import ToolAbsentError

TOOLS = frozenset({"chmem", "cxl", "daxctl", "lsmem", "numactl", "numastat", "setpriv"})
"""Tools that a system may lack."""

_CHANGES = frozenset({"chmem", "cxl", "daxctl", "setpriv"})
"""Tools whose effects the rest of a session needs."""


Version = tuple[int, ...]
"""76.1 is (76, 1)."""


def version_of(tool: str) -> Version:
    """The version in a tool's name, e.g. `daxctl-76.1`. A suffix such as `+git` is ignored."""
    found = re.match(r"[\d.]*\d", tool.partition("-")[2])
    return tuple(map(int, found[0].split("."))) if found else ()


class Found(NamedTuple):
    """Where to run a tool from.

    `folder` goes first in PATH; None means that PATH has the tool already.
    """

    folder: Path | None = None
    stands_in: str | None = None
    """The version that runs instead of the recorded one, which is missing."""


def search_path() -> str:
    """PATH, and the folders of the tools for root."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def which(name: str) -> str | None:
    """The path of a command, or None."""
    return shutil.which(name, path=search_path())


def cache() -> Path:
    """The folder of fetched tools. It has one folder for each version."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111  no error without a home
    return Path(home, "fakesysfs")


@functools.cache
def installed() -> str | None:
    """The installed daxctl as sessions name it, e.g. `daxctl-76.1`, or None."""
    path = which("daxctl")
    if path is None:
        return None
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return f"daxctl-{done.stdout.strip()}"


def find(tool: str | None) -> Found:
    """Find the daxctl that a session names.

    `tool` is a name such as `daxctl-85`; None means the installed one. Raises ToolAbsentError.
    """
    here = installed()
    if tool is None or tool == here:
        return Found()
    there: dict[str, Path | None] = {
        folder.name: folder / "bin" for folder in cache().glob("daxctl-*") if (folder / "bin/daxctl").is_file()
    }
    if tool in there:
        return Found(there[tool])
    if here is not None:
        there.setdefault(here, None)
    if not there:
        raise ToolAbsentError(str(tool), rest=True)
    name = _nearest(tool, there)
    return Found(there[name], name)


CXL_VERSION: Version = (85,)
"""The version of cxl that sessions were recorded with."""


def has_recorded_cxl() -> bool:
    """Whether the recorded version of cxl, or a newer one, is installed."""
    path = which("cxl")
    if path is None:
        return False
    done = subprocess.run([path, "version"], capture_output=True, text=True, check=False)
    return version_of(f"cxl-{done.stdout.strip()}") >= CXL_VERSION


@functools.cache
def cxl_folder() -> Path | None:
    """The folder of the recorded version of cxl, or of the nearest newer one, in the cache.

    None where the installed one will do, and where the cache has neither.
    """
    if has_recorded_cxl():
        return None
    fetched = sorted(cache().glob("cxl-*/bin/cxl"), key=lambda program: version_of(program.parents[1].name))
    return next((path.parent for path in fetched if version_of(path.parents[1].name) >= CXL_VERSION), None)


def _nearest(tool: str, others: Iterable[str]) -> str:
    """The next newer version, or the newest one if all are older."""
    newest_first = sorted(others, key=version_of, reverse=True)
    newer = [name for name in newest_first if version_of(name) > version_of(tool)]
    return newer[-1] if newer else newest_first[0]


def require(names: set[str]) -> None:
    """Make sure that the commands of a command line are installed. Raises ToolAbsentError.

    No older cxl stands in for the recorded one: 76.1 refuses `create-region -t ram`.
    """
    for name in sorted(names & TOOLS):
        if name == "cxl":
            if not (has_recorded_cxl() or cxl_folder()):
                raise ToolAbsentError(f"cxl-{'.'.join(map(str, CXL_VERSION))}", rest=True)
        elif name != "daxctl" and which(name) is None:
            raise ToolAbsentError(name, rest=name in _CHANGES)
