"""How a directory is declared: once, as a table.

A `DirectoryKind` is the table of one kind of directory: its attributes, links, groups of attributes (a directory that
has no object of its own, like `power/`) and families (children that come and go: `memoryN`, bound devices). Nothing
is stored per directory or file: a file is found as (object, place in the table), and `show`, `store`, `visible` are
asked at each call. What the Linux driver core calls attribute groups and `is_visible`, in that shape.

Sources: include/linux/sysfs.h, fs/sysfs/group.c, fs/kernfs/.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from fakesysfs.kernfs.log import Log
from fakesysfs.kernfs.name_hash import rank, single_key
from fakesysfs.ops.sched import Operation, WaitQueue

PAGE_SIZE = 4096
"""st_size of every sysfs attribute and the most that a `store` is given, in bytes."""


class Kobject(Protocol):
    """What a directory stands for.

    Identity is `serial`, unique among all that live and not reused while in living memory.
    """

    @property
    def serial(self) -> int:
        """1 to 2**20 - 1, given when the object is registered."""

    @property
    def index(self) -> int:
        """Which of the objects that share the serial (memory blocks added together do); 0 for all others."""


Show = Callable[[Any], str | bytes]
SleepingShow = Callable[[Any], Operation[str]]
Store = Callable[[Any, bytes], Operation[None] | None]
Visible = Callable[[Any], bool]
Owner = Callable[[Any], Kobject | None]


class Stream(Protocol):
    """One reader's place in something that goes on (`control/kmsg_follow`)."""

    def read(self, size: int, *, wait: bool) -> Operation[bytes]:
        """Wait for at least one byte and return at most `size`; b"" ends it.

        `wait` is false for an open file with O_NONBLOCK: EAGAIN instead.
        """

    def waits_on(self) -> WaitQueue | None:
        """What wakes a reader that would wait now; None: it would not, which poll(2) says."""

    def close(self) -> None:
        """The file is closed."""
        return


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """A file.

    `show` is called once per open file at offset 0 and its text kept there (fs/seq_file.c); `sleeping_show` is for
    the one that takes a lock. A `log` is a text that grows; its st_size is its length. `store` gets at most 4,096 bytes
    as written; a coroutine function if it may sleep.
    `size` is st_size (0 in debugfs, /proc and control). `narrow` lets an object take mode bits away or add them (dax
    `size` is 0444 in a static region). `owner` gives the object with whose life the file comes and goes, if that is
    another than the directory's (a driver's attribute on a device): None is no file now, another one is another file.
    `doc` is the sentence for docs/abi.md.
    """

    name: str
    mode: int
    show: Show | None = None
    sleeping_show: SleepingShow | None = None
    store: Store | None = None
    stream: Callable[[Any], Stream] | None = None
    log: Callable[[Any], Log] | None = None
    visible: Visible | None = None
    owner: Owner | None = None
    narrow: Callable[[Any], int] | None = None
    size: int | Callable[[Any], int] = PAGE_SIZE
    max_store: int | None = PAGE_SIZE
    """Bytes that one write hands to `store`; None: all of them, and a write of none reaches it too."""
    seekable: bool = True
    """False: lseek, pread and pwrite are ESPIPE and a text is read once per open file.

    fs/libfs.c, simple_attr_open.
    """
    removed: int = errno.ENODEV
    """The errno of reads and writes of an open file whose node is gone (EIO in debugfs)."""
    doc: str = ""

    @property
    def listed(self) -> bool:
        """Whether readdir gives the name.

        A read of a stream waits for more. Programs that read whatever readdir gives (`cp -r`,
        `grep -r`, `tar`) would never end, so a stream can be opened by its name only.
        """
        return self.stream is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A symbolic link, relative as sysfs makes it, to the absolute path (inside the mount) that `target` gives.

    A link whose `target` is None at the moment does not exist.
    """

    name: str
    target: Callable[[Any], str | None]
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A subdirectory without an object of its own; its entries get the object of the directory around it.

    `owner` gives the object with whose life it comes and goes, as that of an attribute does for one file.
    """

    name: str
    entries: tuple[Entry, ...]
    visible: Visible | None = None
    owner: Owner | None = None
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A character device node; `device` gives (major, minor) or None where there is none now."""

    name: str
    mode: int
    device: Callable[[Any], tuple[int, int] | None]
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subdirectories:
    """A family of directories by name. `of` gives name -> object for all that exist now."""

    of: Callable[[Any], Mapping[str, Kobject]]
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """A family of links by name. `of` gives name -> (object that the link is kobj, absolute path of the target).

    In a directory whose object shares its serial with others the members are told apart by their position, which must
    not change while they live: `slots` says how many there may be. `verbatim`: not a path, but whatever the link says.
    """

    of: Callable[[Any], Mapping[str, tuple[Kobject, str]]]
    slots: int = 1
    verbatim: bool = False
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """A family of character device nodes by name: name -> (object, mode, major, minor)."""

    of: Callable[[Any], Mapping[str, tuple[Kobject, int, int, int]]]
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed:
    """A family named `prefix` + decimal number, kept in runs: half a million blocks cost as much as one.

    `runs` gives the numbers that exist, as ascending disjoint (first, last) pairs; `directory` the object of one
    number (a family of directories) or `link` the absolute path of its target (a family of links). `count` is the
    number of members, where that is known without a walk. `run` gives the (first, last) around a number, all there,
    of members that lstat(2) tells apart by nothing but their inode numbers, which are as far apart as they are;
    None: no two are known to be so.
    """

    prefix: str
    runs: Callable[[Any], Iterable[tuple[int, int]]]
    has: Callable[[Any, int], bool]
    count: Callable[[Any], int]
    directory: Callable[[Any, int], Kobject] | None = None
    link: Callable[[Any, int], str] | None = None
    run: Callable[[Any, int], tuple[int, int] | None] | None = None
    doc: str = ""

    def run_of(self, kobj: Any, index: int) -> tuple[int, int] | None:
        """As `run`; of a number that is not there, None."""
        if self.run is not None:
            return self.run(kobj, index)
        return (index, index) if self.has(kobj, index) else None


Entry = Attribute | Link | Group | Node | Subdirectories | Links | Nodes | Indexed


Condition = Callable[[Any], bool]
"""What must hold of the object for an entry to be there."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry stands in its table, and what follows from that for each of its files, worked out beforehand.

    `group` is the group directory around it (None: the directory itself), `directory_mode` the bits of directories.
    `mode` is the type and the bits of a file or link as declared (0 for directories); `form` is mode, size and link
    count, where these are all that lstat(2) tells of such an entry, whatever the object. `condition` is the entry's
    own, None: always there; `conditions` are those of the groups around, the outermost first, and that: each may rely
    on those before, and on the owner. `owner` is the declared one, else that of the group around.
    """

    slot: int
    entry: Entry
    group: Place | None
    directory_mode: int
    mode: int = field(init=False)
    form: tuple[int, int, int] | None = field(init=False)
    condition: Condition | None = field(init=False)
    conditions: tuple[Condition, ...] = field(init=False)
    owner: Owner | None = field(init=False)
    passing: bool = field(init=False)

    def __post_init__(self) -> None:
        entry = self.entry
        condition = _condition(entry)
        around = self.group.conditions if self.group else ()
        derived = {
            "mode": _mode(entry),
            "form": _form(entry, self.directory_mode),
            "condition": condition,
            "conditions": around if condition is None else (*around, condition),
            "owner": _owner(entry) or (self.group.owner if self.group else None),
            "passing": condition is not None or _owner(entry) is not None or _is_family(entry),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)


def _is_family(entry: Entry) -> bool:
    return isinstance(entry, Subdirectories | Links | Nodes | Indexed)


def _owner(entry: Entry) -> Owner | None:
    return entry.owner if isinstance(entry, Attribute | Group) else None


def _condition(entry: Entry) -> Condition | None:
    if isinstance(entry, Attribute | Group):
        return entry.visible
    if isinstance(entry, Link):
        target = entry.target
        return lambda kobj: target(kobj) is not None
    if isinstance(entry, Node):
        device = entry.device
        return lambda kobj: device(kobj) is not None
    return None


def _mode(entry: Entry) -> int:
    if isinstance(entry, Attribute):
        return stat.S_IFREG | entry.mode
    if isinstance(entry, Link | Links) or (isinstance(entry, Indexed) and entry.link is not None):
        return stat.S_IFLNK | 0o777
    if isinstance(entry, Node):
        return stat.S_IFCHR | entry.mode
    if isinstance(entry, Nodes):
        return stat.S_IFCHR
    return 0


def _form(entry: Entry, directory_mode: int) -> tuple[int, int, int] | None:
    if isinstance(entry, Attribute):
        fixed = entry.narrow is None and entry.log is None
        return (_mode(entry), entry.size, 1) if fixed and isinstance(entry.size, int) else None
    if isinstance(entry, Link | Links):
        return _mode(entry), 0, 1
    if isinstance(entry, Group) and all(isinstance(inside, Attribute | Link | Links) for inside in entry.entries):
        return stat.S_IFDIR | directory_mode, 0, 2
    return None


class DirectoryKind:
    """The table of one kind of directory.

    `path` gives the absolute path, inside the mount, of an object's directory. `made` gives what users made in it,
    where they may (made.py).
    """

    __slots__ = (
        "_by_name",
        "_directories",
        "_families",
        "_indexed",
        "_singles",
        "entries",
        "made",
        "mode",
        "name",
        "path",
        "places",
    )

    def __init__(
        self,
        name: str,
        path: Callable[[Any], str],
        entries: Iterable[Entry],
        *,
        mode: int = 0o755,
        made: Callable[[Any], Any] | None = None,
    ) -> None:
        self.name = name
        self.made = made
        self.path = path
        self.mode = mode
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

    def _number(self, entries: tuple[Entry, ...], group: Place | None) -> None:
        around = group.slot if group else 0
        families = self._families[around] = []
        singles: list[tuple[int, bytes, Place]] = []
        for entry in entries:
            place = Place(len(self.places) + 1, entry, group, self.mode)
            self.places.append(place)
            if isinstance(entry, Attribute | Link | Group | Node):
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
                self.places += [
                    Place(len(self.places) + 1 + more, entry, group, self.mode) for more in range(entry.slots - 1)
                ]
        self._directories[around] = [
            place for place in (*(place for _, _, place in singles), *families) if not place.mode
        ]
        self._singles[around] = sorted(singles, key=lambda single: rank(single[0], single[1]))
        self._indexed[around] = tuple(
            place.entry.prefix.encode() for place in families if isinstance(place.entry, Indexed)
        )

    def named(self, around: int, name: bytes) -> Place | None:
        """The single entry called `name` in the group at slot `around` (0: the directory itself)."""
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
        """Whether a name may come and go in the group at slot `around`; those of indexed families apart."""
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
    """A directory that is there as long as the mount and stands for nothing (`/sys/devices`), with its own table.

    `kobj` is what its `show` and `store` functions get.
    """

    serial: int
    kind: DirectoryKind
    kobj: Any
    index: int = field(default=0, init=False)
