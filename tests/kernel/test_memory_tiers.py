"""Memory types and tiers: the numbers of KERNEL.md 9 and the life of a tier (KERNEL.md 3)."""

from __future__ import annotations

import pytest

from fakesysfs.kernel.config import Config
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.memory_tiers import (
    MEMTIER_CHUNK_BITS,
    MEMTIER_DEFAULT_LOWTIER_ADISTANCE,
    AccessCoordinate,
)
from fakesysfs.kernel.profile import Mmop
from fakesysfs.machine import load
from tests.model import (
    bind,
    block_state,
    booted,
    events_since,
    log_since,
    read_state,
    span,
    unbind,
    write_state,
)

DRAM = AccessCoordinate(5, 5, 200, 200)


@pytest.mark.parametrize(
    ("latency", "bandwidth", "adistance", "tier"),
    [(10, 100, 2304, 18), (20, 50, 9216, 72), (30, 40, 17280, 135), (5, 200, 576, 4)],
)
def test_recorded_distances_from_hmat(latency: int, bandwidth: int, adistance: int, tier: int) -> None:
    """KERNEL.md 9; recording 7.2/10-hmat: 10/100, 20/50, 30/40 against 5/200 are tiers 18, 72, 135."""
    kernel = booted(performance={0: DRAM, 2: AccessCoordinate(latency, latency, bandwidth, bandwidth)})
    value = kernel.tiers.mt_calc_adistance(2, MEMTIER_DEFAULT_LOWTIER_ADISTANCE)
    assert (value, value >> MEMTIER_CHUNK_BITS) == (adistance, tier)
    assert kernel.tiers.tier_of(2) == tier


def test_without_hmat_dram_is_tier_4_and_kmem_22() -> None:
    kernel = booted()
    assert {number: kernel.tiers.nodes_of(number) for number in kernel.tiers.tiers} == {4: [0, 1], 22: [2]}


def test_the_recorded_guest_with_hmat() -> None:
    """7.2/10-hmat: boot memory has computed tiers too; those of nodes 2 and 3 come with their memory."""
    kernel = booted("7.2", load("oracle-hmat").setup())
    assert {number: kernel.tiers.nodes_of(number) for number in kernel.tiers.tiers} == {4: [0], 18: [1], 135: [3]}


def test_a_tier_comes_before_the_first_online_event_and_goes_before_the_last_offline_event() -> None:
    kernel = booted("7.2", policy=Mmop.OFFLINE)
    steps = [(48, "online"), (49, "online_movable"), (48, "offline"), (49, "offline")]
    seen = []
    for index, word in steps:
        before = kernel.uevents.sequence
        assert block_state(kernel, index, word) == "ok"
        seen.append((events_since(kernel, before), 22 in kernel.tiers.tiers))
    assert seen == [
        (["add memory_tier22", "online memory48"], True),
        (["online memory49"], True),
        (["offline memory48"], True),
        (["remove memory_tier22", "offline memory49"], False),
    ]


def test_a_node_that_already_has_a_type_keeps_its_tier() -> None:
    """dax memory on a node with DRAM joins the DRAM's tier (KERNEL.md 9)."""
    kernel = booted(target_node=1)
    assert {number: kernel.tiers.nodes_of(number) for number in kernel.tiers.tiers} == {4: [0, 1]}


def test_two_nodes_of_the_same_distance_share_a_tier_until_both_are_gone() -> None:
    kernel = booted(second=span(80, 83))
    assert kernel.tiers.nodes_of(22) == [2, 3]
    before = kernel.uevents.sequence
    assert write_state(kernel, "unplug", "dax0.0") == "ok"
    assert kernel.tiers.nodes_of(22) == [3]
    assert "remove memory_tier22" not in events_since(kernel, before)
    assert write_state(kernel, "unplug", "dax1.0") == "ok"
    assert 22 not in kernel.tiers.tiers
    assert events_since(kernel, before).count("remove memory_tier22") == 1


def leak_and_offline(profile: str) -> Kernel:
    kernel = booted(profile, blocks=2)
    assert unbind(kernel) == "ok"
    for index in (48, 49):
        assert block_state(kernel, index, "offline") == "ok"
    return kernel


@pytest.mark.parametrize(
    ("profile", "tier"), [("hotplug-v3-as-posted", 4), ("hotplug-v3", 22), ("7.2", 22), ("7.3", 22)]
)
def test_after_a_leak_only_the_posted_series_forgets_the_nodes_type(profile: str, tier: int) -> None:
    """KERNEL.md 9: as posted the node's next first online joins memory_tier4, and no tier event is sent."""
    kernel = leak_and_offline(profile)
    before = kernel.uevents.sequence
    assert block_state(kernel, 48, "online_movable") == "ok"
    assert kernel.tiers.tier_of(2) == tier
    added = ["add memory_tier22"] if tier == 22 else []
    assert events_since(kernel, before) == [*added, "online memory48"]


def test_hmat_access_directories_come_with_the_first_online_memory_and_go_with_the_node() -> None:
    kernel = booted("7.3", policy=Mmop.OFFLINE, performance={0: DRAM, 2: AccessCoordinate(20, 20, 50, 50)})
    seen = [kernel.nodes[2].access]
    for word in ("online", "offline"):
        block_state(kernel, 50, word)
        seen.append(kernel.nodes[2].access)
    assert write_state(kernel, "unplugged") == "ok"
    assert [*seen, kernel.nodes[2].access] == [False, True, True, False], "they stay as long as the node's device"


def test_demotion_targets_are_said_with_numa_migration_and_only_then() -> None:
    """KERNEL.md 9, recording 7.2-distribution/01-boot i=7."""

    def said(*, numa_migration: bool) -> list[str]:
        config = Config(numa_migration=numa_migration, kernel_allocations_on_hotplugged_nodes=False)
        kernel = booted("hotplug-v3", config=config)
        before = kernel.printk.sequence
        write_state(kernel, "unplug")
        write_state(kernel, "online_movable")
        return [line[3:] for line in log_since(kernel, before) if "Demotion" in line]

    assert said(numa_migration=False) == []
    assert said(numa_migration=True) == [
        "Demotion targets for Node 0: null",
        "Demotion targets for Node 1: null",
        "Demotion targets for Node 0: preferred: 2, fallback: 2",
        "Demotion targets for Node 1: preferred: 2, fallback: 2",
        "Demotion targets for Node 2: null",
    ]


def test_binding_and_unbinding_gives_the_type_back() -> None:
    kernel = booted("7.3", blocks=2)
    for _ in range(3):
        assert write_state(kernel, "unplugged") == "ok"
        assert unbind(kernel) == "ok"
        assert kernel.tiers._node_types[2].memtype is None
        assert bind(kernel) == "ok"
        assert read_state(kernel) == "online_movable"
        assert kernel.tiers.tier_of(2) == 22


@pytest.mark.parametrize(
    ("profile", "tier"), [("7.2", 22), ("7.3", 22), ("hotplug-v3", 4), ("hotplug-v3-as-posted", 4)]
)
def test_patch_1_gives_back_the_devices_own_type_and_no_other(profile: str, tier: int) -> None:
    """Before patch 1 unbinding drops whatever type the node has (clear_node_memory_type(node, NULL)).

    Here that of node 1's boot memory, so that the next bind makes it kmem's, and the node's next first online joins
    kmem's tier. The merged form left patch 1 out.
    """
    kernel = booted(profile, blocks=2, target_node=1, policy=Mmop.ONLINE_MOVABLE)
    if profile != "7.2":
        assert write_state(kernel, "unplugged" if profile == "7.3" else "unplug") == "ok"
    for index in (48, 49) if profile == "7.2" else ():
        assert block_state(kernel, index, "offline") == "ok"
    assert unbind(kernel) == "ok"
    assert bind(kernel) == "ok"
    boot = [index for first, last in kernel.memory_blocks.of_node(1) for index in range(first, last + 1)]
    for word in ("offline", "online"):
        for index in boot:
            assert block_state(kernel, index, word) == "ok"
    assert kernel.tiers.tier_of(1) == tier


def test_a_leak_gives_up_one_hold_of_several() -> None:
    """As posted, two devices on a node: the other one still holds the node's type when the first is leaked."""
    kernel = booted("hotplug-v3-as-posted", blocks=2, second=span(80, 81), second_node=2)
    assert unbind(kernel) == "ok"
    for index in (48, 49, 80, 81):
        assert block_state(kernel, index, "offline") == "ok"
    assert block_state(kernel, 48, "online_movable") == "ok"
    assert kernel.tiers.tier_of(2) == 22
