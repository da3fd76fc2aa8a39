"""64 clients on one mount, each answer checked.

dax0.0 belongs to nobody: writers plug it, unplug it and change its blocks as they like. Each other device has an owner,
the only one who changes it, and who must see what it has written. Readers, lookups and listings go everywhere.
"""

from __future__ import annotations

import os
import random
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from errno import EBUSY, EINVAL, ENODEV, ENOENT

from tests.soaking.arena import (
    BLOCK_SIZE,
    BOOT_BLOCKS,
    DAX,
    DAX_BLOCKS,
    DEVICES,
    KMEM,
    MEMORY,
    Arena,
    blocks_of,
)
from tests.soaking.fork import Attack, clients
from tests.soaking.report import Tally

GONE = (ENOENT, ENODEV)
"""What the kernel says of a device that is not there or goes away."""
POLICIES = ("offline", "online", "online_kernel", "online_movable")
BINDER_DEVICE = DEVICES - 1
OWNED = range(1, BINDER_DEVICE)

_STATE = r"(online|offline|going-offline)\n"
_HOTPLUG = r"(unplugged|offline|online|online_movable)\n"
_LIST = r"[0-9,-]*\n"
_BLOCK_VALUES = {
    "state": _STATE,
    "online": r"[01]\n",
    "removable": r"[01]\n",
    "valid_zones": r"(none|(DMA|DMA32|Normal|Movable)( (Normal|Movable))?)\n",
}
_VALUES = {
    f"{MEMORY}/block_size_bytes": f"{BLOCK_SIZE:x}\n",
    f"{MEMORY}/auto_online_blocks": rf"({'|'.join(POLICIES)})\n",
    "sys/devices/system/node/online": _LIST,
    "sys/devices/system/node/has_memory": _LIST,
    "control/kernel": "hotplug-v3\n",
    "proc/iomem": r"( *[0-9a-f]+-[0-9a-f]+ : [^\n]+\n)+",
    **{f"{DAX}/dax{device}.0/hotplug": _HOTPLUG for device in range(DEVICES)},
    **{f"{DAX}/dax{device}.0/size": f"{len(blocks_of(0)) * BLOCK_SIZE}\n" for device in range(DEVICES)},
}


def _repeat(until: float, act: Callable[[], None]) -> None:
    while time.monotonic() < until:
        act()


# Those who only look --------------------------------------------------------------------------------------------------


def read(arena: Arena, draw: random.Random, until: float) -> list[Tally]:
    """Every read of a value is one that the model may give."""
    tally = Tally("clients: read")

    def total() -> None:
        path = "proc/meminfo"
        with tally.operation(f"read {path}"):
            found = re.match(r"MemTotal: +(\d+) kB\n", arena.read(path))
            boot_kib = len(BOOT_BLOCKS) * BLOCK_SIZE >> 10
            hotplugged = int(found[1]) - boot_kib if found else -1
            in_range = 0 <= hotplugged <= len(DAX_BLOCKS) * BLOCK_SIZE >> 10
            whole = hotplugged % (BLOCK_SIZE >> 10) == 0
            tally.expect(in_range and whole, f"{path}: MemTotal is {found}, expected whole blocks")

    def value() -> None:
        block = draw.choice((*BOOT_BLOCKS, *DAX_BLOCKS))
        if draw.random() < 0.2:
            name, pattern = "phys_index", f"{block:08x}\n"
        else:
            name, pattern = draw.choice(list(_BLOCK_VALUES.items()))
        path = f"{MEMORY}/memory{block}/{name}"
        allowed: tuple[int, ...] = GONE if block in DAX_BLOCKS else ()
        if draw.random() < 0.3:
            path, pattern = draw.choice(list(_VALUES.items()))
            # its driver is unbound from time to time
            allowed = GONE if path == f"{DAX}/dax{BINDER_DEVICE}.0/hotplug" else ()
        with tally.operation(f"read {path}", *allowed):
            text = arena.read(path)
            tally.expect(re.fullmatch(pattern, text), f"{path}: {text!r}, expected {pattern!r}")

    _repeat(until, lambda: total() if draw.random() < 0.05 else value())
    return [tally]


def look_up(arena: Arena, draw: random.Random, until: float) -> list[Tally]:
    """Names that come and go, stay, or were never there."""
    tally = Tally("clients: look up")

    def one() -> None:
        block = draw.choice((*BOOT_BLOCKS, *DAX_BLOCKS, DAX_BLOCKS[-1] + 1, 20))
        stays, comes = block in BOOT_BLOCKS, block in DAX_BLOCKS
        place = draw.choice((f"{MEMORY}/", "sys/bus/memory/devices/", "control/blocks/"))
        path = f"{place}memory{block}"
        kind = stat.S_IFLNK if "bus" in place else stat.S_IFDIR
        with tally.operation(f"lstat {path}", *(() if stays else (ENOENT,))):
            mode = os.lstat(f"{arena.point}/{path}").st_mode
            tally.expect(stays or comes, f"{path} is there, expected ENOENT")
            tally.expect(stat.S_IFMT(mode) == kind, f"{path}: mode {mode:o}, expected {kind:o}")
        if draw.random() < 0.1:
            path = f"{DAX}/dax{draw.randrange(DEVICES)}.0/driver"
            with tally.operation(f"readlink {path}", *GONE):
                target = os.path.basename(os.readlink(f"{arena.point}/{path}"))
                tally.expect(target == "kmem", f"{path} leads to {target}, expected kmem")

    _repeat(until, one)
    return [tally]


_COMING = {
    MEMORY: {f"memory{block}" for block in DAX_BLOCKS},
    "sys/bus/memory/devices": {f"memory{block}" for block in DAX_BLOCKS},
    "control/blocks": {f"memory{block}" for block in DAX_BLOCKS},
    "sys/devices/system/node": {f"node{2 + device}" for device in range(DEVICES)},
    DAX: set[str](),
    KMEM: {f"dax{BINDER_DEVICE}.0"},
    f"{DAX}/dax{BINDER_DEVICE}.0": {"driver", "hotplug"},
    f"{MEMORY}/memory0": set[str](),
}
"""Directories, and the names in them that come and go."""


def lister(staying: Mapping[str, frozenset[str]]) -> Attack:
    """No name twice, none missing that stayed, none that there cannot be."""

    def list_names(arena: Arena, draw: random.Random, until: float) -> list[Tally]:
        tally = Tally("clients: list")

        def one() -> None:
            path = draw.choice(list(staying))
            with tally.operation(f"list {path}"):
                found = arena.names(path)
                names = set(found)
                doubled = sorted(name for name in names if found.count(name) > 1)
                tally.expect(not doubled, f"{path}: doubled {doubled}")
                missing = staying[path] - names
                tally.expect(not missing, f"{path}: misses {sorted(missing)}, which stayed")
                more = names - staying[path] - _COMING[path]
                tally.expect(not more, f"{path}: has {sorted(more)}, which there cannot be")

        _repeat(until, one)
        return [tally]

    return list_names


# Those who change what belongs to nobody ------------------------------------------------------------------------------


def write_states(arena: Arena, draw: random.Random, until: float) -> list[Tally]:
    """Blocks go online and offline."""
    tally = Tally("clients: block state")

    def one() -> None:
        path = f"{MEMORY}/memory{draw.choice(blocks_of(0))}/state"
        word = draw.choice(POLICIES)
        with tally.operation(f"write {word} to {path}", *GONE, EINVAL, EBUSY):
            written = arena.write(path, word)
            tally.expect(written == len(word), f"{path}: {written} of {word!r} were taken")

    _repeat(until, one)
    return [tally]


def write_hotplug(arena: Arena, draw: random.Random, until: float) -> list[Tally]:
    """The device comes and goes."""
    tally = Tally("clients: hotplug")
    path = f"{DAX}/dax0.0/hotplug"

    def one() -> None:
        word = draw.choice(("unplug", "online", "online_movable"))
        with tally.operation(f"write {word} to {path}", EBUSY):
            arena.write(path, word)

    _repeat(until, one)
    return [tally]


def write_policies(arena: Arena, draw: random.Random, until: float) -> list[Tally]:
    """Policies, of which only this client is the writer; and blocks that become unmovable."""
    tally = Tally("clients: policy")

    def one() -> None:
        word = draw.choice(POLICIES)
        path = f"{MEMORY}/auto_online_blocks"
        with tally.operation(f"write {word} to {path}"):
            arena.write(path, word)
            text = arena.read(path)
            tally.expect(text == f"{word}\n", f"{path}: {text!r} after writing {word!r}")
        path = f"control/blocks/memory{draw.choice(blocks_of(0))}/unmovable"
        with tally.operation(f"write to {path}", *GONE):
            arena.write(path, "1")
            arena.write(path, "0")

    _repeat(until, one)
    return [tally]


# Those who own a device -----------------------------------------------------------------------------------------------


def _seen(arena: Arena, device: int) -> Iterator[tuple[str, int]]:
    """For each place where blocks of a device can be seen: how many are."""
    for path in (MEMORY, "sys/bus/memory/devices", "control/blocks"):
        names = {f"memory{block}" for block in blocks_of(device)}
        yield f"listed in {path}", len(names & set(arena.names(path)))
        yield f"found in {path}", sum(arena.exists(f"{path}/{name}") for name in names)


def expect_blocks(arena: Arena, tally: Tally, device: int, after: str, *, there: bool) -> None:
    """All blocks of a device are seen everywhere, or nowhere: one reads what one has written."""
    wanted = len(blocks_of(device)) if there else 0
    with tally.operation(f"look after {after}"):
        for how, number in _seen(arena, device):
            tally.expect(number == wanted, f"{number} blocks {how} after {after}, expected {wanted}")
        node = arena.exists(f"sys/devices/system/node/node{2 + device}")
        tally.expect(node == there, f"node{2 + device} is there: {node} after {after}")
    if not there:
        return
    for block in blocks_of(device):
        path = f"{MEMORY}/memory{block}/state"
        with tally.operation(f"read {path}"):
            text = arena.read(path)
            tally.expect(text == "online\n", f"{path}: {text!r} after {after}, expected online")


def owner(device: int) -> Attack:
    """Plugs and unplugs a device of its own: everything succeeds, and is seen at once."""
    attribute = f"{DAX}/dax{device}.0/hotplug"

    def own(arena: Arena, draw: random.Random, until: float) -> list[Tally]:
        tally = Tally("clients: own a device")

        def one() -> None:
            block = f"{MEMORY}/memory{draw.choice(blocks_of(device))}/state"
            with tally.operation(f"offline and online {block}"):
                for word in ("offline", "online"):
                    arena.write(block, word)
                    text = arena.read(block)
                    tally.expect(text == f"{word}\n", f"{block}: {text!r} after {word}")
            held = os.open(f"{arena.point}/{block}", os.O_RDONLY)
            for word, reads in (("unplug", "unplugged"), (draw.choice(("online", "online_movable")),) * 2):
                with tally.operation(f"write {word} to {attribute}"):
                    arena.write(attribute, word)
                    text = arena.read(attribute)
                    tally.expect(text == f"{reads}\n", f"{attribute}: {text!r} after {word}")
                there = reads != "unplugged"
                expect_blocks(arena, tally, device, f"{word} of dax{device}.0", there=there)
                with tally.operation(f"read {block}, removed while it was open", ENODEV):
                    text = os.read(held, 100).decode()
                    tally.expect(False, f"{block}: {text!r}, expected ENODEV")  # noqa: FBT003
            os.close(held)

        _repeat(until, one)
        return [tally]

    return own


def bind(arena: Arena, draw: random.Random, until: float) -> list[Tally]:
    """Unbinds and binds a device of its own."""
    tally = Tally("clients: bind")
    device = f"dax{BINDER_DEVICE}.0"

    def one() -> None:
        with tally.operation(f"unplug {device}"):
            arena.write(f"{DAX}/{device}/hotplug", "unplug")
        for act, there in (("unbind", False), ("bind", True)):
            with tally.operation(f"{act} {device}"):
                arena.write(f"{KMEM}/{act}", device)
            for path in (f"{KMEM}/{device}", f"{DAX}/{device}/driver", f"{DAX}/{device}/hotplug"):
                with tally.operation(f"lstat {path}"):
                    found = arena.exists(path)
                    tally.expect(found == there, f"{path} is there: {found} after {act}")
            with tally.operation(f"{act} {device} again", ENODEV, EBUSY):
                arena.write(f"{KMEM}/{act}", device)
                tally.expect(False, f"{act} of {device} twice succeeded")  # noqa: FBT003
        expect_blocks(arena, tally, BINDER_DEVICE, f"bind of {device}", there=True)

    _repeat(until, one)
    return [tally]


# Together -------------------------------------------------------------------------------------------------------------


def sixty_four_clients(arena: Arena, draw: random.Random, until: float) -> list[Tally]:
    """All of them beside each other on a machine that has just booted."""
    arena.write("control/reset", "1")
    staying = {path: frozenset(arena.names(path)) - coming for path, coming in _COMING.items()}
    attacks: list[Attack] = [bind, write_policies, *map(owner, OWNED)]
    attacks += [write_hotplug] * 4 + [write_states] * 12
    attacks += [look_up] * 12 + [lister(staying)] * 11
    attacks += [read] * (64 - len(attacks))
    with clients(attacks, arena, draw, until) as tallies:
        pass
    return tallies + [Tally(kind, rounds=1) for kind in {tally.kind for tally in tallies}]
