"""Which of the recorded tools are here, and where.

Sessions were recorded with two versions of daxctl. The one of this system is in PATH; others lie in a cache folder
that scripts/fetch_daxctl.sh fills, unpacked and never installed. Where a version is missing the
nearest one stands in for it: the rest of the session needs what it does to the machine. It is
compared, except for the stated differences of the two versions (normalise.VERSION_DIFFERENCES).
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

TOOLS = frozenset({"chmem", "daxctl", "lsmem", "numactl", "numastat", "setpriv"})
"""Commands that a system may lack."""

_CHANGES = frozenset({"chmem", "daxctl", "setpriv"})
"""Those whose effects the rest of a session needs."""


Version = tuple[int, ...]
"""76.1 is (76, 1)."""


def version_of(tool: str) -> Version:
    """The version in a tool's name, e.g. `daxctl-76.1`; a suffix such as `+git` says nothing."""
    found = re.match(r"[\d.]*\d", tool.partition("-")[2])
    return tuple(map(int, found[0].split("."))) if found else ()


class Found(NamedTuple):
    """Where the wanted tool is: a folder to be put first in PATH, None if it is there already."""

    folder: Path | None = None
    stands_in: str | None = None
    """The version that is run instead of the one that is wanted and missing."""


def search_path() -> str:
    """PATH, with the folders of tools that only root is thought to use."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def which(name: str) -> str | None:
    """Where a command is."""
    return shutil.which(name, path=search_path())


def cache() -> Path:
    """Where fetched tools lie, one folder for each version."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111  no error without a home
    return Path(home, "fakesysfs")


@functools.cache
def installed() -> str | None:
    """The installed daxctl as sessions name it, `daxctl-76.1`; None without one."""
    path = which("daxctl")
    if path is None:
        return None
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return f"daxctl-{done.stdout.strip()}"


def find(tool: str | None) -> Found:
    """The tool that a session names, e.g. `daxctl-85`; None is the installed one. Raises ToolAbsentError."""
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


def _nearest(tool: str, others: Iterable[str]) -> str:
    """The next newer version; the newest one where all are older."""
    newest_first = sorted(others, key=version_of, reverse=True)
    newer = [name for name in newest_first if version_of(name) > version_of(tool)]
    return newer[-1] if newer else newest_first[0]


def require(names: set[str]) -> None:
    """Make sure that the commands of a command line are here. Raises ToolAbsentError."""
    for name in sorted(names & TOOLS):
        if name != "daxctl" and which(name) is None:
            raise ToolAbsentError(name, rest=name in _CHANGES)
