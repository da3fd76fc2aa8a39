"""Which of the recorded tools are here, and where.

Sessions were recorded with two versions of daxctl. The one of this system is in PATH; others lie in a cache folder
that scripts/fetch_daxctl.sh fills, unpacked and never installed. Where a version is missing another one takes its
place: what it does to the machine is needed by the rest of the session, and it is compared but for what the two are
known to differ in.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from fakesysfs.testing.replay.target import ToolAbsentError

TOOLS = frozenset({"chmem", "daxctl", "lsmem", "numactl", "numastat", "setpriv"})
"""Commands that a system may lack."""

_CHANGES = frozenset({"chmem", "daxctl", "setpriv"})
"""Those whose effects the rest of a session needs."""


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
    fetched = {folder.name: folder / "bin" for folder in cache().glob("daxctl-*") if (folder / "bin/daxctl").is_file()}
    if tool in fetched:
        return Found(fetched[tool])
    if here is not None:
        return Found(stands_in=here)
    if fetched:
        name, folder = max(fetched.items())
        return Found(folder, name)
    raise ToolAbsentError(str(tool), rest=True)


def require(names: set[str]) -> None:
    """Make sure that the commands of a command line are here. Raises ToolAbsentError."""
    for name in sorted(names & TOOLS):
        if name != "daxctl" and which(name) is None:
            raise ToolAbsentError(name, rest=name in _CHANGES)
