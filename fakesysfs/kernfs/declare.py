"""How a directory is declared: once, as a table.

A `DirectoryKind` is the table of one kind of directory. Its entries are attributes, links, groups
(directories without an object of their own, like `power/`) and families (children that come and
go: `memoryN`, bound devices). Linux calls these attribute groups and `is_visible`.

An attribute is one line of a table and its functions, as with DEVICE_ATTR_RO, DEVICE_ATTR_RW and
DEVICE_ATTR_WO:

    DirectoryKind[MemoryBlock](
        "memory block",
        lambda block: f"/sys/devices/system/memory/memory{block.index}",
        (
            RO("phys_index", lambda block: f"{block.index:08x}", "Number of the block, hexadecimal."),
            RW("state", state_show, state_store, "online, offline or going-offline."),
        ),
    )

The contract of the functions:

- `show` gets the object of the directory. Its result says what kind of file this is: a str or an
  int is a file of one line (a bool is 1 or 0); a list or tuple has one line per item; bytes are the
  whole file as it is. The constructor adds the newlines.
- `store` gets the object and the bytes of one write(2), as the kernel's store does: at most 4,096,
  with the newline if the user wrote one. It parses them with kernel/kstrtox.py.
- Either raises KernelError to refuse. A store or show that sleeps is `async def` (a show not as a
  lambda).
- `store` stands beside its `show`: both in the line or above the table, or both with the object in
  kernel/ that they belong to.

The type of the object is the parameter of the table: mypy and pyright check each lambda against it.
A part of a table with a name of its own is annotated (`POWER: Group[HasKernel] = Group(...)`).

Nothing is stored per directory or file. A file is found as (object, place in the table), and
`show`, `store` and `visible` are asked at each call.

Sources: include/linux/sysfs.h, fs/sysfs/group.c, fs/kernfs/.
"""

from __future__ import annotations

import errno
import inspect
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, cast

from fakesysfs.kernfs.inode import kobj_of
from fakesysfs.kernfs.log import Log
from fakesysfs.kernfs.name_hash import single_key, sort_key
from fakesysfs.ops.sched import Operation, WaitQueue

PAGE_SIZE = 4096
"""st_size of every sysfs attribute and the most that a `store` is given, in bytes."""

T_contra = TypeVar("T_contra", contravariant=True)
"""The type of a directory's object. A table for a base class or protocol serves all that fit it."""


class Kobject(Protocol):
    """What a directory stands for.

    Identity is `serial`, unique among all living objects and not reused for a long time.
    """

    @property
    def serial(self) -> int:
        """1 to 2**20 - 1, given when the object is registered."""
        ...

    @property
    def index(self) -> int:
        """The number among objects that share a serial (memory blocks added together); else 0."""
        ...


Shown: TypeAlias = str | int | list[str] | tuple[str, ...] | bytes
"""What a `show` of `RO` and `RW` returns: one line, lines, or (bytes) the whole file."""

Show: TypeAlias = Callable[[T_contra], Shown | Operation[Shown]]
Store: TypeAlias = Callable[[T_contra, bytes], Operation[None] | None]
Condition: TypeAlias = Callable[[T_contra], bool]
"""What must hold of the object for an entry to be there."""
Owner: TypeAlias = Callable[[T_contra], Kobject | None]


class Stream(Protocol):
    """One reader's place in something that goes on (`control/kmsg_follow`)."""

    def read(self, size: int, *, wait: bool) -> Operation[bytes]:
        """Wait for at least one byte and return at most `size`; b"" ends it.

        `wait` is false for an open file with O_NONBLOCK: EAGAIN instead.
        """
        ...

    def waits_on(self) -> WaitQueue | None:
        """The queue that wakes a reader; None if a read would not wait. poll(2) reports this."""

    def close(self) -> None:
        """The file is closed."""
        return


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute(Generic[T_contra]):
    """A file. `RO`, `RW` and `WO` make the usual ones; a log or a stream is written out.

    The open file keeps the text of `show`, from a read at offset 0 on (fs/seq_file.c).
    `sleeping_show` is for a show that takes a lock. A `log` is a text that grows; its st_size is
    its length.
    """

    name: str
    mode: int
    show: Callable[[T_contra], str | bytes] | None = None
    """The whole text, newlines included."""
    sleeping_show: Callable[[T_contra], Operation[str | bytes]] | None = None
    store: Store[T_contra] | None = None
    stream: Callable[[T_contra], Stream] | None = None
    log: Callable[[T_contra], Log] | None = None
    visible: Condition[T_contra] | None = None
    owner: Owner[T_contra] | None = None
    """The object with whose life the file comes and goes, if not the directory's.

    A driver's attribute on a device has one. None: the file is not there; another object: another
    file.
    """
    narrow: Callable[[T_contra], int] | None = None
    """The mode for this object, if not `mode` (dax `size` is 0444 in a static region)."""
    size: int | Callable[[T_contra], int] | None = None
    """st_size in bytes; None: the directory's `file_size`."""
    max_store: int | None = PAGE_SIZE
    """The most bytes that `store` gets. None: all of them, and `store` gets writes of 0 bytes too."""
    seekable: bool = True
    """False: lseek, pread and pwrite are ESPIPE; an open file reads its text once.

    fs/libfs.c, simple_attr_open.
    """
    removed: int = errno.ENODEV
    """The errno of reads and writes of an open file whose node is gone (EIO in debugfs)."""
    doc: str = ""
    """The sentence for docs/abi.md."""

    @property
    def listed(self) -> bool:
        """Whether readdir gives the name.

        A read of a stream waits for more. Programs that read every listed file (`cp -r`, `grep -r`,
        `tar`) would never end, so a stream can be opened by its name only.
        """
        return self.stream is None


def RO(  # noqa: N802  as DEVICE_ATTR_RO
    name: str,
    show: Show[T_contra],
    doc: str = "",
    *,
    mode: int = 0o444,
    visible: Condition[T_contra] | None = None,
    owner: Owner[T_contra] | None = None,
    size: int | Callable[[T_contra], int] | None = None,
) -> Attribute[T_contra]:
    """A read-only attribute: DEVICE_ATTR_RO; with `mode` 0400 DEVICE_ATTR_ADMIN_RO."""
    return _attribute(name, mode, show, None, doc, visible=visible, owner=owner, size=size)


def RW(  # noqa: N802  as DEVICE_ATTR_RW
    name: str,
    show: Show[T_contra],
    store: Store[T_contra],
    doc: str = "",
    *,
    mode: int = 0o644,
    narrow: Callable[[T_contra], int] | None = None,
    visible: Condition[T_contra] | None = None,
    owner: Owner[T_contra] | None = None,
) -> Attribute[T_contra]:
    """An attribute to read and write: DEVICE_ATTR_RW; `narrow` gives the mode of one object."""
    return _attribute(name, mode, show, store, doc, narrow=narrow, visible=visible, owner=owner)


def WO(  # noqa: N802  as DEVICE_ATTR_WO
    name: str,
    store: Store[T_contra],
    doc: str = "",
    *,
    mode: int = 0o200,
    visible: Condition[T_contra] | None = None,
) -> Attribute[T_contra]:
    """A write-only attribute: DEVICE_ATTR_WO."""
    return Attribute(name=name, mode=mode, store=store, doc=doc, visible=visible)


def _attribute(
    name: str,
    mode: int,
    show: Show[T_contra],
    store: Store[T_contra] | None,
    doc: str,
    *,
    narrow: Callable[[T_contra], int] | None = None,
    visible: Condition[T_contra] | None = None,
    owner: Owner[T_contra] | None = None,
    size: int | Callable[[T_contra], int] | None = None,
) -> Attribute[T_contra]:
    sleeps = inspect.iscoroutinefunction(show)

    def text(kobj: T_contra) -> str | bytes:
        return _text(cast("Shown", show(kobj)))

    async def sleeping_text(kobj: T_contra) -> str | bytes:
        return _text(await cast("Operation[Shown]", show(kobj)))

    return Attribute(
        name=name,
        mode=mode,
        show=None if sleeps else text,
        sleeping_show=sleeping_text if sleeps else None,
        store=store,
        doc=doc,
        narrow=narrow,
        visible=visible,
        owner=owner,
        size=size,
    )


def _text(shown: Shown) -> str | bytes:
    if isinstance(shown, str):
        return f"{shown}\n"
    if isinstance(shown, int):
        return f"{shown:d}\n"
    return shown if isinstance(shown, bytes) else "".join([f"{line}\n" for line in shown])


@dataclass(frozen=True, slots=True, kw_only=True)
class Link(Generic[T_contra]):
    """A symbolic link.

    `target` gives the absolute path inside the mount; the link itself is relative, as in sysfs. The
    link does not exist while `target` gives None.
    """

    name: str
    target: Callable[[T_contra], str | None]
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group(Generic[T_contra]):
    """A subdirectory without an object of its own: its entries get the directory's object.

    `owner` gives the object with whose life the group comes and goes, as for an attribute.
    """

    name: str
    entries: tuple[Entry[T_contra], ...]
    visible: Condition[T_contra] | None = None
    owner: Owner[T_contra] | None = None
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNode(Generic[T_contra]):
    """A character device node; `device` gives (major, minor), or None while there is no node."""

    name: str
    mode: int
    device: Callable[[T_contra], tuple[int, int] | None]
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subdirectories(Generic[T_contra]):
    """A family of directories by name. `of` gives name -> object for all that exist now.

    Without `of` they are the `children` of a `Directory`.
    """

    of: Callable[[T_contra], Mapping[str, Kobject]] | None = None
    doc: str = ""

    def members(self, kobject: Any) -> Mapping[str, Kobject]:
        """All that exist now in the directory of an object."""
        children: Mapping[str, Kobject] = kobject.children if self.of is None else self.of(kobj_of(kobject))
        return children


@dataclass(frozen=True, slots=True, kw_only=True)
class Links(Generic[T_contra]):
    """A family of links by name.

    `of` gives name -> (object it links to, absolute path of the target).

    Where directories share a serial (memory blocks), the position of a link identifies it, and
    must not change while it lives; `slots` is the most links in one directory. `verbatim`: the
    target is any text, not a path.

    `link` gives the absolute path of the target of the link to one object, None if there is no such
    link. It spares a look at all links: cxl reads the 200 links of a bus 3,000 times.
    """

    of: Callable[[T_contra], Mapping[str, tuple[Kobject, str]]]
    link: Callable[[T_contra, Any], str | None] | None = None
    slots: int = 1
    verbatim: bool = False
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNodes(Generic[T_contra]):
    """A family of character device nodes by name: name -> (object, mode, major, minor)."""

    of: Callable[[T_contra], Mapping[str, tuple[Kobject, int, int, int]]]
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed(Generic[T_contra]):
    """A family named `prefix` + decimal number, kept in runs: 500,000 blocks cost as much as one.

    `runs` gives the numbers that exist, as ascending disjoint (first, last) pairs. `directory`
    gives the object of one number (a family of directories), or `link` the absolute path of its
    target (a family of links). `count` gives the number of members, without a walk.

    `run` gives (first, last) around a number: members that all exist and that lstat(2) tells apart
    by their inode numbers only, which differ as the members' numbers do. None: no two are known to
    be so.
    """

    prefix: str
    runs: Callable[[T_contra], Iterable[tuple[int, int]]]
    has: Callable[[T_contra, int], bool]
    count: Callable[[T_contra], int]
    directory: Callable[[T_contra, int], Kobject] | None = None
    link: Callable[[T_contra, int], str] | None = None
    run: Callable[[T_contra, int], tuple[int, int] | None] | None = None
    doc: str = ""

    def run_of(self, kobj: T_contra, index: int) -> tuple[int, int] | None:
        """As `run`; None for a number that does not exist."""
        if self.run is not None:
            return self.run(kobj, index)
        return (index, index) if self.has(kobj, index) else None


Entry: TypeAlias = (
    Attribute[T_contra]
    | Link[T_contra]
    | Group[T_contra]
    | DeviceNode[T_contra]
    | Subdirectories[T_contra]
    | Links[T_contra]
    | DeviceNodes[T_contra]
    | Indexed[T_contra]
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry stands in its table, and what follows from that for each of its files.

    `group` is the group around it (None: the directory itself). `directory_mode` has the permission
    bits of directories, `file_size` the st_size of attributes that declare none.

    `mode` is the type and the bits of a file or link as declared (0 for directories). `static_stat`
    is (mode, size, link count) where that is all that lstat(2) tells of the entry, whatever the
    object. `condition` is the entry's own, None: always there. `conditions` begins with those of
    the groups around, the outermost first, and ends with it; each may rely on those before and on
    the owner. `owner` is the declared one, else that of the group around. `passing`: the name may
    come and go.
    """

    slot: int
    entry: Entry[Any]
    group: Place | None
    directory_mode: int
    file_size: int
    mode: int = field(init=False)
    static_stat: tuple[int, int, int] | None = field(init=False)
    condition: Condition[Any] | None = field(init=False)
    conditions: tuple[Condition[Any], ...] = field(init=False)
    owner: Owner[Any] | None = field(init=False)
    passing: bool = field(init=False)

    def __post_init__(self) -> None:
        entry = self.entry
        condition = _condition(entry)
        around = self.group.conditions if self.group else ()
        derived = {
            "mode": _mode(entry),
            "static_stat": _static_stat(entry, self.directory_mode, self.file_size),
            "condition": condition,
            "conditions": around if condition is None else (*around, condition),
            "owner": _owner(entry) or (self.group.owner if self.group else None),
            "passing": condition is not None or _owner(entry) is not None or _is_family(entry),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def size_of(self, kobj: Any) -> int:
        """The st_size of an attribute of this object."""
        entry = self.entry
        assert isinstance(entry, Attribute)
        if entry.log is not None:
            return entry.log(kobj).size
        if entry.size is None:
            return self.file_size
        return entry.size(kobj) if callable(entry.size) else entry.size

    def mode_of(self, kobj: Any) -> int:
        """The type and the bits of an attribute of this object, before any chmod(2)."""
        narrow = self.entry.narrow if isinstance(self.entry, Attribute) else None
        return self.mode if narrow is None else stat.S_IFREG | narrow(kobj)


def _is_family(entry: Entry[Any]) -> bool:
    return isinstance(entry, Subdirectories | Links | DeviceNodes | Indexed)


def _owner(entry: Entry[Any]) -> Owner[Any] | None:
    return entry.owner if isinstance(entry, Attribute | Group) else None


def _condition(entry: Entry[Any]) -> Condition[Any] | None:
    if isinstance(entry, Attribute | Group):
        return entry.visible
    if isinstance(entry, Link):
        target = entry.target
        return lambda kobj: target(kobj) is not None
    if isinstance(entry, DeviceNode):
        device = entry.device
        return lambda kobj: device(kobj) is not None
    return None


def _mode(entry: Entry[Any]) -> int:
    if isinstance(entry, Attribute):
        return stat.S_IFREG | entry.mode
    if isinstance(entry, Link | Links) or (isinstance(entry, Indexed) and entry.link is not None):
        return stat.S_IFLNK | 0o777
    if isinstance(entry, DeviceNode):
        return stat.S_IFCHR | entry.mode
    if isinstance(entry, DeviceNodes):
        return stat.S_IFCHR
    return 0


def _static_stat(entry: Entry[Any], directory_mode: int, file_size: int) -> tuple[int, int, int] | None:
    if isinstance(entry, Attribute):
        size = file_size if entry.size is None else entry.size
        fixed = entry.narrow is None and entry.log is None
        return (_mode(entry), size, 1) if fixed and isinstance(size, int) else None
    if isinstance(entry, Link | Links):
        return _mode(entry), 0, 1
    if isinstance(entry, Group) and all(isinstance(inside, Attribute | Link | Links) for inside in entry.entries):
        return stat.S_IFDIR | directory_mode, 0, 2
    return None


class DirectoryKind(Generic[T_contra]):
    """The table of one kind of directory.

    `path` gives the absolute path, inside the mount, of an object's directory. `mode` has the
    permission bits of the directory and of its groups. `file_size` is the st_size in bytes of
    attributes that declare none: 4,096 in sysfs, 0 in /proc, debugfs and control/. `made` gives the
    entries that users made in the directory, where they may (user_entries.py).

    Raises ValueError: one name declared twice, more than 255 entries.
    """

    __slots__ = (
        "_by_name",
        "_directories",
        "_families",
        "_indexed",
        "_singles",
        "entries",
        "file_size",
        "made",
        "mode",
        "name",
        "path",
        "places",
    )

    def __init__(
        self,
        name: str,
        path: Callable[[T_contra], str],
        entries: Iterable[Entry[T_contra]],
        *,
        mode: int = 0o755,
        file_size: int = PAGE_SIZE,
        made: Callable[[T_contra], Any] | None = None,
    ) -> None:
        self.name = name
        self.made = made
        self.path = path
        self.mode = mode
        self.file_size = file_size
        self.entries = tuple(entries)
        self.places: list[Place] = []
        self._by_name: dict[tuple[int, bytes], Place] = {}
        self._families: dict[int, list[Place]] = {}
        self._directories: dict[int, list[Place]] = {}
        self._indexed: dict[int, tuple[bytes, ...]] = {}
        self._singles: dict[int, list[tuple[int, bytes, Place]]] = {}
        self._number(self.entries, None)
        if len(self.places) > SLOTS - 1:
            msg = f"directory kind {name} has more than {SLOTS - 1} entries"
            raise ValueError(msg)

    def _number(self, entries: tuple[Entry[Any], ...], group: Place | None) -> None:
        around = group.slot if group else 0
        families = self._families[around] = []
        singles: list[tuple[int, bytes, Place]] = []
        for entry in entries:
            place = Place(len(self.places) + 1, entry, group, self.mode, self.file_size)
            self.places.append(place)
            if isinstance(entry, Attribute | Link | Group | DeviceNode):
                key = (around, entry.name.encode())
                if key in self._by_name:
                    msg = f"directory kind {self.name} declares {entry.name} twice"
                    raise ValueError(msg)
                self._by_name[key] = place
                if not isinstance(entry, Attribute) or entry.listed:
                    singles.append((single_key(key[1], place.slot), key[1], place))
            else:
                families.append(place)
            if isinstance(entry, Group):
                self._number(entry.entries, place)
            if isinstance(entry, Links):
                for _ in range(entry.slots - 1):
                    self.places.append(Place(len(self.places) + 1, entry, group, self.mode, self.file_size))
        self._directories[around] = [
            place for place in (*(place for _, _, place in singles), *families) if not place.mode
        ]
        self._singles[around] = sorted(singles, key=lambda single: sort_key(single[0], single[1]))
        self._indexed[around] = tuple(
            place.entry.prefix.encode() for place in families if isinstance(place.entry, Indexed)
        )

    def named(self, around: int, name: bytes) -> Place | None:
        """The single entry `name` in the group at slot `around` (0: the directory itself)."""
        return self._by_name.get((around, name))

    def families(self, around: int) -> list[Place]:
        """The families in the group at slot `around`."""
        return self._families[around]

    def singles(self, around: int) -> list[tuple[int, bytes, Place]]:
        """(key, name, place) of the listed single entries in a group, in kernfs's order."""
        return self._singles[around]

    def directories(self, around: int) -> list[Place]:
        """The groups and the families of directories in the group at slot `around`."""
        return self._directories[around]

    def may_change(self, around: int, name: bytes) -> bool:
        """Whether a name of no indexed family may come and go in the group at slot `around`."""
        place = self._by_name.get((around, name))
        if place is not None:
            return place.passing
        return len(self._families.get(around, ())) > len(self._indexed.get(around, ()))

    def prefixes(self, around: int) -> tuple[bytes, ...]:
        """The prefixes of the indexed families in the group at slot `around`."""
        return self._indexed.get(around, ())


SLOTS = 256
"""Entries in one table, groups flattened: eight bits of the inode number."""


@dataclass(slots=True)
class Directory:
    """A directory that stands for no object of the kernel (`/sys/devices`).

    It has a table of its own. `kobj` is the object that the functions of its entries get.
    `children` are the static directories in it, by name.
    """

    serial: int
    kind: DirectoryKind[Any]
    kobj: Any
    children: dict[str, Directory] = field(default_factory=dict)
    index: int = field(default=0, init=False)
