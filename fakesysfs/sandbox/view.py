"""Mounts what the command sees at /sys, /dev and /proc.

All private files are in one tmpfs. It covers /sys in the outer mount namespace and moves to /dev/.fakesysfs in the
inner one:

    root/   the sysroot: what `fakesysfs mount` shows
    bin/    stand-ins for modprobe, modinfo, rmmod, lsmod, dmesg and mount, first in PATH
    modprobe.d/  makes libkmod, which tools link, start our modprobe for the fake's modules (modprobe.d(5), `install`)

/dev is the sysroot's; the fake's nodes come and go in it. The host's null, zero, ... are mounted over placeholders.

Which parts of the host's kernel the command reaches
    /sys, /dev     Only the nodes null, zero, ... The fake's /sys and /dev cover the host's, and the covers are locked
                   (`namespaces.py`). Device nodes of other file systems cannot be opened.
    /proc          The files of processes are as usual. The rest is read-only (`_guard_proc`): /proc compares user
                   numbers, so it would let root of a user namespace write as the host's root.
    elsewhere      Each sysfs, proc or similar that the host has mounted in other places (say for a chroot) is covered.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from fakesysfs.fuse.mount_table import mounts
from fakesysfs.sandbox import linux, terminals
from fakesysfs.sandbox.known import HOME, VISIBLE

_SCRATCH = "/sys"
"""Where the tmpfs is at first. The fake covers /sys later, so the tmpfs hides nothing."""

_CXL_DEBUGFS = "/sys/kernel/debug/cxl"

MOUNTPOINT = f"{_SCRATCH}/root"
"""Where the server mounts, in the outer mount namespace."""

_SHIMS = Path(__file__).with_name("shims")
_KMOD_NAMES = ("modprobe", "modinfo", "rmmod", "lsmod", "insmod", "depmod")
_NODES = ("null", "zero", "full", "random", "urandom", "tty", "fuse")
_DIRECTORIES = ("shm", "mqueue")
_MODPROBE_CONFIGURATION = ("/lib/modprobe.d", "/usr/local/lib/modprobe.d", "/etc/modprobe.d", "/run/modprobe.d")
"""Where libkmod looks. The first that exists is covered: rather a distribution's than an administrator's."""

OF_THE_KERNEL = frozenset(
    {"sysfs", "proc", "devtmpfs", "debugfs", "tracefs", "configfs", "efivarfs", "pstore", "bpf", "binfmt_misc"}
    | {"securityfs", "selinuxfs", "smackfs", "resctrl", "cgroup", "cgroup2", "cpuset"}
    | {"fusectl", "nfsd", "rpc_pipefs", "xenfs"}
)
"""File systems that show the host's kernel and change it."""

_OF_A_NETWORK = ("core", "ipv4", "ipv6", "unix")
"""Folders of /proc/sys/net with settings of a network namespace; netfilter has one that is the host's."""

_HARMLESS_IN_PROC = ("pressure",)
"""A write there affects only the writer: it asks for notifications."""


def prepare() -> None:
    """In the outer mount namespace, before the server starts. Raises OSError."""
    linux.mount("tmpfs", _SCRATCH, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
    for name in ("root", "bin", "modprobe.d"):
        os.mkdir(f"{_SCRATCH}/{name}")  # noqa: PTH102  the launcher does without pathlib where that is as clear
    _make_shims(Path(_SCRATCH, "bin"))


def use_mount(point: str) -> None:
    """Show the mount at `point`, made outside, where our own server would have mounted. Raises OSError."""
    linux.mount(point, MOUNTPOINT, "", linux.MS_BIND)


def show(*, private_network: bool) -> set[int]:
    """In the inner mount namespace, once the server answers. Raises OSError.

    Returns the descriptors that must be kept open for as long as the view is there.
    """
    _cover_what_shows_the_kernel()
    _forbid_devices()
    kept = _show_dev()
    linux.mount(_SCRATCH, HOME, "", linux.MS_MOVE)
    linux.mount(f"{VISIBLE}/sys", "/sys", "", linux.MS_BIND)
    linux.mount(f"{VISIBLE}/control/dev_kmsg", "/dev/kmsg", "", linux.MS_BIND)
    _guard_proc(private_network=private_network)
    for path in _files(f"{VISIBLE}/proc"):
        # The host's kernel may have been built without the file.
        with contextlib.suppress(FileNotFoundError):
            linux.mount(path, path.removeprefix(f"{VISIBLE}"), "", linux.MS_BIND)
    _list_debugfs()
    _configure_libkmod()
    kmod = shutil.which("kmod")
    if kmod is not None:
        # modprobe, modinfo, ... are links to it; programs also call them by absolute paths.
        linux.mount(f"{HOME}/bin/kmod", kmod, "", linux.MS_BIND)
    return kept


def _list_debugfs() -> None:
    """Have /proc/mounts list the debugfs of a machine with CXL hardware, as a mount of its own.

    cxl 85 looks for it there, and crashes where there is none. /proc/self/mounts stays the kernel's own.
    """
    if not os.path.isdir(_CXL_DEBUGFS):  # noqa: PTH112
        return
    table = Path(HOME, "mounts")
    # Paths may be any bytes.
    table.write_bytes(Path("/proc/self/mounts").read_bytes() + b"debugfs /sys/kernel/debug debugfs rw 0 0\n")
    # Kernels before 5.2 and old filters of containers do not know the calls: `cxl list -v` crashes there.
    with contextlib.suppress(OSError):
        linux.bind_over_link(str(table), "/proc/mounts")


def _show_dev() -> set[int]:
    """Mount what of the host's /dev is wanted into the fake's, and that one on /dev."""
    dev = f"{MOUNTPOINT}/dev"
    for name in _NODES:
        with contextlib.suppress(FileNotFoundError):
            linux.mount(f"/dev/{name}", f"{dev}/{name}", "", linux.MS_BIND)
            _permit_devices(f"{dev}/{name}")
    kept = terminals.mount(f"{dev}/pts")
    _permit_devices(f"{dev}/pts")
    for name in _DIRECTORIES:
        try:
            linux.mount(f"/dev/{name}", f"{dev}/{name}", "", linux.MS_BIND | linux.MS_REC)
        except FileNotFoundError:
            linux.mount("tmpfs", f"{dev}/{name}", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777")
    linux.mount(dev, "/dev", "", linux.MS_BIND | linux.MS_REC)
    return kept


def _cover_what_shows_the_kernel() -> None:
    for mount in mounts():
        if mount.type not in OF_THE_KERNEL or _has_its_own_cover(mount.point, mount.type):
            continue
        try:
            mode = os.stat(mount.point).st_mode  # noqa: PTH116
        except OSError:
            continue  # another mount lies over it, or this user cannot get there: see `namespaces.shows_the_host`
        if stat.S_ISDIR(mode):
            flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC | linux.MS_RDONLY
            linux.mount("tmpfs", mount.point, "tmpfs", flags, "mode=755,nr_inodes=1")
        else:  # the mount of a single file
            linux.mount("/dev/null", mount.point, "", linux.MS_BIND)


def _has_its_own_cover(point: str, kind: str) -> bool:
    return f"{point}/".startswith(("/sys/", "/dev/")) or (kind == "proc" and f"{point}/".startswith("/proc/"))


def _forbid_devices() -> None:
    """A node among the host's files leads to a device of the host as one in /dev does."""
    # Kernels before 5.12 and old filters of containers do not know the call.
    with contextlib.suppress(OSError):
        linux.set_mount_attributes("/", set_=linux.MOUNT_ATTR_NODEV)


def _permit_devices(point: str) -> None:
    with contextlib.suppress(OSError):
        linux.set_mount_attributes(point, clear=linux.MOUNT_ATTR_NODEV)


def _guard_proc(*, private_network: bool) -> None:
    """Make read-only what does not belong to a process.

    Except what of /proc/sys/net belongs to the network namespace of its reader, where that is the run's.
    """
    with os.scandir("/proc") as entries:
        paths = [entry.path for entry in entries if _is_to_be_guarded(entry)]
    for path in paths:
        _bind(path, linux.MS_RDONLY)
    for name in _OF_A_NETWORK if private_network else ():
        # In a run within a run all of /proc/sys stays read-only: the outer one's is locked, and each network namespace
        # has directory entries of its own below net, which the outer one's mounts do not cover.
        with contextlib.suppress(FileNotFoundError, PermissionError):
            _bind(f"/proc/sys/net/{name}", 0)


def _is_to_be_guarded(entry: os.DirEntry[str]) -> bool:
    if entry.name.isdecimal() or entry.is_symlink() or entry.name in _HARMLESS_IN_PROC:
        return False
    mode = entry.stat().st_mode
    return stat.S_ISDIR(mode) or bool(mode & 0o222)


def _bind(path: str, flags: int) -> None:
    """Mount what is at `path` on itself, with these flags and those that a proc has."""
    flags |= linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount(path, path, "", linux.MS_BIND | linux.MS_REC)
    linux.mount("none", path, "", linux.MS_BIND | linux.MS_REMOUNT | flags)


def _configure_libkmod() -> None:
    """A tool that loads a module by itself asks libkmod, which would look for a file of the real kernel's."""
    for directory in _MODPROBE_CONFIGURATION:
        if os.path.isdir(directory):  # noqa: PTH112
            known = Path(f"{VISIBLE}/control/modules/known").read_text(encoding="ascii")
            names = [line.split()[0] for line in known.splitlines()]
            lines = [f"install {name} {HOME}/bin/modprobe --ignore-install {name} $CMDLINE_OPTS\n" for name in names]
            Path(f"{HOME}/modprobe.d/fakesysfs.conf").write_text("".join(lines), encoding="ascii")
            linux.mount(f"{HOME}/modprobe.d", directory, "", linux.MS_BIND)
            return


def environment(outside: Mapping[str, str]) -> dict[str, str]:
    """The command's environment."""
    path = outside.get("PATH", os.defpath)
    return {
        **outside,
        "PATH": f"{HOME}/bin:{path}",
        "FAKESYSFS_CONTROL": f"{VISIBLE}/control",
        # sd-device takes a directory for a device only if statfs(2) says that it is in sysfs, which FUSE cannot say.
        "SYSTEMD_DEVICE_VERIFY_SYSFS": "0",
    }


def _make_shims(directory: Path) -> None:
    for shim in ("kmod", "dmesg", "mount"):
        made = directory / shim
        made.write_bytes((_SHIMS / shim).read_bytes())
        made.chmod(0o755)
    for name in _KMOD_NAMES:
        (directory / name).symlink_to("kmod")


def _files(directory: str) -> Iterator[str]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if stat.S_ISDIR(entry.stat(follow_symlinks=False).st_mode):
                yield from _files(entry.path)
            else:
                yield entry.path
