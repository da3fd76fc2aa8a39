"""Kernel profiles: the behaviours that differ between kernels.

A profile is one value whose fields *name behaviours* (KERNEL.md has the table). No code compares
versions or the names of profiles. A behaviour that all kernels share has no field here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


class Mmop(enum.IntEnum):
    """The online types of a block (include/linux/memory_hotplug.h, enum mmop)."""

    OFFLINE = 0
    ONLINE = 1
    ONLINE_KERNEL = 2
    ONLINE_MOVABLE = 3


DAX_KMEM_UNPLUGGED = -1
"""The state of a bound device whose memory blocks do not exist (drivers/dax/kmem.c)."""


class PolicyCaptured(enum.Enum):
    """When a dax device takes the system's default online policy as its own."""

    AT_ADD = "when its memory is added"
    AT_CREATION = "when the dax device is created"
    AT_BIND = "when kmem is bound"


class Reservation(enum.Enum):
    """When kmem holds its ranges in /proc/iomem."""

    PROBE_TO_UNBIND = "from probe to unbind"
    UNTIL_FIRST_UNPLUG = "from probe to the first unplug, then never again"
    WHILE_PLUGGED = "while the memory is plugged"


class Unbind(enum.Enum):
    """What unbinding a device does with its memory."""

    REMOVE_STOCK = "remove each range whose blocks are all offline; message 'cannot be hotremoved'"
    REMOVE_MERGED = "the same; messages 'stuck online'"
    WARN_UNLESS_OFFLINE = "WARN and leak unless the state is unplugged or offline"


class Reserving(enum.Enum):
    """The order in which kmem reserves its ranges and adds their memory."""

    EACH_BEFORE_ITS_ADD = "each right before it is added; a failed add gives it back"
    ALL_FIRST = "all before the first is added; what could not be reserved is not added, a failed add gives it back"
    ALL_FIRST_UNHEEDED = "all before the first is added; then every range is added, reserved or not"


class RangeFailure(enum.Enum):
    """The effect of a range that cannot be reserved or added on the other ranges."""

    SKIP_LATER = "the first range fails the operation, later ones are warned about and skipped"
    UNDO_ALL = "everything is undone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One kernel: what differs from the other kernels."""

    name: str
    title: str
    evidence: str
    """The source of the behaviour, for `fakesysfs list`."""
    attribute: str | None
    """The name of the whole-device attribute of a device bound to kmem, None without one."""
    words_read: Mapping[int, str] = field(default_factory=dict)
    """State -> the word that a read shows."""
    words_written: Mapping[str, int] = field(default_factory=dict)
    """Word -> the state that a write asks for. Every other word is EINVAL."""
    policy_captured: PolicyCaptured = PolicyCaptured.AT_ADD
    created_offline_stays_unplugged: bool = False
    """A device created under policy offline and bound under another one starts unplugged.

    patch 8.
    """
    plug_types: frozenset[Mmop] = frozenset(Mmop)
    """Online types that the driver can plug with.

    A probe that needs another type fails with EINVAL.
    """
    reservation: Reservation = Reservation.PROBE_TO_UNBIND
    reserving: Reserving = Reserving.ALL_FIRST
    range_failure: RangeFailure = RangeFailure.SKIP_LATER
    unplug_all_ranges_at_once: bool = False
    """Unplug offlines all ranges before it removes any; a failure restores all blocks and is returned.

    Otherwise unplug works range by range: a failure is logged, and the write succeeds.
    """
    unplug_counts_skipped_ranges: bool = False
    """A range smaller than a block counts as not removed, so the device never becomes unplugged."""
    unplug_failure_names_range: bool = False
    """What a failed unplug logs.

    True: the failed mapping, and without MEMORY_HOTREMOVE `hotplug state is inconsistent`.
    False: `hotremove failed, device left online`, and without MEMORY_HOTREMOVE nothing.
    """
    unbind: Unbind = Unbind.REMOVE_STOCK
    leak_frees_name: bool = False
    """A leak at unbind frees a name that /proc/iomem still shows (use after free)."""
    leak_forgets_memory_type: bool = False
    """A leak at unbind takes back the node's memory type, although the memory stays."""
    unbind_drops_any_memory_type: bool = False
    """Unbind takes back one association of the node with any memory type (not with patch 1)."""
    memory_failure_names_kernel_pages: bool = False
    """A failed page of the kernel is a "reserved kernel page"; soft offlining it is ENOTRECOVERABLE."""


_ALL_WORDS: Mapping[int, str] = MappingProxyType(
    {
        DAX_KMEM_UNPLUGGED: "unplugged",
        Mmop.OFFLINE: "offline",
        Mmop.ONLINE: "online",
        Mmop.ONLINE_KERNEL: "online_kernel",
        Mmop.ONLINE_MOVABLE: "online_movable",
    }
)
_SERIES_WRITTEN: Mapping[str, int] = MappingProxyType(
    {"unplug": DAX_KMEM_UNPLUGGED, "online": Mmop.ONLINE, "online_movable": Mmop.ONLINE_MOVABLE}
)

HOTPLUG_V3 = Profile(
    name="hotplug-v3",
    title="the posted series as documented: attribute `hotplug`, its promises kept",
    evidence="specification",
    attribute="hotplug",
    words_read=MappingProxyType({**_ALL_WORDS, Mmop.ONLINE_KERNEL: "online"}),
    words_written=_SERIES_WRITTEN,
    policy_captured=PolicyCaptured.AT_CREATION,
    created_offline_stays_unplugged=True,
    reservation=Reservation.PROBE_TO_UNBIND,
    range_failure=RangeFailure.UNDO_ALL,
    unplug_all_ranges_at_once=True,
    unplug_failure_names_range=True,
    unbind=Unbind.WARN_UNLESS_OFFLINE,
)

HOTPLUG_V3_AS_POSTED = Profile(
    name="hotplug-v3-as-posted",
    title="the posted series bug for bug",
    evidence="recorded",
    attribute="hotplug",
    words_read=MappingProxyType(
        {state: word for state, word in _ALL_WORDS.items() if state not in {Mmop.OFFLINE, Mmop.ONLINE_KERNEL}}
    ),
    words_written=_SERIES_WRITTEN,
    policy_captured=PolicyCaptured.AT_CREATION,
    created_offline_stays_unplugged=True,
    plug_types=frozenset({Mmop.ONLINE, Mmop.ONLINE_MOVABLE}),
    reservation=Reservation.UNTIL_FIRST_UNPLUG,
    reserving=Reserving.ALL_FIRST_UNHEEDED,
    unplug_counts_skipped_ranges=True,
    unplug_failure_names_range=True,
    unbind=Unbind.WARN_UNLESS_OFFLINE,
    leak_frees_name=True,
    leak_forgets_memory_type=True,
)

RELEASED_7_2 = Profile(
    name="7.2",
    title="the released kernel: no whole-device attribute",
    evidence="recorded",
    attribute=None,
    reserving=Reserving.EACH_BEFORE_ITS_ADD,
    unbind_drops_any_memory_type=True,
)

MERGED_7_3 = Profile(
    name="7.3",
    title="the merged form of the series: attribute `state`",
    evidence="recorded",
    attribute="state",
    words_read=_ALL_WORDS,
    words_written=MappingProxyType({word: state for state, word in _ALL_WORDS.items() if state != Mmop.OFFLINE}),
    policy_captured=PolicyCaptured.AT_BIND,
    reservation=Reservation.WHILE_PLUGGED,
    unplug_all_ranges_at_once=True,
    unbind=Unbind.REMOVE_MERGED,
    unbind_drops_any_memory_type=True,
    memory_failure_names_kernel_pages=True,
)

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {profile.name: profile for profile in (HOTPLUG_V3, HOTPLUG_V3_AS_POSTED, RELEASED_7_2, MERGED_7_3)}
)
"""All profiles by name. The first is the default."""


class UnknownKernelError(ValueError):
    """No profile has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"unknown kernel {name!r} (choose from {', '.join(PROFILES)})")


def find_profile(name: str) -> Profile:
    """The profile of this name. Raises UnknownKernelError."""
    profile = PROFILES.get(name)
    if profile is None:
        raise UnknownKernelError(name)
    return profile
