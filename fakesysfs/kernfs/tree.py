"""The tree: from names and inode numbers to objects and places in their tables, and back.

Nothing is kept per file. An inode number is computed (inode.py), so a lookup takes a few dictionary
accesses, `forget` does nothing, and an object that was removed and came back has new numbers. Only
two things are kept: what a user changed on a node (mode, owner, times, security xattrs), until the
node is removed, and aliases (see `Tree.realias`).

The tree does not know what it shows: it is given the kinds of directories (declare.py). It reports
changes of names as `NameChange`s, for a cache of names.

Models fs/kernfs/dir.c, inode.c, symlink.c. KERNEL.md section 1 has the rules; they are recorded in
7.2/02-state-semantics.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from fakesysfs.kernfs.declare import (
    PAGE_SIZE,
    Attribute,
    DeviceNode,
    DeviceNodes,
    Directory,
    DirectoryKind,
    Group,
    Indexed,
    Kobject,
    Link,
    Links,
    Place,
    Subdirectories,
)
from fakesysfs.kernfs.inode import (
    ALIAS_MASK,
    ALIAS_SHIFT,
    INDEX_MASK,
    INDEX_SHIFT,
    NO_ALIAS,
    ROOT,
    SERIAL_SHIFT,
    SLOT_MASK,
    Stat,
    kobj_of,
)
from fakesysfs.kernfs.name_hash import IndexedOrder
from fakesysfs.kernfs.namei import ResolvedPaths, path_walk
from fakesysfs.kernfs.user_entries import UserEntries
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.recording import current, record_everything
from fakesysfs.ops.trace import Tracer

_XATTRS = ("security.", "trusted.")
_READABLE_XATTRS = (*_XATTRS, "user.")
_READABLE_XATTRS_ENCODED = tuple(name.encode() for name in _READABLE_XATTRS)
_SWEEP_FROM = 256
_OBJECT_MASK = NO_ALIAS & ~SLOT_MASK


class NameChange(NamedTuple):
    """Names in the directory `parent` that came or went.

    `name` is one name. If it is None, the names are `prefix` + first to `prefix` + last of a
    family. `directories`: what lstat(2) tells of `parent` may have changed too, such as its link
    count.
    """

    parent: int
    name: bytes | None
    prefix: bytes = b""
    first: int = 0
    last: int = -1
    directories: bool = False


class Found(NamedTuple):
    """A node that exists: its object, the kind of the object's directory, the place in its table.

    `place` is None for the directory itself. `member` is the number of a member of a family.
    """

    object: Any
    kind: DirectoryKind[Any]
    place: Place | None
    member: int


_found = tuple.__new__  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
"""Makes a `Found` in half the time of its constructor. Nearly every request makes one."""


@dataclass(slots=True)
class NodeOverrides:
    """What a user changed on one node (kernfs_iattrs)."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    xattrs: dict[str, bytes] = field(default_factory=dict)


PlainEntry = tuple[int, bytes, int, Place]
"""A name of no indexed family: cookie, name, inode number, place (see `Tree.static_stat`)."""


class LastStat(Protocol):
    """What an open file keeps of its node, for fstat(2) once the node is gone."""

    @property
    def mode(self) -> int:
        """Type and permission bits."""
        ...

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    @property
    def changed(self) -> NodeOverrides | None:
        """What a user changed."""
        ...


def _gone(what: str) -> KernelError:
    return KernelError(errno.ENOENT, f"there is no {what}", "kernfs_iop_lookup")


class Registry(Protocol):
    """The living objects: the modelled kernel."""

    @property
    def objects(self) -> Objects:
        """The objects by their serials."""
        ...

    @property
    def generation(self) -> int:
        """A counter that changes whenever an object or one of its entries comes or goes."""
        ...


class Objects(Protocol):
    """A mapping by serial."""

    def get(self, serial: int, /) -> Any | None:
        """The living object of that serial, or None."""


class Tree:
    """The name space of one mount.

    `root` is the top directory. `registry` has the objects; a reset replaces it. `kind_of` gives
    the kind of an object's directory. `changes` takes the pending changes of names, each once.
    `uid` and `gid` own every file. `now_ns` is the clock for times (nanoseconds since the epoch).
    """

    def __init__(
        self,
        root: Directory,
        registry: Registry,
        kind_of: Callable[[Any], DirectoryKind[Any]],
        changes: Callable[[], Sequence[NameChange]],
        now_ns: Callable[[], int],
        *,
        uid: int = 0,
        gid: int = 0,
    ) -> None:
        self._root = root
        self.registry = registry
        self.tracer: Tracer | None = None
        """Who is told of the calls on files; None: nobody traces. A file that is open already stays as it is."""
        self._kind_of = kind_of
        self._take_changes = changes
        self._now_ns = now_ns
        self._born_ns = now_ns()
        self.uid = uid
        self.gid = gid
        self._changed: dict[int, NodeOverrides] = {}
        self.user_generation = 0
        """Counts what changes a listing but not the registry: users' changes, new aliases."""
        self._aliases: dict[int, int] = {}
        self._sweep_at = _SWEEP_FROM
        self._last_object = -1, -1, None, root.kind
        """The last find, as the next one mostly wants it again: key, generation, object, kind."""
        self._last_above = (ROOT, -1), ROOT
        self._resolved = ResolvedPaths(self)
        self._orders: dict[bytes, IndexedOrder] = {}
        self._static_stats: dict[tuple[int, int, int], Stat] = {}

    # Identity -----------------------------------------------------------------------------------------------------

    def ino_of(self, kobject: Kobject) -> int:
        """The inode number of an object's directory."""
        if kobject is self._root:
            return ROOT
        return kobject.serial << SERIAL_SHIFT | kobject.index << INDEX_SHIFT

    def child(self, found_ino: int, slot: int, member: int | None = None) -> int:
        """The inode number at a slot of an object's directory: of an entry or of a family's member."""
        if found_ino == ROOT:
            found_ino = self._root.serial << SERIAL_SHIFT
        base = found_ino & ~SLOT_MASK & NO_ALIAS | slot
        if member is not None:
            base = base & ~(INDEX_MASK << INDEX_SHIFT) | member << INDEX_SHIFT
        alias = self._aliases.get(base)
        return base if alias is None else base | alias << ALIAS_SHIFT

    def realias(self, ino: int) -> int:
        """Give an attribute another inode number for later opens; returns it. The old one stays good.

        The host's VFS holds the lock of an inode while a write waits for its answer. A second
        writer would wait for that lock where the real kernel answers at once. With another inode
        number it takes another lock.
        """
        self._sweep()
        self.user_generation += 1
        base = ino & NO_ALIAS
        self._aliases[base] = alias = self._aliases.get(base, 0) + 1 & ALIAS_MASK
        return base | alias << ALIAS_SHIFT

    def find(self, ino: int) -> Found | None:
        """The node with an inode number, or None if it is gone."""
        if ino == ROOT:
            return Found(self._root, self._root.kind, None, 0)
        which, generation, kobject, kind = self._last_object
        index = ino >> INDEX_SHIFT & INDEX_MASK
        if which != ino & _OBJECT_MASK or generation != self.registry.generation:
            kobject = self.registry.objects.get(ino >> SERIAL_SHIFT)
            if kobject is None:
                return None
            kind = self._kind_of(kobject)
            at = getattr(kobject, "at", None)
            if at is not None:
                kobject = at(index)
                if kobject is None:
                    return None
            self._last_object = ino & _OBJECT_MASK, self.registry.generation, kobject, kind
        slot = ino & SLOT_MASK
        if not slot:
            return _found(Found, (kobject, kind, None, index))
        place = kind.places[slot - 1]
        if place.conditions or place.owner is not None:
            kobj = kobj_of(kobject)
            if place.owner is not None and place.owner(kobj) is not kobject:
                return None
            for condition in place.conditions:
                if not condition(kobj):
                    return None
        return _found(Found, (kobject, kind, place, index))

    def identity_of(self, ino: int) -> object:
        """The object with whose life a node comes and goes, or None if that is gone.

        Serials are reused in the end. An open file compares this object with the one of its open.
        """
        return self._root if ino == ROOT else self.registry.objects.get(ino >> SERIAL_SHIFT)

    def existing(self, ino: int, where: str) -> Found:
        """As `find`. Raises KernelError ENODEV if the node is gone (kernfs_get_active)."""
        found = self.find(ino)
        if found is None:
            raise KernelError(errno.ENODEV, "the node was removed", where)
        return found

    # Names --------------------------------------------------------------------------------------------------------

    def group_slot(self, found: Found) -> int | None:
        """The slot whose entries a directory shows, 0 for the object's; None for no directory."""
        if found.place is None:
            return 0
        return found.place.slot if isinstance(found.place.entry, Group) else None

    def lookup(self, parent: int, name: bytes) -> int:
        """The inode number of `name` in the directory `parent`.

        Raises KernelError: ENOENT if the name does not exist, ENOTDIR if `parent` is not a
        directory.
        """
        found = self.find(parent)
        if found is None:
            raise KernelError(errno.ENOENT, "the directory was removed", "kernfs_iop_lookup")
        around = self.group_slot(found)
        if around is None:
            raise KernelError(errno.ENOTDIR, "this is not a directory", "kernfs_iop_lookup")
        kobj = kobj_of(found.object)
        place = found.kind.named(around, name)
        if place is not None:
            ino = self.single(parent, kobj, place)
            if ino is not None:
                return ino
        for place in found.kind.families(around):
            ino = self._member(parent, found.object, kobj, place, name)
            if ino is not None:
                return ino
        raise _gone(os.fsdecode(name))

    def single(self, parent: int, kobj: Any, place: Place) -> int | None:
        """The inode number of an entry that is not a family; None if it does not exist now."""
        if place.owner is not None:
            owner = place.owner(kobj)
            if owner is None:
                return None
            parent = self.ino_of(owner)
        if place.condition is not None and not place.condition(kobj):
            return None
        return self.child(parent, place.slot)

    def _member(self, parent: int, kobject: Any, kobj: Any, place: Place, name: bytes) -> int | None:
        family = place.entry
        if isinstance(family, Indexed):
            index = index_in(family.prefix.encode(), name)
            if index is None or not family.has(kobj, index):
                return None
            if family.directory is not None:
                return self.ino_of(family.directory(kobj, index))
            return self.child(parent, place.slot, index)
        if isinstance(family, Subdirectories):
            child = family.members(kobject).get(os.fsdecode(name))
            return None if child is None else self.ino_of(child)
        if isinstance(family, Links):
            links = family.of(kobj)
            text = os.fsdecode(name)
            if text not in links:
                return None
            return self._link_ino(parent, place, family, list(links).index(text), links[text][0])
        if isinstance(family, DeviceNodes):
            node = family.of(kobj).get(os.fsdecode(name))
            return None if node is None else self.child(parent, place.slot, node[0].serial)
        return None

    def singles(self, parent: int, kobj: Any, kind: DirectoryKind[Any], around: int) -> list[PlainEntry]:
        """The entries that exist now, without families, in their order."""
        found: list[PlainEntry] = []
        base = parent & ~SLOT_MASK & NO_ALIAS
        simple = parent != ROOT and not self._aliases
        for key, name, place in kind.singles(around):
            if simple and place.owner is None:
                if place.condition is None or place.condition(kobj):
                    found.append((key, name, base | place.slot, place))
                continue
            ino = self.single(parent, kobj, place)
            if ino is not None:
                found.append((key, name, ino, place))
        return found

    def members(self, parent: int, kobject: Any, place: Place) -> Iterator[tuple[str, int]]:
        """The names and inode numbers of a family that is not indexed, in an object's directory."""
        family, kobj = place.entry, kobj_of(kobject)
        if isinstance(family, Subdirectories):
            for text, child in family.members(kobject).items():
                yield text, self.ino_of(child)
        elif isinstance(family, Links):
            for position, (text, (linked, _)) in enumerate(family.of(kobj).items()):
                yield text, self._link_ino(parent, place, family, position, linked)
        elif isinstance(family, DeviceNodes):
            for text, node in family.of(kobj).items():
                yield text, self.child(parent, place.slot, node[0].serial)

    def _link_ino(self, parent: int, place: Place, family: Links[Any], position: int, kobj: Kobject) -> int:
        if family.slots > 1:
            return self.child(parent, place.slot + position)
        return self.child(parent, place.slot, kobj.serial)

    def table_of(self, parent: int) -> tuple[DirectoryKind[Any], int] | None:
        """The table of a directory and the slot of its group; None if no name in it can change.

        None: the directory is gone, or is a member of an indexed family. The table tells a cache
        which names may change. For names of indexed families a cache can keep one bit each
        (`index_in`).
        """
        if parent == ROOT:
            return self._root.kind, 0
        kobject = self.registry.objects.get(parent >> SERIAL_SHIFT)
        if kobject is None or getattr(kobject, "at", None) is not None:
            return None
        return self._kind_of(kobject), parent & SLOT_MASK

    def walk(self, path: str) -> int:
        """The inode number of an absolute path. Follows links in all components but the last.

        Raises KernelError: ENOENT, ENOTDIR, ELOOP.
        """
        return path_walk(self, path, follow_last=False)

    def resolve(self, path: str) -> int:
        """As `walk`, but follows a link in the last component too."""
        return self._resolved.resolve(path, (self.registry.generation, self.user_generation))

    def is_link(self, ino: int) -> bool:
        """Whether a node that exists is a symbolic link."""
        if not ino & SLOT_MASK:
            return False  # the directory of an object
        found = self.find(ino)
        return found is not None and found.place is not None and stat.S_ISLNK(found.place.mode)

    def path_of(self, ino: int) -> str:
        """The absolute path of a node in the mount; "?" for one that is gone."""
        found = self.find(ino)
        if found is None:
            return "?"
        base = found.kind.path(kobj_of(found.object))
        names: list[str] = []
        place = found.place
        while place is not None:
            names.append(getattr(place.entry, "name", "*"))
            place = place.group
        return "/".join([base.rstrip("/"), *reversed(names)]) or "/"

    def above(self, ino: int) -> int:
        """The inode number of the directory above a directory; ROOT if the directory is gone.

        Objects that share a serial have their directories in the same directory.
        """
        found = None if ino == ROOT else self.find(ino)
        if found is None:
            return ROOT
        place = found.place
        if place is not None and place.owner is (place.group.owner if place.group else None):
            above = ino & ~SLOT_MASK & NO_ALIAS | (place.group.slot if place.group else 0)
            return ROOT if above == self._root.serial << SERIAL_SHIFT else above
        which = ino & ~(INDEX_MASK << INDEX_SHIFT), self.registry.generation
        if self._last_above[0] != which:
            self._last_above = which, self.walk(self.path_of(ino).rpartition("/")[0])
        return self._last_above[1]

    def made_in(self, ino: int) -> UserEntries:
        """The entries that users made in a directory. Raises KernelError EPERM if they may not."""
        record_everything()
        found = self.find(ino)
        if found is None or found.place is not None or found.kind.made is None:
            raise KernelError(errno.EPERM, "users cannot make names in this directory", "may_create")
        made: UserEntries = found.kind.made(kobj_of(found.object))
        return made

    # Attributes of nodes --------------------------------------------------------------------------------------------

    def getattr(self, ino: int, opened: LastStat | None = None) -> Stat:
        """lstat(2). A node that is gone has link count 0, and mode and size of `opened` if given."""
        changed = self.changed(ino)
        found = self.find(ino)
        if found is None:
            if not ino & SLOT_MASK:
                return self._stat(ino, stat.S_IFDIR | 0o755, 0, changed)
            if opened is not None:
                return self._stat(ino, opened.mode, 0, opened.changed, size=opened.size)
            return self._stat(ino, stat.S_IFREG | 0o444, 0, changed, size=PAGE_SIZE)
        place = found.place
        kobj = kobj_of(found.object)
        if place is None or not place.mode:
            return self._stat(ino, stat.S_IFDIR | found.kind.mode, 2 + self._count_directories(found, kobj), changed)
        entry = place.entry
        if isinstance(entry, Attribute):
            file = self._stat(ino, place.mode_of(kobj), 1, changed, size=place.size_of(kobj))
            return file if entry.log is None else file._replace(grows=True)
        mode, rdev = place.mode, 0
        if isinstance(entry, DeviceNode):
            numbers = entry.device(kobj)
            rdev = os.makedev(*numbers) if numbers else 0
        elif isinstance(entry, DeviceNodes):
            for node, bits, major, minor in entry.of(kobj).values():
                if node.serial == found.member:
                    mode, rdev = place.mode | bits, os.makedev(major, minor)
        return self._stat(ino, mode, 1, changed, rdev=rdev)

    def static_stat(self, ino: int, place: Place) -> Stat:
        """As `getattr` of a node at `place`, but `ino` in the result may be another node's."""
        form = place.static_stat
        if form is None or (self._changed and self.changed(ino) is not None):
            return self.getattr(ino)
        found = self._static_stats.get(form)
        if found is None:
            found = self._static_stats[form] = self._stat(ino, form[0], form[2], None, size=form[1])
        return found

    def changed(self, ino: int) -> NodeOverrides | None:
        """What a user changed on a node, or None."""
        return self._changed.get(ino & NO_ALIAS) if self._changed else None

    @property
    def all_changed(self) -> Mapping[int, NodeOverrides]:
        """What users changed, by inode number."""
        return self._changed

    def _stat(
        self, ino: int, mode: int, nlink: int, changed: NodeOverrides | None, *, rdev: int = 0, size: int = 0
    ) -> Stat:
        born = self._born_ns
        if changed is None:
            return Stat(ino, mode, nlink, self.uid, self.gid, rdev, size, born, born, born)
        return Stat(
            ino,
            mode if changed.mode is None else stat.S_IFMT(mode) | changed.mode,
            nlink,
            self.uid if changed.uid is None else changed.uid,
            self.gid if changed.gid is None else changed.gid,
            rdev,
            size,
            changed.atime_ns or born,
            changed.mtime_ns or born,
            changed.ctime_ns or born,
        )

    def _count_directories(self, found: Found, kobj: Any) -> int:
        count = 0
        for place in found.kind.directories(self.group_slot(found) or 0):
            entry = place.entry
            if isinstance(entry, Group):
                count += self.single(ROOT, kobj, place) is not None
            elif isinstance(entry, Subdirectories):
                count += len(entry.members(found.object))
            elif isinstance(entry, Indexed):
                count += entry.count(kobj)
        return count

    def readlink(self, ino: int) -> bytes:
        """readlink(2). Raises KernelError: EINVAL if it is not a link, ENOENT if it is gone."""
        found = self.find(ino)
        if found is None:
            raise KernelError(errno.ENOENT, "the link was removed", "kernfs_iop_get_link")
        kobj = kobj_of(found.object)
        entry = found.place.entry if found.place else None
        target: str | None = None
        if isinstance(entry, Link):
            target = entry.target(kobj)
        elif isinstance(entry, Indexed) and entry.link is not None:
            target = entry.link(kobj, found.member)
        elif isinstance(entry, Links) and entry.link is not None:
            linked = self.registry.objects.get(found.member)
            target = None if linked is None else entry.link(kobj, linked)
        elif isinstance(entry, Links):
            links = entry.of(kobj)
            assert found.place is not None
            if entry.slots > 1:
                values = list(links.values())
                position = (ino & SLOT_MASK) - entry_slot(found.kind, entry)
                target = values[position][1] if position < len(values) else None
            else:
                target = next((path for kobject, path in links.values() if kobject.serial == found.member), None)
        else:
            raise KernelError(errno.EINVAL, "this is not a symbolic link", "vfs_readlink")
        if target is None:
            raise KernelError(errno.ENOENT, "the link was removed", "kernfs_iop_get_link")
        if isinstance(entry, Links) and entry.verbatim:
            return os.fsencode(target)
        assert found.place is not None
        base = found.kind.path(kobj)
        group = found.place.group
        while group is not None:
            base += "/group"  # every group is one level down; its name does not matter for the way up
            group = group.group
        # The way up ends at an ancestor of the target, never at the target
        # (kernfs_get_target_path).
        around, _, name = target.rpartition("/")
        return os.fsencode(os.path.normpath(f"{os.path.relpath(around or '/', base)}/{name}"))

    def setattr(
        self,
        ino: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
    ) -> Stat:
        """chmod(2), chown(2), utime(2); remembered until the node is removed (kernfs_setattr).

        A change of the size succeeds without effect. Raises KernelError ENODEV if the node is gone.
        """
        self.existing(ino, "kernfs_iop_setattr")
        if any(value is not None for value in (mode, uid, gid, atime_ns, mtime_ns)):
            if current() is not None and not self._are_its_own(ino, mode, uid, gid):
                record_everything()  # times are not recorded: each boot has others
            changed = self._remember(ino)
            if mode is not None:
                changed.mode = stat.S_IMODE(mode)
            changed.uid = changed.uid if uid is None else uid
            changed.gid = changed.gid if gid is None else gid
            changed.atime_ns = changed.atime_ns if atime_ns is None else atime_ns
            changed.mtime_ns = changed.mtime_ns if mtime_ns is None else mtime_ns
            changed.ctime_ns = self._now_ns()
        return self.getattr(ino)

    def _are_its_own(self, ino: int, mode: int | None, uid: int | None, gid: int | None) -> bool:
        """Whether a node has this mode and these owners already; None is not looked at."""
        found = self.getattr(ino)
        return (
            (mode is None or stat.S_IMODE(mode) == stat.S_IMODE(found.mode))
            and uid in {None, found.uid}
            and gid in {None, found.gid}
        )

    def forget_changed(self) -> list[int]:
        """Drop what users changed on all nodes; returns the inode numbers of living ones."""
        there = [ino for ino in self._changed if self.find(ino) is not None]
        self._changed.clear()
        self.user_generation += 1
        return [ino | self._aliases.get(ino, 0) << ALIAS_SHIFT for ino in there]

    def _remember(self, ino: int) -> NodeOverrides:
        self._sweep()
        self.user_generation += 1
        return self._changed.setdefault(ino & NO_ALIAS, NodeOverrides())

    def _sweep(self) -> None:
        """Drop what is kept of removed nodes, once the number has doubled since the last sweep."""
        if len(self._changed) + len(self._aliases) < self._sweep_at:
            return
        for ino in [ino for ino in self._changed if self.find(ino) is None]:
            del self._changed[ino]
        for ino in [ino for ino in self._aliases if self.find(ino) is None]:
            del self._aliases[ino]
        self._sweep_at = max(2 * (len(self._changed) + len(self._aliases)), _SWEEP_FROM)

    def lacks_xattr(self, ino: int, name: bytes) -> bool:
        """Whether `getxattr` certainly answers ENODATA, as for a node that no user changed."""
        return not (self._changed and ino & NO_ALIAS in self._changed) and name.startswith(_READABLE_XATTRS_ENCODED)

    def getxattr(self, ino: int, name: str) -> bytes:
        """getxattr(2); works on a removed node too (kernfs_xattr_get takes no active reference).

        Raises KernelError: ENODATA if it was never set, as all of user.*; ENOTSUP for other
        prefixes.
        """
        if not name.startswith(_READABLE_XATTRS):
            raise KernelError(errno.ENOTSUP, f"xattrs like {name} are not supported in sysfs", "xattr_resolve_name")
        changed = self.changed(ino)
        value = changed.xattrs.get(name) if changed else None
        if value is None:
            raise KernelError(errno.ENODATA, f"xattr {name} is not set", "kernfs_vfs_xattr_get")
        return value

    def setxattr(self, ino: int, name: str, value: bytes) -> None:
        """setxattr(2). Raises KernelError ENOTSUP for user.* (kernfs_vfs_user_xattr_set)."""
        self._can_be_set(ino, name)
        self._remember(ino).xattrs[name] = value

    def listxattr(self, ino: int) -> list[str]:
        """The names of the xattrs set on a node."""
        changed = self._changed.get(ino & NO_ALIAS)
        return sorted(changed.xattrs) if changed else []

    def removexattr(self, ino: int, name: str) -> None:
        """removexattr(2). Raises KernelError: ENOTSUP as `setxattr`, ENODATA if not set."""
        self._can_be_set(ino, name)
        self.getxattr(ino, name)
        del self._changed[ino & NO_ALIAS].xattrs[name]

    def _can_be_set(self, ino: int, name: str) -> None:
        record_everything()
        self.existing(ino, "kernfs_vfs_xattr_set")
        if not name.startswith(_XATTRS):
            raise KernelError(errno.ENOTSUP, f"xattr {name} cannot be set here", "kernfs_vfs_xattr_set")

    # Listings ------------------------------------------------------------------------------------------------------

    def order(self, prefix: bytes) -> IndexedOrder:
        """The order of an indexed family's names."""
        order = self._orders.get(prefix)
        if order is None:
            order = self._orders[prefix] = IndexedOrder(prefix)
        return order

    def take_changes(self) -> Sequence[NameChange]:
        """Take the changes of names since the last call."""
        return self._take_changes()


def entry_slot(kind: DirectoryKind[Any], entry: Any) -> int:
    """The slot of an entry, the first one if it has several."""
    return next(place.slot for place in kind.places if place.entry is entry)


def index_in(prefix: bytes, name: bytes) -> int | None:
    """The number in `name` = `prefix` + canonical decimal number, else None."""
    if not name.startswith(prefix):
        return None
    digits = name[len(prefix) :]
    if not digits.isdigit() or not digits.isascii() or (digits[0] == 48 and len(digits) > 1) or len(digits) > 8:  # noqa: PLR2004  "0"
        return None
    index = int(digits)
    return index if index <= INDEX_MASK else None
