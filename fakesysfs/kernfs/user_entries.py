"""Links and directories that users make.

kernfs does not allow that. But /dev of a real machine is a tmpfs (drivers/base/devtmpfs.c), where
udevd makes a link for each SYMLINK in a rule, under a temporary name that it then renames. So a
directory can be declared with a `UserEntries` beside its table. Users cannot change the table's
entries.

Users cannot make files or device nodes. A rename into another directory is EXDEV, so mv(1) copies.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from fakesysfs.kernfs.declare import Directory, DirectoryKind, Entry, Links, Subdirectories, T_contra
from fakesysfs.ops.errors import KernelError

RENAME_NOREPLACE = 1


class Identities(Protocol):
    """Gives identities to the new entries: the modelled kernel."""

    generation: int
    """Counts the objects and entries that came or went."""

    def new_serial(self) -> int:
        """A serial that no living object has."""
        ...

    def register(self, kobject: Any) -> None:
        """Add an object."""

    def unregister(self, kobject: Any) -> None:
        """Remove an object."""


@dataclass(slots=True, eq=False)
class UserLink:
    """The identity of a link."""

    serial: int
    index: int = field(default=0, init=False)


class UserEntries:
    """The entries that users made in the directory with the absolute path `path`."""

    def __init__(self, path: str, identities: Identities) -> None:
        self.path = path
        self._identities = identities
        self.links: dict[str, tuple[UserLink, str]] = {}
        """Name -> identity and target."""
        self.directories: dict[str, Directory] = {}

    def names(self) -> list[str]:
        """The names of all entries."""
        return [*self.links, *self.directories]

    def symlink(self, name: str, target: str) -> None:
        """Make a link to `target`, which may be any text. The name must not exist."""
        self.links[name] = UserLink(self._identities.new_serial()), target
        self._identities.generation += 1

    def mkdir(self, name: str) -> None:
        """Make a directory. The name must not exist."""
        inside = UserEntries(f"{self.path}/{name}", self._identities)
        directory = Directory(self._identities.new_serial(), _MADE_DIRECTORY, inside)
        self._identities.register(directory)
        self.directories[name] = directory

    def unlink(self, name: str) -> None:
        """Remove a link. Raises KernelError: EISDIR; EPERM if no user made it."""
        if name in self.directories:
            raise KernelError(errno.EISDIR, f"{name} is a directory", "vfs_unlink")
        if name not in self.links:
            raise KernelError(errno.EPERM, f"{name} was not made by a user", "vfs_unlink")
        del self.links[name]
        self._identities.generation += 1

    def rmdir(self, name: str) -> None:
        """Remove an empty directory.

        Raises KernelError: ENOTEMPTY; ENOTDIR; EPERM if no user made it.
        """
        if name in self.links:
            raise KernelError(errno.ENOTDIR, f"{name} is a link", "vfs_rmdir")
        if name not in self.directories:
            raise KernelError(errno.EPERM, f"{name} was not made by a user", "vfs_rmdir")
        if self.directories[name].kobj.names():
            raise KernelError(errno.ENOTEMPTY, f"{name} is not empty", "simple_rmdir")
        self._identities.unregister(self.directories.pop(name))

    def rename(self, old: str, new: str, flags: int, *, exists: bool) -> None:
        """Rename an entry, replacing `new` if it `exists`.

        Raises KernelError: EEXIST with RENAME_NOREPLACE; EINVAL for other flags; EPERM if no user
        made one of them; EISDIR, ENOTDIR and ENOTEMPTY as rename(2).
        """
        if flags & ~RENAME_NOREPLACE:
            raise KernelError(errno.EINVAL, f"flags {flags:#x}: only RENAME_NOREPLACE is supported", "simple_rename")
        if exists and flags:
            raise KernelError(errno.EEXIST, f"{new} exists", "do_renameat2")
        if old not in self.names() or (exists and new not in self.names()):
            raise KernelError(errno.EPERM, f"{old} or {new} was not made by a user", "vfs_rename")
        if old == new:
            return
        self._identities.generation += 1
        if exists:
            (self.unlink if old in self.links else self.rmdir)(new)
        if old in self.links:
            self.links[new] = self.links.pop(old)
        else:
            directory = self.directories[new] = self.directories.pop(old)
            directory.kobj.move(f"{self.path}/{new}")

    def move(self, path: str) -> None:
        """Note the new path of the directory."""
        self.path = path
        for name, directory in self.directories.items():
            directory.kobj.move(f"{path}/{name}")


def entries_made_by_users(made: Callable[[T_contra], UserEntries]) -> tuple[Entry[T_contra], ...]:
    """The part of a directory's table that shows what users made in it, which `made` gives."""
    return (
        Links(of=lambda kobj: made(kobj).links, verbatim=True, doc="Links that users made."),
        Subdirectories(of=lambda kobj: made(kobj).directories, doc="Directories that users made."),
    )


def _itself(made: UserEntries) -> UserEntries:
    return made


_MADE_DIRECTORY = DirectoryKind[UserEntries](
    "made directory", lambda made: made.path, entries_made_by_users(_itself), made=_itself
)
