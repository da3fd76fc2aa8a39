"""Directories that are there as long as the mount, put together by path.

Objects of the kernel have kinds of directories by their type; what is above them (`/sys/devices/system`) has none and
is made here, each with a serial of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from fakesysfs.kernfs.declare import Directory, DirectoryKind, Entry, Subdirectories
from fakesysfs.kernfs.user_entries import UserEntries


class StaticDirectories:
    """Makes `Directory` objects.

    `take_serial` gives each its identity, `kobj` is the object that their attributes get.

    `lasting` are those, by path, that existed before in the same tree and live on.
    """

    def __init__(
        self, take_serial: Callable[[], int], kobj: Any, lasting: Mapping[str, Directory] = MappingProxyType({})
    ) -> None:
        self._take_serial = take_serial
        self._lasting = lasting
        self._kobj = kobj
        self.by_serial: dict[int, Directory] = {}
        self.by_path: dict[str, Directory] = {}

    def make(
        self,
        path: str,
        entries: Sequence[Entry] = (),
        kobj: Any = None,
        mode: int = 0o755,
        made: UserEntries | None = None,
    ) -> Directory:
        """A directory at an absolute path; its static subdirectories must have been made before it."""
        inside = path if path.endswith("/") else f"{path}/"
        below = {
            name.removeprefix(inside): directory
            for name, directory in self.by_path.items()
            if name.startswith(inside) and name != path and "/" not in name.removeprefix(inside)
        }
        children: tuple[Entry, ...] = (Subdirectories(of=lambda _kobj: below),) if below else ()
        if made is not None:
            entries = (*entries, *made.entries)
        kind = DirectoryKind(
            path,
            lambda _kobj: path,
            (*entries, *children),
            mode=mode,
            made=None if made is None else lambda _kobj: made,
        )
        kobj = self._kobj if kobj is None else kobj
        directory = self._lasting.get(path)
        if directory is None:
            directory = Directory(self._take_serial(), kind, kobj)
        else:
            directory.kind, directory.kobj = kind, kobj
        self.by_serial[directory.serial] = directory
        self.by_path[path] = directory
        return directory

    def root_kind(self) -> DirectoryKind:
        """The kind of the directory above all."""
        below = {path[1:]: directory for path, directory in self.by_path.items() if path.count("/") == 1}
        return DirectoryKind("/", lambda _kobj: "/", (Subdirectories(of=lambda _kobj: below),))
