"""Directories that stand for no object of the kernel, declared by path.

The type of a kernel object decides the kind of its directory. The directories above them
(`/sys/devices/system`) stand for no object. Their tables (`StaticTables`) are the same at each boot
and are made once. A boot makes the `Directory` objects alone, each with a serial of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Generic

from fakesysfs.kernfs.declare import PAGE_SIZE, Directory, DirectoryKind, Entry, Subdirectories, T_contra

_CHILDREN: Subdirectories[Any] = Subdirectories()

ROOT_KIND: DirectoryKind[Any] = DirectoryKind("/", lambda _kobj: "/", (_CHILDREN,))
"""The kind of the directory above all. Its children are the directories of one name."""


class StaticTables(Generic[T_contra]):
    """The kinds of static directories. The parameter is the type of what their functions get."""

    def __init__(self) -> None:
        self.kinds: dict[str, DirectoryKind[Any]] = {}
        """By path; a directory comes after those in it."""
        self._below: dict[str, list[tuple[str, str]]] = {}
        """(name, path) of the static directories in each."""

    def declare(
        self,
        path: str,
        entries: Iterable[Entry[T_contra]] = (),
        *,
        mode: int = 0o755,
        file_size: int = PAGE_SIZE,
        made: Callable[[T_contra], Any] | None = None,
    ) -> None:
        """A directory at an absolute path. The static directories in it must be declared before it.

        `mode`, `file_size`, `made`: see DirectoryKind. Raises ValueError: the directory that it is in
        is declared already.
        """
        above, _, name = path.rpartition("/")
        if above in self.kinds:
            msg = f"{above} was declared before {path}, which is in it"
            raise ValueError(msg)
        below = self._below.setdefault(path, [])
        self._below.setdefault(above, []).append((name, path))
        self.kinds[path] = DirectoryKind[T_contra](
            path,
            lambda _kobj: path,
            (*entries, _CHILDREN) if below else entries,
            mode=mode,
            file_size=file_size,
            made=made,
        )

    def directories(
        self,
        take_serial: Callable[[], int],
        kobj: Any,
        kobjs: Mapping[str, Any] = MappingProxyType({}),
        lasting: Mapping[str, Directory] = MappingProxyType({}),
    ) -> dict[str, Directory]:
        """The directories of one boot, by path.

        `take_serial` gives each its identity. `kobj` is the object that the functions of their
        entries get, but in the directories of `kobjs`. `lasting` has the directories, by path, that
        outlive a reset of the machine.
        """
        made: dict[str, Directory] = {}
        for path, kind in self.kinds.items():
            directory = lasting.get(path)
            if directory is None:
                directory = Directory(take_serial(), kind, kobj)
            directory.kobj = kobjs.get(path, kobj)
            if self._below[path]:
                directory.children = self.children(path, made)
            made[path] = directory
        return made

    def children(self, path: str, made: Mapping[str, Directory]) -> dict[str, Directory]:
        """The static directories in one, by name; "" is the directory above all."""
        return {name: made[below] for name, below in self._below[path]}
