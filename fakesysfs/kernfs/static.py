"""Directories that last as long as the mount, declared by path.

The type of a kernel object decides the kind of its directory. The directories above them
(`/sys/devices/system`) stand for no object: they are made here, each with a serial of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic

from fakesysfs.kernfs.declare import PAGE_SIZE, Directory, DirectoryKind, Entry, Subdirectories, T_contra
from fakesysfs.kernfs.user_entries import UserEntries


class StaticDirectories(Generic[T_contra]):
    """Makes `Directory` objects.

    `take_serial` gives each its identity. `kobj` is the object that the functions of their entries
    get. `lasting` has the directories, by path, that outlive a reset of the machine.
    """

    def __init__(
        self, take_serial: Callable[[], int], kobj: T_contra, lasting: Mapping[str, Directory] = MappingProxyType({})
    ) -> None:
        self._take_serial = take_serial
        self._lasting = lasting
        self._kobj = kobj
        self.by_serial: dict[int, Directory] = {}
        self.by_path: dict[str, Directory] = {}

    def make(
        self,
        path: str,
        entries: Sequence[Entry[T_contra]] = (),
        *,
        mode: int = 0o755,
        file_size: int = PAGE_SIZE,
        made: UserEntries | None = None,
    ) -> Directory:
        """A directory at an absolute path. Its static subdirectories must be made before it.

        `mode`, `file_size`: see DirectoryKind. `made`: the entries that users made in it.
        """
        inside = path if path.endswith("/") else f"{path}/"
        below = {
            name.removeprefix(inside): directory
            for name, directory in self.by_path.items()
            if name.startswith(inside) and name != path and "/" not in name.removeprefix(inside)
        }
        children: tuple[Entry[object], ...] = (Subdirectories(of=lambda _kobj: below, fixed=True),) if below else ()
        if made is not None:
            entries = (*entries, *made.entries)
        kind = DirectoryKind[T_contra](
            path,
            lambda _kobj: path,
            (*entries, *children),
            mode=mode,
            file_size=file_size,
            made=None if made is None else lambda _kobj: made,
        )
        directory = self._lasting.get(path)
        if directory is None:
            directory = Directory(self._take_serial(), kind, self._kobj)
        else:
            directory.kind, directory.kobj = kind, self._kobj
        self.by_serial[directory.serial] = directory
        self.by_path[path] = directory
        return directory

    def root_kind(self) -> DirectoryKind[Any]:
        """The kind of the directory above all."""
        below = {path[1:]: directory for path, directory in self.by_path.items() if path.count("/") == 1}
        return DirectoryKind[Any]("/", lambda _kobj: "/", (Subdirectories(of=lambda _kobj: below, fixed=True),))
