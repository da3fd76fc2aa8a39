"""The guest's first and only root: the agent as its init, the tools of recorded commands, kernel modules."""

from __future__ import annotations

import lzma
import re
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from fakesysfs.lab.archive import LabError
from fakesysfs.lab.cpio import Archive
from fakesysfs.lab.images import KernelImage, by_own_loader

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
_SOFT_DEPENDS = re.compile(rb"\0softdep=pre: ([^\0]*)\0")
_LEFT_OUT = ("usr/share", "usr/lib/x86_64-linux-gnu/gconv", "usr/lib/x86_64-linux-gnu/perl-base", "var", "etc/pam.d")
"""What the guest needs nothing of. Without their files in pam.d, su and its like use `other`."""
_MERGED = ("bin", "sbin", "lib", "lib64")
_CONSOLE = (5, 1)
_PAM = (b"auth", b"account", b"password", b"session")
_COMPRESSED = {".xz": lzma.decompress}


def build(image: KernelImage, modules: Iterable[str], agent: bytes, tools: Path) -> bytes:
    """The archive. `agent` is the init, `tools` a root folder. Raises LabError."""
    archive = Archive()
    for name in _MERGED:
        archive.add_link(name, f"usr/{name}")
    for name in ("proc", "sys", "dev", "run", "tmp", "root", "etc"):
        archive.add_directory(name)
    archive.add_device("dev/console", *_CONSOLE)
    archive.add_file("init", agent, 0o755)
    archive.add_file(
        "etc/passwd", b"root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
    )
    archive.add_file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    archive.add_file("etc/pam.d/other", b"".join(b"%s required pam_permit.so\n" % kind for kind in _PAM))
    _add_tools(archive, tools)
    with tempfile.TemporaryDirectory() as work:
        stage_modules(image, modules, Path(work), tools)
        archive.add_tree(Path(work))
    return archive.finish()


def _add_tools(archive: Archive, tools: Path) -> None:
    for path in sorted(tools.rglob("*")):
        name = str(path.relative_to(tools))
        if name.startswith(_LEFT_OUT) or name.split("/", maxsplit=1)[0] in _MERGED:
            continue
        if path.is_symlink():
            archive.add_link(name, str(path.readlink()))
        elif path.is_file():
            archive.add_file(name, path.read_bytes(), 0o755)
    archive.add_link("usr/bin/sh", "dash")
    archive.add_link("usr/bin/awk", "mawk")


def stage_modules(image: KernelImage, names: Iterable[str], folder: Path, tools: Path) -> list[str]:
    """Unpack modules and what they depend on below `folder`/usr/lib/modules/RELEASE, with their index.

    Modules that the kernel has built in are left out. Returns the names of the staged ones.
    """
    files = {_module_name(path): path for path in sorted((image.folder / "kernel").rglob("*.ko*"))}
    target = folder / "usr/lib/modules" / image.release
    target.mkdir(parents=True)
    staged: dict[str, None] = {}
    wanted = [name.replace("-", "_") for name in names]
    while wanted:
        name = wanted.pop()
        if name in staged or name not in files:
            continue
        staged[name] = None
        path = files[name]
        data = _COMPRESSED.get(path.suffix, bytes)(path.read_bytes())
        out = target / path.relative_to(image.folder).with_suffix("" if path.suffix in _COMPRESSED else path.suffix)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(data)
        wanted += depends(data)
    _index(folder, image.release, tools)
    return sorted(staged)


def _module_name(path: Path) -> str:
    return path.name.partition(".ko")[0].replace("-", "_")


def depends(module: bytes) -> list[str]:
    """The names of the modules that a module needs, from its .modinfo."""
    found = _DEPENDS.search(module)
    soft = [name for match in _SOFT_DEPENDS.finditer(module) for name in match[1].decode().split()]
    hard = found[1].decode().split(",") if found and found[1] else []
    return [name.replace("-", "_") for name in hard + soft]


def _index(folder: Path, release: str, tools: Path) -> None:
    """Write modules.dep and its like with the guest's own depmod."""
    (folder / "lib").symlink_to("usr/lib")
    command = [*by_own_loader(tools), "--argv0", "depmod", str(tools / "usr/bin/kmod"), "-b", str(folder), release]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (folder / "lib").unlink()
    if done.returncode:
        raise LabError(f"depmod failed: {done.stderr.strip()}")
