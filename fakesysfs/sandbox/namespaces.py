"""Which namespaces can be had, who is who in them, and what to say where they cannot be had.

Two ways, because an ordinary user cannot do what root should do. Both start in the launcher and end in its child, the
init, with the same set of namespaces around it.

    root              launcher: PID namespace. Init: mount namespace, a /proc of its own there, and only then the user
                      namespace with the rest in it: where a container covers parts of /proc, a user namespace gets no
                      other /proc, but root does. The launcher, still outside, may give the user namespace its users.
    ordinary user     launcher: user and PID namespace, with the caller as its root; the init makes the rest in it.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NamedTuple

from fakesysfs.fuse.mount import IN_A_CONTAINER, MountError
from fakesysfs.sandbox import linux

_INIT_USER_NAMESPACE = "0 0 4294967295"
_LIMITS = tuple(f"user.max_{kind}_namespaces" for kind in ("user", "mnt", "net", "pid"))


class Plan(NamedTuple):
    """What is done for this caller.

    `as_root`: the first way. `pid`: with a PID namespace. `network`: with a network namespace.
    """

    as_root: bool
    pid: bool
    network: bool


def plan(*, network: bool) -> Plan:
    """What is possible for this process, as far as that can be known beforehand."""
    needed = 1 << linux.CAP_SYS_ADMIN | 1 << linux.CAP_SETUID | 1 << linux.CAP_SETGID
    as_root = os.geteuid() == 0 and _capabilities() & needed == needed
    initial = as_root and Path("/proc/self/uid_map").read_text(encoding="ascii").split() == _INIT_USER_NAMESPACE.split()
    return Plan(as_root, initial or _all_of_proc_is_visible(), network)


def _capabilities() -> int:
    for line in Path("/proc/self/status").read_bytes().split(b"\n"):
        if line.startswith(b"CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _all_of_proc_is_visible() -> bool:
    """Whether a user namespace may mount a proc of its own (fs/namespace.c, mnt_already_visible).

    Only where nothing lies over a part of the present one but over a directory made for that.
    """
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        point = line.split(" ")[4]
        if point.startswith("/proc/") and point != "/proc/sys/fs/binfmt_misc":
            return False
    return True


def enter_as_launcher(chosen: Plan) -> None:
    """The launcher's part, before it forks the init. Raises MountError."""
    flags = linux.CLONE_NEWPID if chosen.pid else 0
    if not chosen.as_root:
        flags |= linux.CLONE_NEWUSER
    uid, gid = os.geteuid(), os.getegid()
    try:
        linux.unshare(flags)
        if not chosen.as_root:
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"0 {uid} 1")
            _write("/proc/self/gid_map", f"0 {gid} 1")
    except OSError as error:
        raise refused(error, chosen) from None


def enter_as_init(chosen: Plan) -> None:
    """The init's part. In the first way `give_users` of the launcher must follow. Raises MountError."""
    flags = linux.CLONE_NEWNS | (linux.CLONE_NEWNET if chosen.network else 0)
    try:
        if chosen.as_root:
            linux.unshare(linux.CLONE_NEWNS)
            _keep_mounts_here()
            _mount_proc(chosen)
            linux.unshare(linux.CLONE_NEWUSER | flags)
        else:
            linux.unshare(flags)
            _keep_mounts_here()
            _mount_proc(chosen)
    except OSError as error:
        raise refused(error, chosen) from None


def _keep_mounts_here() -> None:
    """Mounts of the host still arrive, so that what the host unmounts is not kept busy; ours do not get out."""
    linux.mount("none", "/", "", linux.MS_REC | linux.MS_SLAVE)


def _mount_proc(chosen: Plan) -> None:
    if chosen.pid:
        linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)


def give_users(pid: int) -> None:
    """In the first way: the user namespace of process `pid` gets all users of this one, under the same numbers."""
    for name in ("uid_map", "gid_map"):
        ours = Path(f"/proc/self/{name}").read_text(encoding="ascii").splitlines()
        ranges = [line.split() for line in ours]
        same = "".join(f"{first} {first} {count}\n" for first, _, count in ranges)
        _write(f"/proc/{pid}/{name}", same)


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="ascii")
    except OSError as error:
        # open(2) names the file in its errors, write(2) does not.
        raise OSError(error.errno, error.strerror, path) from None


def refused(error: OSError, chosen: Plan) -> MountError:
    """One sentence: what was refused and how to get it."""
    where = f" ({error.filename})" if isinstance(error.filename, str) else ""
    remedy = _remedy(error, chosen)
    return MountError(f"private namespaces cannot be made here: {error.strerror}{where}; {remedy}", 2)


def _remedy(error: OSError, chosen: Plan) -> str:
    if not chosen.as_root:
        for setting, forbids in (
            ("kernel.apparmor_restrict_unprivileged_userns", "1"),
            ("kernel.unprivileged_userns_clone", "0"),
        ):
            if _sysctl(setting) == forbids:
                allows = 1 - int(forbids)
                return f"{setting} keeps them from ordinary users: be root, or `sudo sysctl {setting}={allows}`"
    if error.errno == errno.ENOSPC:
        for setting in _LIMITS:
            if _sysctl(setting) == "0":
                return f"{setting} is 0, which allows none: `sudo sysctl {setting}=10000`"
        return f"there are too many already, here or in a namespace above: see {', '.join(_LIMITS)} of sysctl(8)"
    if error.errno in {errno.EINVAL, errno.ENOSYS}:
        return "the kernel was built without them (CONFIG_USER_NS, CONFIG_PID_NS, CONFIG_NET_NS)"
    return f"{IN_A_CONTAINER}, or `--privileged`"


def _sysctl(name: str) -> str:
    try:
        return Path("/proc/sys", name.replace(".", "/")).read_text(encoding="ascii").strip()
    except OSError:
        return ""
