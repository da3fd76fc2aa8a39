"""Puts together what the command sees at /sys, /dev and /proc.

Everything private lies in one tmpfs, which covers /sys in the outer mount namespace and is moved to /dev/.fakesysfs in
the inner one:

    root/   the sysroot: what `fakesysfs mount` shows
    dev/    the real /dev
    ptmx    a link, to which /dev/ptmx leads
    bin/    stand-ins for modprobe, modinfo, rmmod, lsmod, dmesg and mount, first in PATH
    modprobe.d/  has libkmod, in whatever tool, start our modprobe for the fake's modules (modprobe.d(5), `install`)

/dev is the sysroot's, in which the fake's nodes come and go; the usual ones are mounted over their placeholders there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from fakesysfs.sandbox import linux

_SCRATCH = "/sys"
"""Where the tmpfs is at first: covered by the fake later on, so nothing is hidden by it."""

_HOME = "/dev/.fakesysfs"

MOUNTPOINT = f"{_SCRATCH}/root"
"""Where the server mounts, in the outer mount namespace."""

_SHIMS = Path(__file__).with_name("shims")
_KMOD_NAMES = ("modprobe", "modinfo", "rmmod", "lsmod", "insmod", "depmod")
_NODES = ("null", "zero", "full", "random", "urandom", "tty", "fuse")
_DIRECTORIES = ("pts", "shm", "mqueue")
_MODPROBE_CONFIGURATION = ("/lib/modprobe.d", "/usr/local/lib/modprobe.d", "/etc/modprobe.d", "/run/modprobe.d")
"""Where libkmod looks; one is covered, a distribution's rather than what an administrator wrote."""


def prepare() -> None:
    """In the outer mount namespace, before the server starts. Raises OSError."""
    linux.mount("tmpfs", _SCRATCH, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
    for name in ("root", "dev", "bin", "modprobe.d"):
        os.mkdir(f"{_SCRATCH}/{name}")  # noqa: PTH102  the launcher does without pathlib where that is as clear
    linux.mount("/dev", f"{_SCRATCH}/dev", "", linux.MS_BIND | linux.MS_REC)
    _make_shims(Path(_SCRATCH, "bin"))


def use_mount(point: str) -> None:
    """Show the mount at `point`, made outside, where our own server would have mounted. Raises OSError."""
    linux.mount(point, MOUNTPOINT, "", linux.MS_BIND)


def show() -> None:
    """In the inner mount namespace, once the server answers. Raises OSError."""
    linux.mount(f"{MOUNTPOINT}/dev", "/dev", "", linux.MS_BIND)
    linux.mount(_SCRATCH, _HOME, "", linux.MS_MOVE)
    linux.mount(f"{_HOME}/root/sys", "/sys", "", linux.MS_BIND)
    for name in _NODES:
        with contextlib.suppress(FileNotFoundError):
            linux.mount(f"{_HOME}/dev/{name}", f"/dev/{name}", "", linux.MS_BIND)
    for name in _DIRECTORIES:
        try:
            linux.mount(f"{_HOME}/dev/{name}", f"/dev/{name}", "", linux.MS_BIND | linux.MS_REC)
        except FileNotFoundError:
            linux.mount("tmpfs", f"/dev/{name}", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777")
    # A pseudo-terminal is found beside its ptmx (fs/namei.c, path_pts), so a mount of the single node does not work.
    # The one in pts/ may be closed to all but root; the other one's terminals have longer names.
    ptmx = "/dev/pts/ptmx"
    os.symlink(ptmx if os.access(ptmx, os.R_OK | os.W_OK) else f"{_HOME}/dev/ptmx", f"{_HOME}/ptmx")  # noqa: PTH211
    linux.mount(f"{_HOME}/root/control/dev_kmsg", "/dev/kmsg", "", linux.MS_BIND)
    for path in _files(f"{_HOME}/root/proc"):
        # The host's kernel may have been built without the file.
        with contextlib.suppress(FileNotFoundError):
            linux.mount(path, path.removeprefix(f"{_HOME}/root"), "", linux.MS_BIND)
    _configure_libkmod()
    kmod = shutil.which("kmod")
    if kmod is not None:
        # modprobe and the like are links to it, which are also called by their absolute paths.
        linux.mount(f"{_HOME}/bin/kmod", kmod, "", linux.MS_BIND)


def _configure_libkmod() -> None:
    """A tool that loads a module by itself asks libkmod, which would look for a file of the real kernel's."""
    for directory in _MODPROBE_CONFIGURATION:
        if os.path.isdir(directory):  # noqa: PTH112
            known = Path(f"{_HOME}/root/control/modules/known").read_text(encoding="ascii")
            names = [line.split()[0] for line in known.splitlines()]
            lines = [f"install {name} {_HOME}/bin/modprobe --ignore-install {name} $CMDLINE_OPTS\n" for name in names]
            Path(f"{_HOME}/modprobe.d/fakesysfs.conf").write_text("".join(lines), encoding="ascii")
            linux.mount(f"{_HOME}/modprobe.d", directory, "", linux.MS_BIND)
            return


def environment(outside: Mapping[str, str]) -> dict[str, str]:
    """The command's environment."""
    path = outside.get("PATH", os.defpath)
    return {
        **outside,
        "PATH": f"{_HOME}/bin:{path}",
        "FAKESYSFS_CONTROL": f"{_HOME}/root/control",
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
