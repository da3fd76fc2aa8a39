"""Archives in the form that the kernel unpacks as its first root: cpio, new ASCII (`newc`)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"


class Archive:
    """An archive in memory. Owners are root, times are 0, so that equal contents make equal bytes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._names: set[str] = set()

    def add_directory(self, name: str) -> None:
        """Add a directory, and those above it. A name that is there is left as it is."""
        parent = os.path.dirname(name)  # noqa: PTH120  a name in the archive
        if parent and parent not in self._names:
            self.add_directory(parent)
        self._add(name, stat.S_IFDIR | 0o755, b"")

    def add_file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file, and the directories above it."""
        self._add_below(name, stat.S_IFREG | mode, data)

    def add_link(self, name: str, target: str) -> None:
        """Add a symbolic link, and the directories above it."""
        self._add_below(name, stat.S_IFLNK | 0o777, target.encode())

    def add_device(self, name: str, major: int, minor: int) -> None:
        """Add a character device, and the directories above it."""
        self._add_below(name, stat.S_IFCHR | 0o600, b"", major, minor)

    def add_tree(self, root: Path, below: str = "") -> None:
        """Add all files below a folder of the host, links as they are. `below`: only this part of it."""
        for folder, folders, files in os.walk(root / below):
            for name in sorted(folders + files):
                path = Path(folder, name)
                inner = str(path.relative_to(root))
                if path.is_symlink():
                    self.add_link(inner, str(path.readlink()))
                elif path.is_dir():
                    self.add_directory(inner)
                else:
                    self.add_file(inner, path.read_bytes(), stat.S_IMODE(path.stat().st_mode))

    def _add_below(self, name: str, mode: int, data: bytes, major: int = 0, minor: int = 0) -> None:
        if "/" in name:
            self.add_directory(name.rpartition("/")[0])
        self._add(name, mode, data, major, minor)

    def _add(self, name: str, mode: int, data: bytes, major: int = 0, minor: int = 0) -> None:
        if name in self._names:
            return
        self._names.add(name)
        encoded = name.encode() + b"\0"
        number = len(self._names)
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, major, minor, len(encoded), 0)
        head = _MAGIC + b"".join(b"%08X" % field for field in fields) + encoded
        self._parts.append(_padded(head) + _padded(data))

    def finish(self) -> bytes:
        """The whole archive. Nothing can be added after it."""
        self._add(_TRAILER, 0, b"")
        return b"".join(self._parts)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
