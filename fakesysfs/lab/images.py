"""What the lab boots: kernels, QEMU and the guest's tools, as Debian packages unpacked in the cache folder.

Versions move in the archive. The newest of a series is taken; what is unpacked is kept, and used
without a look at the archive until `refresh` asks for one.
"""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from fakesysfs.lab.archive import Archive, LabError, Package, cache_folder, say, version_key

SUITES = ("unstable", "experimental")
"""Where kernels are looked for."""

SERIES = ("7.2", "7.3")
"""The series whose kernels have a profile."""

_IMAGE = re.compile(r"linux-binary-(\d[\w.+~]*)-amd64")
_NOT_NEEDED = frozenset({"debconf", "systemd", "login", "gawk", "awk", "base-files", "libpam-runtime", "perl-base"})
"""Dependencies of packages' scripts, which are never run."""

MIN_QEMU = (9, 0)
"""The first QEMU with mapped-ram, which restores a guest in a second; older ones also lack volatile CXL memory."""

TOOLS = (
    "bash", "coreutils", "cxl", "dash", "daxctl", "debianutils", "findutils", "grep", "kmod", "libc-bin", "mawk",
    "ndctl", "numactl", "sed", "util-linux", "util-linux-extra",
)  # fmt: skip
"""The guest's programs: those that recorded command lines start."""

QEMU = ("qemu-system-x86",)
"""What is fetched where this system's QEMU is missing or too old."""


# Kernels ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KernelImage:
    """A kernel with its modules, unpacked."""

    version: str
    """The version of its package, as `7.3~rc7-1~exp1`."""
    folder: Path
    """usr/lib/modules/RELEASE below the unpacked packages."""

    @property
    def release(self) -> str:
        """What `uname -r` says."""
        return self.folder.name

    @property
    def vmlinuz(self) -> Path:
        """The image that boots."""
        return self.folder / "vmlinuz"

    @property
    def series(self) -> str:
        """The series, as `7.3`."""
        return ".".join(re.findall(r"\d+", self.version)[:2])

    def __str__(self) -> str:
        return f"Debian {self.version} ({self.release})"


def kernel_image(name: str, *, refresh: bool = False) -> KernelImage:
    """The kernel of a series (`7.3`), the newest that is unpacked, or of a folder with vmlinuz and modules.

    It fetches one if the series has no unpacked kernel. `refresh` looks for a newer one. Raises LabError.
    """
    if "/" in name:
        folder = Path(name).resolve()
        if not (folder / "vmlinuz").is_file() or not (folder / "kernel").is_dir():
            raise LabError(f"{folder} has no vmlinuz and kernel/: name a folder such as usr/lib/modules/RELEASE")
        return KernelImage(folder.name, folder)
    kept = unpacked_kernels(name)
    if kept and not refresh:
        return kept[-1]
    return _fetch_kernel(name)


def unpacked_kernels(series: str) -> list[KernelImage]:
    """The unpacked kernels of a series, the newest last."""
    return [image for image in _unpacked() if image.series == series]


def newest_unpacked() -> list[KernelImage]:
    """The newest unpacked kernel of each series, whether it has a profile or not."""
    return list({image.series: image for image in _unpacked()}.values())


def _unpacked() -> list[KernelImage]:
    """All unpacked kernels, the newest last."""
    images = [_image(folder) for folder in (cache_folder() / "kernels").glob("[0-9]*")]
    return sorted(images, key=lambda image: version_key(image.version))


def _image(folder: Path) -> KernelImage:
    releases = list(folder.glob("usr/lib/modules/*/vmlinuz"))
    if len(releases) != 1:
        raise LabError(f"{folder} has no kernel: remove it, and try again")
    return KernelImage(folder.name, releases[0].parent)


@functools.cache
def _archive() -> Archive:
    """One for all that this process fetches: an index is read once."""
    return Archive()


def _fetch_kernel(series: str) -> KernelImage:
    archive = _archive()
    binary, modules = newest_kernel(archive, series)
    folder = cache_folder() / "kernels" / binary.version
    if not folder.is_dir():
        say(f"the newest kernel {series} is {binary}")
        archive.unpack([binary, modules], folder)
    return _image(folder)


def newest_kernel(archive: Archive, series: str) -> tuple[Package, Package]:
    """The packages of the newest kernel of a series, and of its modules. Raises LabError."""
    found = []
    for suite in SUITES:
        index = archive.index(suite)
        for name in index.names:
            match = _IMAGE.fullmatch(name)
            if match and re.match(rf"{re.escape(series)}(?!\d)", match[1]):
                binary, modules = index.find(name), index.find(f"linux-modules-{match[1]}-amd64")
                if binary and modules and binary.version == modules.version:
                    found.append((binary, modules))
    if not found:
        raise LabError(f"Debian {' and '.join(SUITES)} have no kernel {series}: see apt-cache search linux-binary")
    return max(found, key=lambda pair: version_key(pair[0].version))


# Programs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Program:
    """A program with the words that start it."""

    words: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()


def _folder(name: str, packages: tuple[str, ...]) -> Path:
    """Where Debian's packages of a set are kept."""
    return cache_folder() / f"{name}-{hashlib.sha256(' '.join(packages).encode()).hexdigest()[:8]}"


def _packages(name: str, packages: tuple[str, ...]) -> Path:
    """The folder with Debian's packages of a set, fetched if it is not there."""
    folder = _folder(name, packages)
    if not folder.is_dir():
        archive = _archive()
        archive.unpack(archive.index("unstable").with_dependencies(packages, _NOT_NEEDED), folder)
    return folder


def guest_tools() -> Path:
    """The root folder with the guest's programs and their libraries."""
    return _packages("tools", TOOLS)


def program_folders() -> tuple[Path, ...]:
    """The folders in the cache that QEMU and the guest's tools are taken from. A fetch makes those that are missing."""
    return (tools_folder(), *(() if _installed_qemu() else (_folder("qemu", QEMU),)))


def tools_folder() -> Path:
    """Where `guest_tools` keeps them."""
    return _folder("tools", TOOLS)


def _installed_qemu() -> str | None:
    """This system's QEMU, or None where it is missing or too old."""
    installed = shutil.which("qemu-system-x86_64")
    return installed if installed is not None and _qemu_version((installed,)) >= MIN_QEMU else None


@functools.cache
def qemu() -> Program:
    """This system's QEMU, or Debian unstable's where it is missing or too old. Raises LabError."""
    installed = _installed_qemu()
    if installed is not None:
        return Program((installed,))
    if older := shutil.which("qemu-system-x86_64"):
        say(f"{older} is older than {'.'.join(map(str, MIN_QEMU))}: Debian unstable's is used")
    return _started_by_own_loader(_packages("qemu", QEMU))


@functools.cache
def qemu_version() -> tuple[int, ...]:
    """Major and minor number of the QEMU that is used. Raises LabError."""
    return _qemu_version(qemu().words)


def by_own_loader(root: Path) -> tuple[str, ...]:
    """The words before a program's path that start it with the libraries below `root`."""
    libraries = sorted({str(path.parent) for path in root.glob("usr/lib/**/lib*.so.*")})
    return str(root / "usr/lib64/ld-linux-x86-64.so.2"), "--library-path", ":".join(libraries)


def _started_by_own_loader(root: Path) -> Program:
    """A QEMU that runs with the C library of its own distribution, which may be newer than this system's."""
    program = root / "usr/bin/qemu-system-x86_64"
    modules = root / "usr/lib/x86_64-linux-gnu/qemu"
    words = (*by_own_loader(root), str(program))
    data = (part for name in ("qemu", "seabios") for part in ("-L", str(root / "usr/share" / name)))
    started = Program((*words, *data), (("QEMU_MODULE_DIR", str(modules)),))
    if _qemu_version(words) < MIN_QEMU:
        raise LabError(f"{program} does not run here: remove {root}, and try again")
    return started


def _qemu_version(words: tuple[str, ...]) -> tuple[int, ...]:
    """(0, 0) for a program that does not run."""
    done = subprocess.run([*words, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)
