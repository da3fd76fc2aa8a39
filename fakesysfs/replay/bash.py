"""Recorded command lines, run by bash where the fake is at /sys, /dev and /proc (sandbox/view.py).

What a command writes reaches the model through the mount. modprobe and rmmod are the stand-ins of
`fakesysfs run`, which write to control/.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

from fakesysfs.replay import daxctl_versions
from fakesysfs.replay.recording import Operation
from fakesysfs.replay.target import BlockedError, NotRunError, ShellResult
from fakesysfs.sandbox import view

SELFTESTS = ("dax-kmem-hotplug.sh", "mem-on-off-test.sh")
"""The kernel's own tests that sessions run. The recordings do not contain them."""

_BASH = "/bin/bash"
_OTHER_USERS = frozenset({"setpriv", "su"})
NO_OTHER_USERS = "needs root: an ordinary user's namespaces have no other users"
CXL_NEEDS_DEBUGFS = "cxl 85 crashes here as on each machine without debugfs: it lists injectable errors"
PATIENCE_SECONDS = 120.0
"""A command line that runs longer is blocked."""

_NDCTL = """() {
    [ "$1" = create-namespace ] || return 0
    local mode='' name='' align=4096
    while shift && [ $# -gt 0 ]; do
        case $1 in
            -m) mode=$2 ;;
            -e) name=$2 ;;
            -a) align=$2 ;;
        esac
    done
    [ "$mode" != devdax ] || echo "$name align=$align" >"$FAKESYSFS_CONTROL/pmem/devdax"
}"""
"""A function of bash. A new devdax namespace is an event of the machine (FORMAT.md).

ndctl does nothing else here.
"""

_MODULE_COMMAND = r"(?:modprobe \w[\w-]*(?: \w+(?:=\w+)?)*|rmmod \w[\w-]*)"
_MODULE_COMMANDS = re.compile(rf"{_MODULE_COMMAND}(?:; {_MODULE_COMMAND})*")
_COMMAND_NAME = re.compile(r"(?:^|[;|&(!])\s*(?:(?:then|do|else|if|elif|while|until)\s+)*(?:\w+=\S*\s+)*([\w./-]+)")
_WRAPPED_NAME = re.compile(r"\b(?:time|env|timeout(?:\s+-\w+(?:\s+[A-Z]+)?)*\s+[\d.]+\w?)\s+(?:\w+=\S*\s+)*([\w./-]+)")


_MODULE_LOOP = re.compile(r"for (\w+) in (\w[\w -]*?) *; *do (modprobe|rmmod) \"?\$(?:\1|\{\1\})\"? *; *done")


def module_commands(command: str) -> list[list[str]] | None:
    """The words of each modprobe and rmmod in a command line, also in `for` loops. None if it runs anything else."""
    command = _MODULE_LOOP.sub(lambda loop: "; ".join(f"{loop[3]} {name}" for name in loop[2].split()), command)
    if not _MODULE_COMMANDS.fullmatch(command):
        return None
    return [part.split() for part in command.split("; ")]


def needs_shell(operations: list[Operation]) -> bool:
    """Whether a session runs commands that the model cannot do itself."""
    return any(operation["op"] == "sh" and module_commands(operation["cmd"]) is None for operation in operations)


def unquoted(command: str) -> str:
    """A command line without its quoted parts."""
    return re.sub(r"'[^']*'|\"[^\"]*\"", "", command)


def command_names(command: str) -> set[str]:
    """The commands that a command line runs, outside quotes."""
    plain = unquoted(command)
    return {*_COMMAND_NAME.findall(plain), *_WRAPPED_NAME.findall(plain)}


def parts(command: str) -> list[str]:
    """The commands of a line that `;` separates outside quotes. One that has compound commands is one part."""
    if re.search(r"\b(?:for|while|if|case|do|then)\b|[(){}&]", unquoted(command)):
        return [command]
    found = re.findall(r"(?:'[^']*'|\"[^\"]*\"|[^;'\"])+", command)
    return [part.strip() for part in found]


def with_marks(command: str) -> str:
    """A line that does the same, and writes a NUL byte to its standard output after each part but the last."""
    keep_status = r"{ _status=$?; printf '\0'; (exit $_status); }"
    return f"; {keep_status}; ".join(parts(command))


def has_other_users() -> bool:
    """Whether this user namespace has more than one user."""
    maps = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    return sum(map(int, maps[2::3])) > 1


def run(command: str, tool: str | None) -> ShellResult:
    """Run a command line. Raises NotRunError where a tool is missing, BlockedError when it does not end.

    `tool` is the recorded version of daxctl, such as `daxctl-85`; None means the installed one.

    bash is started by its path, in `/`. Python holds its lock while it starts a process, and the
    server of the fake may be a thread of this process: a path in the fake would deadlock.
    """
    names = command_names(command)
    for selftest in SELFTESTS:
        if selftest in names and daxctl_versions.which(selftest) is None:
            raise NotRunError(f"the kernel's selftest {selftest} is not installed", rest=True)
    daxctl_versions.require(names)
    if names & _OTHER_USERS and not has_other_users():
        raise NotRunError(NO_OTHER_USERS)
    found = daxctl_versions.find(tool) if "daxctl" in names else daxctl_versions.Found()
    folders = [found.folder, daxctl_versions.cxl_folder() if "cxl" in names else None]
    with subprocess.Popen(
        ["bash", "-c", command],
        executable=_BASH,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment([folder for folder in folders if folder is not None]),
        cwd="/",
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise BlockedError(f"does not end within {PATIENCE_SECONDS:g} seconds") from None
    if "cxl" in names and (process.returncode == -signal.SIGSEGV or b"Segmentation fault" in err):
        raise NotRunError(CXL_NEEDS_DEBUGFS)
    return ShellResult(process.returncode, _text(out), _text(err), found.stands_in)


def _environment(folders: list[Path]) -> dict[str, str]:
    path = ":".join([*map(str, folders), daxctl_versions.search_path()])
    outside = {"PATH": path, "HOME": "/", "LC_ALL": "C.UTF-8", "BASH_FUNC_ndctl%%": _NDCTL}
    return view.environment(outside)


def _text(output: bytes) -> str:
    return output.decode("utf-8", "surrogateescape")
