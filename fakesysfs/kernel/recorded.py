"""What of the modelled kernel a search records (ops/recording.py): all classes of this package.

Not recorded is what is no conflict by itself: the order of log lines, uevents, serials and ignored errors. A
search takes these for a conflict once somebody reads them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from operator import attrgetter
from typing import Any

from fakesysfs.kernel.core import Core
from fakesysfs.kernel.cpu import Cpu
from fakesysfs.kernel.dax.bus import DaxRegion
from fakesysfs.kernel.dax.kmem import DaxKmemData
from fakesysfs.kernel.device import Bus, Device, Driver
from fakesysfs.kernel.interval_map import IntervalMap
from fakesysfs.kernel.memory_block import BlockGroup, MemoryBlock, MemoryGroup
from fakesysfs.kernel.memory_tiers import MemoryDevType, MemoryTier
from fakesysfs.kernel.module import Module
from fakesysfs.kernel.node import NodeData, NodeDevice
from fakesysfs.kernel.printk import Printk
from fakesysfs.kernel.resource import Resource
from fakesysfs.kernel.uevent import Uevents
from fakesysfs.kernel.zones import NodeZones, Zone
from fakesysfs.ops import sched
from fakesysfs.ops.recording import Hooks, classes_of

_PACKAGE = __name__.rpartition(".")[0]

KEYS: Mapping[type, Callable[[Any], Hashable]] = {
    BlockGroup: attrgetter("first"),
    Bus: attrgetter("name"),
    Cpu: attrgetter("number"),
    DaxKmemData: attrgetter("dev_dax.name"),
    DaxRegion: attrgetter("id"),
    Device: attrgetter("name"),
    Driver: attrgetter("name"),
    MemoryBlock: attrgetter("index"),
    MemoryDevType: attrgetter("adistance"),
    MemoryGroup: attrgetter("nid"),
    MemoryTier: attrgetter("number"),
    Module: attrgetter("name"),
    NodeData: attrgetter("nid"),
    NodeDevice: attrgetter("nid"),
    NodeZones: attrgetter("nid"),
    Resource: attrgetter("start", "end", "name"),
    Zone: attrgetter("nid", "name"),
    sched.Mutex: attrgetter("name"),
}
"""What tells objects apart. The fields named here never change."""

IGNORED: Mapping[type, frozenset[str]] = {
    Core: frozenset({"generation", "ignored", "objects", "_serial"}),
    sched.LockObservers: frozenset({"observer"}),
    sched.Mutex: frozenset({"_observers"}),
}
"""Counters and registries: only the order in which objects came shows there. And who traces."""

ALIASES: Mapping[Hashable, Hashable] = {("Libnvdimm", "_buses"): ("Kernel", "buses")}
"""Containers that belong to two objects, but for those that never change. A test looks for such."""


@cache
def hooks() -> Hooks:
    """The hooks for all modules of the kernel."""
    # Who waits has read a field, such as `locked`, and who wakes it up changes that. So the queue is no place.
    apart = (IntervalMap, Printk, Uevents, sched.WaitQueue)
    modules = [module for name, module in sys.modules.items() if name.startswith(f"{_PACKAGE}.")]
    return Hooks(
        classes=classes_of([*modules, sched], apart), keys=KEYS, ignored=IGNORED, aliases=ALIASES, recording=apart
    )
