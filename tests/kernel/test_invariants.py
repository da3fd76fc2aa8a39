"""What holds of every kernel whatever is done to it, one state machine per profile.

The rules are all that a user can do to the memory of a machine; the invariants are written down once, with what differs
between profiles beside them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from fakesysfs.kernel.config import Config
from fakesysfs.kernel.dax import bus as dax_bus
from fakesysfs.kernel.dax.bus import DaxDriver, DevDax
from fakesysfs.kernel.dax.kmem import FREED_NAME, KMEM_NAME, DaxKmemData, Kmem
from fakesysfs.kernel.ida import Ida
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.memory_block import State
from fakesysfs.kernel.profile import DAX_KMEM_UNPLUGGED, PROFILES, Mmop
from fakesysfs.kernel.range import Range
from fakesysfs.kernel.resource import Resource
from fakesysfs.kernel.setup import Setup
from fakesysfs.kernfs import Tree, names_in, open_directory
from fakesysfs.machine import MachineDescription
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import Operation
from fakesysfs.sysroot import Sysroot
from tests.model import BLOCK, FIRST_DAX_BLOCK, dax, drive, name_of, read_state, small_setup, span, world

BLOCKS = 6
SECOND = range(60, 63)
INDEX = st.one_of(st.integers(FIRST_DAX_BLOCK, FIRST_DAX_BLOCK + BLOCKS - 1), st.sampled_from(SECOND))
DEVICE = st.sampled_from(["dax0.0", "dax0.0", "dax0.1", "dax0.2", "dax1.0"])
UNPLUG = "the kernel's word for it"
WORDS = st.one_of(
    st.just(UNPLUG),
    st.sampled_from(["online", "online_movable"]),
    st.sampled_from(["unplug", "unplugged", "online", "online_kernel", "online_movable", "offline", "junk"]),
)
POLICIES = ("offline", "online", "online_kernel", "online_movable")
PAGES = BLOCK >> 12


def in_use(ida: Ida) -> list[int]:
    """The numbers that are taken."""
    return sorted(ida._taken)


class _Described(MachineDescription):
    """A machine that was not read from a file."""

    def __init__(self, setup: Setup) -> None:
        self.name = self.text = ""
        self._made = setup

    def setup(self) -> Setup:
        return self._made


def links(tree: Tree, path: str) -> Iterator[tuple[str, int]]:
    """The symbolic links below a directory: path and inode number."""
    for name, ino, _ in list(open_directory(tree, tree.walk(path)).entries(0)):
        below = f"{path}/{name.decode()}"
        mode = tree.getattr(ino).mode
        if stat.S_ISDIR(mode):
            yield from links(tree, below)
        elif stat.S_ISLNK(mode):
            yield below, ino


def dangling(tree: Tree, *places: str) -> list[str]:
    """The links below some directories that lead nowhere."""
    found = []
    for place in places or ("/sys", "/proc", "/control"):
        for path, ino in links(tree, place):
            try:
                tree.walk(os.path.normpath(f"{os.path.dirname(path)}/{tree.readlink(ino).decode()}"))
            except KernelError:
                found.append(path)
    return found


DYNAMIC = (
    "/sys/bus/dax",
    "/sys/bus/memory_tiering",
    "/sys/bus/node",
    "/sys/dev",
    "/sys/module",
    "/sys/devices/platform",
)
"""Where links come and go."""


class KernelMachine(RuleBasedStateMachine):
    """Everything that can be done, and what must hold after each step."""

    profile = "hotplug-v3"

    def __init__(self) -> None:
        super().__init__()
        self.leaked: set[str] = set()
        self.replayed: dict[str, str] = {}
        self.seen = 0

    @initialize(
        policy=st.sampled_from(list(Mmop)), kernel_allocations=st.booleans(), target_node=st.sampled_from([1, 2])
    )
    def boot(self, policy: Mmop, kernel_allocations: bool, target_node: int) -> None:  # noqa: FBT001  drawn
        config = Config(pm=False, kernel_allocations_on_hotplugged_nodes=kernel_allocations)
        setup = small_setup(
            policy=policy, blocks=BLOCKS, second=span(SECOND[0], SECOND[-1]), target_node=target_node, config=config
        )
        self.sysroot = Sysroot(_Described(setup), PROFILES[self.profile], now_ns=lambda: 0)
        kernel = self.kernel
        self.boot_blocks = {
            index
            for first, last, status in kernel.memory_blocks.runs
            for index in range(first, last + 1)
            if index < FIRST_DAX_BLOCK
        }
        self.replayed = {f"memory{index}": "online" for index in self.boot_blocks}
        self.replayed |= dict.fromkeys(("node0", "node1", "memory_tier4"), "")

    @property
    def kernel(self) -> Kernel:
        return self.sysroot.kernel

    def _do(self, operation: Operation[Any] | None) -> str:
        try:
            if operation is not None:
                drive(operation, interrupt=True)
        except KernelError as error:
            return error.name
        return "ok"

    def _device(self, name: str) -> DevDax | None:
        device = self.kernel.dax_bus.devices.get(name)
        return device if isinstance(device, DevDax) else None

    # Rules --------------------------------------------------------------------------------------------------------

    @rule(name=DEVICE, word=WORDS)
    def write_attribute(self, name: str, word: str) -> None:
        if word is UNPLUG:
            word = "unplugged" if self.profile == "7.3" else "unplug"
        device = self._device(name)
        data = device.driver_data if device is not None else None
        if device is None or not isinstance(data, DaxKmemData) or not data.attribute_exists:
            return
        driver = device.driver
        assert isinstance(driver, Kmem)
        before, state, held = world(self.kernel), data.state, data.reserved()
        outcome = self._do(driver.hotplug_store(device, word.encode()))
        wanted = self.kernel.profile.words_written.get(word)
        if wanted is None:
            assert outcome == "EINVAL"
        elif wanted == state:
            assert (outcome, world(self.kernel)) == ("ok", before)
        elif DAX_KMEM_UNPLUGGED not in {wanted, state}:
            assert outcome == "EBUSY"
        elif outcome == "ok" and self.profile != "hotplug-v3-as-posted":
            if wanted == DAX_KMEM_UNPLUGGED:
                self._has_nothing(held)
            else:
                self._has_all(data.reserved())
        if outcome != "ok":
            # A rollback may meet new reasons to fail only with injected errors; there are none here.
            assert world(self.kernel) == before
            assert data.state == state
        elif self.profile != "hotplug-v3-as-posted":
            assert read_state(self.kernel, name) == {"unplug": "unplugged"}.get(word, word)

    def _has_all(self, reserved: list[tuple[int, Range]]) -> None:
        """All blocks of the ranges are online."""
        for _, piece in reserved:
            runs = list(self.kernel.memory_blocks.runs.between(piece.start // BLOCK, piece.end // BLOCK))
            assert {status.state for _, _, status in runs} == {State.ONLINE}
            assert sum(last - first + 1 for first, last, _ in runs) == piece.length // BLOCK

    def _has_nothing(self, reserved: list[tuple[int, Range]]) -> None:
        """There is no block of the ranges."""
        for _, piece in reserved:
            assert not list(self.kernel.memory_blocks.runs.between(piece.start // BLOCK, piece.end // BLOCK))

    @rule(index=INDEX, word=st.sampled_from(POLICIES))
    def write_block_state(self, index: int, word: str) -> None:
        before = self.kernel.memory_blocks.get(index)
        was = before.status.state.value if before is not None else None
        outcome = self._do(self.kernel.memory_blocks.state_store(index, word.encode()))
        if was is None:
            assert outcome == "ENODEV"
        elif (was == "offline") == (word == "offline"):
            assert outcome == "EINVAL"

    @rule(index=st.sampled_from([1, 33, 40, 47]), word=st.sampled_from(POLICIES))
    def write_boot_block_state(self, index: int, word: str) -> None:
        self._do(self.kernel.memory_blocks.state_store(index, word.encode()))

    @rule(index=INDEX, value=st.sampled_from([b"0", b"1"]))
    def write_block_online(self, index: int, value: bytes) -> None:
        self._do(self.kernel.memory_blocks.online_store(index, value))

    @rule(name=DEVICE)
    def offline_all_by_hand_then_unbind(self, name: str) -> None:
        """The old workflow of daxctl."""
        device = self._device(name)
        if device is not None and isinstance(device.driver_data, DaxKmemData):
            for _, piece in device.driver_data.usable():
                for index in range(piece.start // BLOCK, piece.end // BLOCK + 1):
                    self._do(self.kernel.memory_blocks.state_store(index, b"offline"))
            self.unbind(name, "kmem")

    @rule(name=DEVICE)
    def unplug_then_unbind_then_give_the_space_back(self, name: str) -> None:
        """The series' workflow, as far as it gets."""
        self.no_flags()
        self.write_attribute(name, UNPLUG)
        self.unbind(name, "kmem")
        self.resize(name, 0)

    @rule(blocks=st.integers(1, BLOCKS), index=INDEX)
    def another_device(self, blocks: int, index: int) -> None:
        """UserEntries, given two ranges if they are free, and bound."""
        before = set(self.kernel.dax_bus.devices)
        self.create()
        for name in set(self.kernel.dax_bus.devices) - before:
            self.resize(name, blocks)
            self.add_mapping(name, index, 2)
            self.write_id(name, "kmem", remove=False)

    @rule(word=st.sampled_from(POLICIES))
    def set_policy(self, word: str) -> None:
        self.kernel.memory_hotplug.mhp_set_default_online_type(word.encode())

    @rule(policy=st.sampled_from([b"contig-zones", b"auto-movable"]))
    def set_online_policy(self, policy: bytes) -> None:
        self.kernel.memory_hotplug.set_online_policy(policy)

    def _driver(self, name: str) -> DaxDriver | None:
        driver = self.kernel.dax_bus.drivers.get(name)
        return driver if isinstance(driver, DaxDriver) else None

    @rule(name=DEVICE, driver=st.sampled_from(["kmem", "kmem", "device_dax"]))
    def bind(self, name: str, driver: str) -> None:
        found, device = self._driver(driver), self._device(name)
        if found is None:
            return
        before = world(self.kernel)
        outcome = self._do(self.kernel.dax_bus.bind_store(found, name.encode()))
        assert (outcome == "ok") == (device is not None and device.driver is found and before != world(self.kernel))
        if outcome != "ok":
            assert world(self.kernel) == before

    @rule(name=DEVICE, driver=st.sampled_from(["kmem", "device_dax"]))
    def unbind(self, name: str, driver: str) -> None:
        found, device = self._driver(driver), self._device(name)
        if found is None:
            return
        bound = device is not None and device.driver is found
        log = self.kernel.printk.sequence
        assert self._do(self.kernel.dax_bus.unbind_store(found, name.encode())) == ("ok" if bound else "ENODEV")
        if device is not None and bound:
            assert device.driver is None
            assert device.driver_data is None
            if any("reboot" in record.text for record in self.kernel.printk.since(log)):
                self.leaked.add(name)
            if name not in self.leaked:
                assert name not in {resource.name for _, resource in self.kernel.iomem.walk()}

    @rule(name=DEVICE, driver=st.sampled_from(["kmem", "device_dax"]), remove=st.booleans())
    def write_id(self, name: str, driver: str, remove: bool) -> None:  # noqa: FBT001
        found = self._driver(driver)
        if found is not None and remove:
            found.remove_id_store(name.encode())
        elif found is not None:
            assert self._do(found.new_id_store(name.encode())) == "ok"

    @rule(name=st.sampled_from(["device_dax", "dax_hmem", "kmem"]), load=st.booleans())
    def module(self, name: str, load: bool) -> None:  # noqa: FBT001
        self._do(self.kernel.modprobe(name) if load else self.kernel.rmmod(name))

    def _region(self, number: int) -> dax_bus.DaxRegion | None:
        device = self.kernel.platform_bus.devices.get(f"hmem.{number}")
        region = device.driver_data if device is not None else None
        return region if isinstance(region, dax_bus.DaxRegion) else None

    @rule()
    def create(self) -> None:
        region = self._region(0)
        if region is not None and len(region.devices()) < 3:
            self._do(dax_bus.create_store(region, b"1"))

    @rule(name=DEVICE)
    def delete(self, name: str) -> None:
        region = self._region(0)
        if region is not None:
            self._do(dax_bus.delete_store(region, name.encode()))

    @rule(name=DEVICE, blocks=st.integers(0, 2 * BLOCKS))
    def resize(self, name: str, blocks: int) -> None:
        device = self._device(name)
        if device is not None:
            with contextlib.suppress(KernelError):
                dax_bus.size_store(device, b"%d" % (blocks * BLOCK // 2))

    @rule(name=DEVICE, index=INDEX, halves=st.integers(1, 4))
    def add_mapping(self, name: str, index: int, halves: int) -> None:
        device = self._device(name)
        if device is not None:
            with contextlib.suppress(KernelError):
                dax_bus.mapping_store(device, b"%x-%x" % (index * BLOCK, index * BLOCK + halves * BLOCK // 2 - 1))

    @rule(index=INDEX, kind=st.sampled_from(["pinned", "unmovable"]), value=st.booleans())
    def flag(self, index: int, kind: str, value: bool) -> None:  # noqa: FBT001
        blocks = self.kernel.memory_blocks
        if blocks.get(index) is not None:
            (getattr(blocks, kind).add if value else getattr(blocks, kind).discard)(index)

    @rule(name=DEVICE, index=INDEX, kind=st.sampled_from(["pinned", "unmovable"]))
    def unplug_with_a_reason_to_fail(self, name: str, index: int, kind: str) -> None:
        self.flag(index, kind, value=True)
        self.write_attribute(name, UNPLUG)

    @rule()
    def no_flags(self) -> None:
        self.kernel.memory_blocks.unmovable.clear()
        self.kernel.unpin()

    # Invariants ---------------------------------------------------------------------------------------------------

    def _hot_blocks(self) -> set[int]:
        runs = self.kernel.memory_blocks.runs
        return {index for first, last, _ in runs for index in range(first, last + 1)} - self.boot_blocks

    @invariant()
    def no_block_is_in_two_devices(self) -> None:
        ranges = [
            piece
            for device in self.kernel.dax_bus.devices.values()
            if isinstance(device.driver_data, DaxKmemData)
            for _, piece in device.driver_data.usable()
        ]
        ranges.sort()
        for one, other in itertools.pairwise(ranges):
            assert one.end < other.start

    @invariant()
    def iomem_is_what_was_reserved(self) -> None:
        """Hot-added memory is there as long as its blocks are; siblings are disjoint, children inside."""

        def check(parent: Resource) -> None:
            for one, other in zip(parent.children, parent.children[1:], strict=False):
                assert one.end < other.start
            for child in parent.children:
                assert child.parent is parent
                assert parent.start <= child.start <= child.end <= parent.end
                check(child)

        check(self.kernel.iomem)
        added = Counter(
            index
            for _, resource in self.kernel.iomem.walk()
            if resource.name == KMEM_NAME
            for index in range(resource.start // BLOCK, resource.end // BLOCK + 1)
        )
        assert set(added) == self._hot_blocks()
        assert set(added.values()) <= {1}

    @invariant()
    def reservations_are_those_of_bound_devices(self) -> None:
        """As long as bound; in 7.3 while plugged; as posted until the first unplug. A leak stays, under any name."""
        names = set(self.kernel.dax_bus.devices) | {"dax0.1", "dax0.2"}
        held = [resource for _, resource in self.kernel.iomem.walk() if resource.name in {*names, FREED_NAME}]
        for device in self.kernel.dax_bus.devices.values():
            data = device.driver_data
            if not isinstance(data, DaxKmemData):
                continue
            for number, piece in data.usable():
                resource = data.resources.get(number)
                if resource is not None:
                    assert resource in held
                    assert (resource.start, resource.end, resource.name) == (*piece, device.name)
                elif self.profile == "hotplug-v3":
                    pytest.fail("hotplug-v3 holds every range from probe to unbind")
            if self.profile == "7.3" and data.state == -1:
                assert data.resources == {}

    @invariant()
    def regions_are_shared_out_among_their_devices(self) -> None:
        """No byte to two of them, none lost, no number or name used twice or kept."""
        minors = []
        for number in range(2):
            region = self._region(number)
            if region is None:
                continue
            devices = region.devices()
            pieces = sorted(mapping.range for device in devices for mapping in device.mappings)
            assert pieces == [allocation.range for allocation in region.allocations]
            for one, other in itertools.pairwise(pieces):
                assert one.end < other.start
            assert all(region.range.start <= piece.start <= piece.end <= region.range.end for piece in pieces)
            assert region.available_size == region.range.length - sum(piece.length for piece in pieces)
            for device in devices:
                assert {name for name in device.children if name.startswith("mapping")} == {
                    mapping.name for mapping in device.mappings
                }
                offsets = list(
                    itertools.accumulate((mapping.range.length >> 12 for mapping in device.mappings), initial=0)
                )
                assert [mapping.pgoff for mapping in device.mappings] == offsets[:-1]
            assert sorted(device.id for device in devices) == in_use(region.ids)
            minors += [device.minor for device in devices]
        assert sorted(minors) == in_use(self.kernel.dax_minors)

    @invariant()
    def totals_are_those_of_the_online_blocks(self) -> None:
        kernel = self.kernel
        total: Counter[int] = Counter()
        present: Counter[tuple[int, str]] = Counter()
        counts: Counter[int] = Counter()
        for first, last, status in kernel.memory_blocks.runs:
            for nid in status.group.nids:
                counts[nid] += last - first + 1
            if status.state is State.ONLINE:
                nid = status.group.nids[0]
                total[nid] += (last - first + 1) * status.group.managed_kb
                name = status.zone.name if status.zone is not None else "DMA"
                present[nid, name.removesuffix("32")] += (last - first + 1) * status.group.present_kb // 4
        for nid in kernel.nodes.possible:
            node = kernel.nodes[nid]
            assert node.managed_kb == total[nid]
            assert node.blocks == counts[nid]
            assert node.online == bool(counts[nid] or node.cpus)
            found: Counter[str] = Counter()
            for zone in node.zones:
                found[zone.name.removesuffix("32")] += zone.present  # block 0 is in both
            assert found == {name: present[nid, name] for name in found}
            assert (nid in kernel.nodes.with_memory()) == bool(total[nid])
            assert (kernel.tiers.tier_of(nid) is not None) == bool(total[nid])
        assert kernel.nodes.managed_kb() == sum(total.values())
        assert set(kernel.tiers.tiers) == {number for number in range(256) if kernel.tiers.nodes_of(number)}
        assert kernel.memory_blocks.count == sum(last - first + 1 for first, last, _ in kernel.memory_blocks.runs)

    @invariant()
    def spans_reach_over_their_blocks_and_no_further(self) -> None:
        kernel = self.kernel
        for nid in kernel.nodes.possible:
            for zone in kernel.nodes[nid].zones:
                blocks = [run for run in kernel.memory_blocks.runs if run[2].zone is zone]
                if not blocks:
                    if zone.name not in {"DMA", "DMA32"}:
                        assert zone.start == zone.end
                    continue
                if zone.name == "DMA32":
                    assert zone.start <= blocks[0][0] * PAGES
                    assert zone.end >= (blocks[-1][1] + 1) * PAGES
                else:
                    assert (zone.start, zone.end) == (blocks[0][0] * PAGES, (blocks[-1][1] + 1) * PAGES)

    @invariant()
    def events_replayed_give_what_is_there(self) -> None:
        """Add before online before offline before remove, for each block, node and tier."""
        kernel, there = self.kernel, self.replayed
        for _, lines in kernel.uevents.numbered(self.seen):
            action, _, path = lines[0].partition("@")
            name = path.rpartition("/")[2]
            if action == "add" and path.startswith("/devices/"):
                assert name not in there
                there[name] = "offline"
            elif action == "remove" and path.startswith("/devices/"):
                if name.startswith("memory") and name[6:].isdigit():
                    assert there[name] == "offline"
                del there[name]
            elif action in {"online", "offline"}:
                assert there[name] == {"online": "offline", "offline": "online"}[action]
                there[name] = action
            elif action == "bind":
                there[name] = "bound"
            elif action == "unbind":
                assert there[name] == "bound"
                there[name] = "offline"
        self.seen = kernel.uevents.sequence
        blocks = {
            f"memory{index}": status.state.value
            for first, last, status in kernel.memory_blocks.runs
            for index in range(first, last + 1)
        }
        nodes = {f"node{nid}" for nid in kernel.nodes.online()}
        tiers = {tier.name for tier in kernel.tiers.tiers.values()}
        assert {
            name: state for name, state in there.items() if name[6:].isdigit() and name.startswith("memory")
        } == blocks
        assert {name for name in there if name.startswith("node")} == nodes
        assert {name for name in there if name.startswith("memory_tier")} == tiers
        devices = kernel.dax_bus.devices
        assert {name for name in there if name.startswith("dax")} == set(devices)
        assert {name for name in devices if there[name] == "bound"} == {
            name for name in devices if devices[name].driver
        }

    @invariant()
    def every_object_is_found_by_its_own_serial(self) -> None:
        for serial, kobject in self.kernel.objects.items():
            assert kobject.serial == serial
        groups = {status.group.serial for _, _, status in self.kernel.memory_blocks.runs}
        assert groups <= set(self.kernel.objects)

    @invariant()
    def nothing_is_locked_when_nobody_runs(self) -> None:
        kernel = self.kernel
        assert not kernel.device_hotplug_lock.locked
        assert kernel.memory_blocks.device_locks == {}
        for device in kernel.dax_bus.devices.values():
            assert not device.lock.locked
            if isinstance(device.driver_data, DaxKmemData):
                assert not device.driver_data.lock.locked

    @invariant()
    def directories_list_what_exists(self) -> None:
        kernel, tree = self.kernel, self.sysroot.tree
        blocks = {f"memory{index}" for first, last, _ in kernel.memory_blocks.runs for index in range(first, last + 1)}

        def of(path: str, prefix: str) -> set[str]:
            return {
                name for name in names_in(tree, path) if name.startswith(prefix) and name[len(prefix) :][:1].isdigit()
            }

        assert of("/sys/devices/system/memory", "memory") == blocks
        assert of("/sys/bus/memory/devices", "memory") == blocks
        assert of("/sys/devices/system/node", "node") == {f"node{nid}" for nid in kernel.nodes.online()}
        for nid in kernel.nodes.online():
            own = {
                f"memory{index}"
                for first, last, status in kernel.memory_blocks.runs
                if nid in status.group.nids
                for index in range(first, last + 1)
            }
            assert of(f"/sys/devices/system/node/node{nid}", "memory") == own
        assert of("/sys/bus/dax/devices", "dax") == set(kernel.dax_bus.devices) == of("/dev", "dax")
        assert set(names_in(tree, "/sys/bus/memory_tiering/devices")) == {
            tier.name for tier in kernel.tiers.tiers.values()
        }
        for name, driver in kernel.dax_bus.drivers.items():
            assert of(f"/sys/bus/dax/drivers/{name}", "dax") == {device.name for device in driver.devices}
        attribute = kernel.profile.attribute
        for name in kernel.dax_bus.devices:
            data = dax(kernel, name).driver_data
            names = set(names_in(tree, f"/sys/bus/dax/devices/{name}/"))
            assert names & {"hotplug", "state"} == (
                {attribute} if isinstance(data, DaxKmemData) and attribute else set()
            )
            assert {one for one in names if one.startswith("mapping") and one != "mapping"} == {
                mapping.name for mapping in dax(kernel, name).mappings
            }

    @invariant()
    def no_link_dangles(self) -> None:
        assert dangling(self.sysroot.tree, *DYNAMIC) == []

    def teardown(self) -> None:
        if hasattr(self, "sysroot"):
            self.sysroot.reset()
            at_boot = world(self.kernel)
            self.sysroot.reset()
            assert world(self.kernel) == at_boot
            assert dangling(self.sysroot.tree) == []


@pytest.mark.parametrize("profile", PROFILES)
def test_invariants(profile: str) -> None:
    machine = type(f"KernelMachine_{profile}", (KernelMachine,), {"profile": profile})
    run_state_machine_as_test(machine, settings=settings(max_examples=15, stateful_step_count=30))


def test_an_errno_without_a_name_is_its_number() -> None:
    assert name_of(16) == "EBUSY"
    assert KernelError(517, "x", "y").name == "517"
