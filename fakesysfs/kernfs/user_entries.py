"""Names that users make: links and directories.

kernfs lets nobody make any. But /dev is a tmpfs on a real machine (drivers/base/devtmpfs.c), where udevd makes a link
for each SYMLINK in a rule: first under another name, which it then renames. So a directory can be declared with a
`UserEntries`, beside whatever else is in it; nobody can touch that.

Files and nodes cannot be made, and nothing is moved from one directory to another: EXDEV, upon which mv(1) copies.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import Any, Protocol

from fakesysfs.kernfs.declare import Directory, DirectoryKind, Entry, Links, Subdirectories
from fakesysfs.ops.errors import KernelError

RENAME_NOREPLACE = 1


class Identities(Protocol):
    """Who gives what is made an identity."""

    generation: int
    """Counts the changes of what exists."""

    def new_serial(self) -> int:
        """One that no living object has."""
        ...

    def register(self, kobject: Any) -> None:
        """An object lives from now on."""

    def unregister(self, kobject: Any) -> None:
        """It is gone."""


@dataclass(slots=True, eq=False)
class UserLink:
    """What a link is known by."""

    serial: int
    index: int = field(default=0, init=False)


class UserEntries:
    """What users made in one directory, whose absolute path is `path`."""

    def __init__(self, path: str, identities: Identities) -> None:
        self.path = path
        self._identities = identities
        self._links: dict[str, tuple[UserLink, str]] = {}
        self._directories: dict[str, Directory] = {}
        self.entries: tuple[Entry[object], ...] = (
            Links(of=lambda _kobj: self._links, verbatim=True, doc="Links that users made."),
            Subdirectories(of=lambda _kobj: self._directories, doc="Directories that users made."),
        )

    def names(self) -> list[str]:
        """All of them."""
        return [*self._links, *self._directories]

    def symlink(self, name: str, target: str) -> None:
        """Make a link that says `target`, whatever that is. The name must not exist."""
        self._links[name] = UserLink(self._identities.new_serial()), target
        self._identities.generation += 1

    def mkdir(self, name: str) -> None:
        """Make a directory. The name must not exist."""
        inside = UserEntries(f"{self.path}/{name}", self._identities)
        kind = DirectoryKind[UserEntries](
            "made directory", lambda made: made.path, inside.entries, made=lambda made: made
        )
        directory = Directory(self._identities.new_serial(), kind, inside)
        self._identities.register(directory)
        self._directories[name] = directory

    def unlink(self, name: str) -> None:
        """Remove a link. Raises KernelError: EISDIR, and EPERM where nobody made it."""
        if name in self._directories:
            raise KernelError(errno.EISDIR, f"{name} is a directory", "vfs_unlink")
        if name not in self._links:
            raise KernelError(errno.EPERM, f"nobody made {name}", "vfs_unlink")
        del self._links[name]
        self._identities.generation += 1

    def rmdir(self, name: str) -> None:
        """Remove an empty directory. Raises KernelError: ENOTEMPTY, ENOTDIR, and EPERM where nobody made it."""
        if name in self._links:
            raise KernelError(errno.ENOTDIR, f"{name} is a link", "vfs_rmdir")
        if name not in self._directories:
            raise KernelError(errno.EPERM, f"nobody made {name}", "vfs_rmdir")
        if self._directories[name].kobj.names():
            raise KernelError(errno.ENOTEMPTY, f"there is something in {name}", "simple_rmdir")
        self._identities.unregister(self._directories.pop(name))

    def rename(self, old: str, new: str, flags: int, *, exists: bool) -> None:
        """Rename; what was called `new` is gone then (`exists` tells whether anything is).

        Raises KernelError: EEXIST with RENAME_NOREPLACE, EINVAL for other flags, EPERM where nobody made one of them,
        EISDIR, ENOTDIR and ENOTEMPTY as rename(2) does.
        """
        if flags & ~RENAME_NOREPLACE:
            raise KernelError(errno.EINVAL, f"flags {flags:#x}: there is only RENAME_NOREPLACE", "simple_rename")
        if exists and flags:
            raise KernelError(errno.EEXIST, f"{new} exists", "do_renameat2")
        if old not in self.names() or (exists and new not in self.names()):
            raise KernelError(errno.EPERM, f"nobody made {old} or {new}", "vfs_rename")
        if old == new:
            return
        self._identities.generation += 1
        if exists:
            (self.unlink if old in self._links else self.rmdir)(new)
        if old in self._links:
            self._links[new] = self._links.pop(old)
        else:
            directory = self._directories[new] = self._directories.pop(old)
            directory.kobj.move(f"{self.path}/{new}")

    def move(self, path: str) -> None:
        """The directory is at another path now."""
        self.path = path
        for name, directory in self._directories.items():
            directory.kobj.move(f"{path}/{name}")
