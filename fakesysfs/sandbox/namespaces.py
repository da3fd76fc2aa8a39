"""Which namespaces can be had, who is who in them, and what to say where they cannot be had.

Two ways, because an ordinary user cannot do what root should do. Both start in the launcher and end in its child, the
init, with the same set of namespaces around it.

    root              launcher: PID namespace. Init: mount namespace, a /proc of its own there, and only then the user
                      namespace with another mount namespace: where a container covers parts of /proc, a user
                      namespace gets no other /proc, but root does. The launcher, still outside, may give the user
                      namespace its users.
    ordinary user     launcher: user and PID namespace, with the caller as its root; the init makes the rest in it.

That is the server's user namespace. The command gets another one below it (`CommandNamespaces`), with the network
namespace and a mount namespace that belong to it:

    - A mount namespace is a copy of that of its creator. If it belongs to another user namespace, the host's kernel
      locks all mounts in the copy (mount_namespaces(7)): the command cannot take away what covers the host's /sys,
      /dev and /proc, and cannot make what is read-only writable.
    - For the same reason it gets no other sysfs and no other proc: the kernel refuses a new one where those that are
      there are covered in part.
    - It has no rights over the server, so /proc shows it neither that one's files nor its namespaces.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import NamedTuple, NoReturn

from fakesysfs.fuse import limits
from fakesysfs.fuse.mount import IN_A_CONTAINER, MountError
from fakesysfs.fuse.mount_table import mounts
from fakesysfs.sandbox import linux

_LONGEST_NUMBER = 16
_LIMITS = tuple(f"user.max_{kind}_namespaces" for kind in ("user", "mnt", "pid", "net"))


class Plan(NamedTuple):
    """What is done for this caller.

    `as_root`: the first way. `pid`: with a PID namespace. `network`: with a network namespace.
    """

    as_root: bool
    pid: bool
    network: bool


def plan(*, network: bool) -> Plan:
    """What is possible for this process, as far as that can be known beforehand.

    Raises MountError where nothing is.
    """
    if _in_a_chroot():
        why = "namespaces cannot be made in a chroot (unshare(2), EPERM): run it outside, or enter that directory with"
        raise MountError(f"{why} `systemd-nspawn -D` or a container engine", 2)
    for setting in _LIMITS if network else _LIMITS[:-1]:
        if _sysctl(setting) == "0":
            why = f"{setting} is 0, which allows none: `sudo sysctl {setting}=10000`"
            raise MountError(f"private namespaces cannot be made here: {why}", 2)
    needed = 1 << linux.CAP_SYS_ADMIN | 1 << linux.CAP_SETUID | 1 << linux.CAP_SETGID
    as_root = os.geteuid() == 0 and _capabilities() & needed == needed
    # Not by the users that it has: those of root's run are the same.
    initial = as_root and os.stat("/proc/self/ns/user").st_ino == linux.FIRST_USER_NAMESPACE  # noqa: PTH116
    return Plan(as_root, initial or _all_of_proc_is_visible(), network)


def _capabilities() -> int:
    for line in Path("/proc/self/status").read_bytes().split(b"\n"):
        if line.startswith(b"CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _mount_points(process: str) -> dict[str, str]:
    """The mountpoints that a process sees, by the numbers of their mounts."""
    try:
        return {mount.id: mount.point for mount in mounts(process)}
    except OSError:
        if process != "self":
            return {}  # this user may not look at it
        raise MountError("/proc is missing: mount it with `mount -t proc proc /proc`", 2) from None


def _in_a_chroot() -> bool:
    """Whether the root of this process is not that of its mount namespace.

    Then it is no mount, or one that process 1 sees elsewhere.
    """
    roots = {number for number, point in _mount_points("self").items() if point == "/"}
    outside = _mount_points("1")
    return not roots or any(outside.get(number, "/") != "/" for number in roots)


def _all_of_proc_is_visible() -> bool:
    """Whether a user namespace may mount a proc of its own (fs/namespace.c, mnt_already_visible).

    Only where nothing lies over a part of the present one but over a directory made for that.
    """
    for point in _mount_points("self").values():
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
    try:
        linux.unshare(linux.CLONE_NEWNS)
        _keep_mounts_here()
        _mount_proc(chosen)
        if chosen.as_root:
            linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
    except OSError as error:
        raise refused(error, chosen) from None


def _keep_mounts_here() -> None:
    """Mounts of the host still arrive, so that what the host unmounts is not kept busy; ours do not get out."""
    linux.mount("none", "/", "", linux.MS_REC | linux.MS_SLAVE)


def _mount_proc(chosen: Plan) -> None:
    if chosen.pid:
        linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)


class CommandNamespaces:
    """The user namespace of the command, and the network namespace that belongs to it.

    The init makes them and enters the network namespace at once. It enters the user namespace when the view is
    complete.
    """

    def __init__(self, chosen: Plan) -> None:
        """Make them; a process of its own does, which has ended on return. Raises MountError."""
        self._user = -1
        ready, its_ready = os.pipe()
        its_leave, leave = os.pipe()
        flags = linux.CLONE_NEWUSER | (linux.CLONE_NEWNET if chosen.network else 0)
        maker = os.fork()
        if not maker:
            os.close(leave)
            _make_and_wait(flags, its_ready, its_leave)
        os.close(its_ready)
        os.close(its_leave)
        try:
            number = int(os.read(ready, _LONGEST_NUMBER) or errno.ECHILD)
            if number:
                raise OSError(number, os.strerror(number), "unshare")
            give_users(maker)
            self._user = os.open(f"/proc/{maker}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            if chosen.network:
                network = os.open(f"/proc/{maker}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
                linux.setns(network, linux.CLONE_NEWNET)
                os.close(network)
        except OSError as error:
            raise refused(error, chosen) from None
        finally:
            os.close(ready)
            os.close(leave)
            os.waitpid(maker, 0)

    def enter(self) -> None:
        """Become root of the user namespace, in a copy of the present mount namespace that belongs to it."""
        linux.setns(self._user, linux.CLONE_NEWUSER)
        os.close(self._user)
        linux.unshare(linux.CLONE_NEWNS)


def forbid_cgroup_namespaces() -> None:
    """For this process's user namespace, which must not be the host's, and all below it.

    In a cgroup namespace of its own the command could mount the cgroups of the host, for root to write to. Where
    /proc/sys is read-only, as in many containers, they stay allowed.
    """
    with contextlib.suppress(OSError):
        _write("/proc/sys/user/max_cgroup_namespaces", "0")


def shows_the_host(*, network: bool) -> bool:
    """Whether this process could mount a new sysfs or proc, and so reach the host's.

    The kernel allows that where one of the namespace is not covered (fs/namespace.c, mnt_already_visible), and that one
    may be where nobody can cover it: below another mount, or below the root of a chroot. So it is tried, in namespaces
    that end with a child. `network`: this process's network namespace belongs to its user namespace.
    """
    child = os.fork()
    if not child:
        status = 0
        with contextlib.suppress(OSError):
            linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWPID | (0 if network else linux.CLONE_NEWNET))
            # A proc shows the PID namespace of a process that is in it.
            grandchild = os.fork()
            if not grandchild:
                os._exit(_can_be_mounted("sysfs") or _can_be_mounted("proc"))
            status = os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1])
        os._exit(status != 0)
    return os.waitpid(child, 0)[1] != 0


def _can_be_mounted(kind: str) -> bool:
    try:
        linux.mount(kind, "/sys", kind, linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC | linux.MS_RDONLY)
    except OSError:
        return False
    return True


def _make_and_wait(flags: int, ready: int, leave: int) -> NoReturn:
    """Make the namespaces of `flags`, say so or why not (an errno), and hold them until `leave` ends."""
    try:
        number = 0
        try:
            linux.unshare(flags)
        except OSError as error:
            number = error.errno or errno.EIO
        os.write(ready, str(number).encode())
        os.read(leave, 1)
    finally:
        os._exit(0)


def give_users(pid: int) -> None:
    """The user namespace of process `pid`, a child of this one, gets all users of this one, by the same numbers."""
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
    limit = limits.reached(error)
    if limit is not None:
        return MountError(limit)
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
        return f"there are too many already, here or in a namespace above: see {', '.join(_LIMITS)} of sysctl(8)"
    if error.errno in {errno.EINVAL, errno.ENOSYS}:
        return "the kernel was built without them (CONFIG_USER_NS, CONFIG_PID_NS, CONFIG_NET_NS)"
    return f"they cannot be made in a chroot, and {IN_A_CONTAINER}, or `--privileged`"


def _sysctl(name: str) -> str:
    try:
        return Path("/proc/sys", name.replace(".", "/")).read_text(encoding="ascii").strip()
    except OSError:
        return ""
