"""The guests are those that the sessions were recorded on: tests/recordings/machine.json says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fakesysfs.lab import guest
from fakesysfs.lab.machines import CXL, CXL_GUESTS, DISTRIBUTION, GIB, GUESTS, Guest, Node
from fakesysfs.machine import load

FACTS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "recordings/machine.json").read_text(encoding="utf-8"))


def test_every_recorded_variant_has_a_guest() -> None:
    assert FACTS["variants"].keys() <= GUESTS.keys()


@pytest.mark.parametrize("variant", FACTS["variants"])
def test_a_variant_boots_with_the_recorded_words(variant: str) -> None:
    words = guest.command_line(GUESTS[variant]).split()
    recorded = [*FACTS["kernel_cmdline_default"].split(), *FACTS["variants"][variant].get("cmdline_extra", "").split()]
    assert [word for word in recorded if word not in words] == []


def test_the_memory_of_the_nodes_lies_where_it_was_recorded() -> None:
    """QEMU's q35 leaves a hole from 2 to 4 GiB."""
    ranges = [
        (int(first, 16), int(last, 16) + 1, int(number))
        for number, node in FACTS["nodes"].items()
        for first, last in node["ranges"]
    ]
    expected = []
    at = 0
    for number, node in enumerate(DISTRIBUTION.nodes):
        left = node.memory
        while left:
            size = min(left, 2 * GIB - at) if at < 2 * GIB else left
            expected.append((at, at + size, number))
            left -= size
            at += size
            at = 4 * GIB if at == 2 * GIB else at
    assert sorted(expected) == sorted(ranges)
    assert [list(row) for row in DISTRIBUTION.distances] == FACTS["distance"]


@pytest.mark.parametrize("name", [guest.name for guest in GUESTS.values() if guest.distribution])
def test_a_guest_under_a_distribution_s_kernel_has_a_machine_of_the_model(name: str) -> None:
    """Both boot with the same words, and have the same nodes and distances."""
    machine = load(f"oracle-{name}").setup()
    words = machine.config.cmdline.split()
    assert [word for word in GUESTS[name].kernel_arguments if word not in words] == []
    assert [word for word in words if word.startswith("memmap=")] == [
        word for word in GUESTS[name].kernel_arguments if word.startswith("memmap=")
    ]
    assert len(machine.nodes) == len(GUESTS[name].nodes)


def test_arguments() -> None:
    two = Guest("two", (Node(2 * GIB, "0-1"), Node(GIB)), ((10, 20), (21, 10)), devices=("-device", "x"))
    assert two.qemu_arguments() == [
        "-machine", "q35", "-cpu", "max,hypervisor=off", "-smp", "2", "-m", "3072M",
        "-object", "memory-backend-ram,id=node0,size=2048M", "-numa", "node,nodeid=0,memdev=node0,cpus=0-1",
        "-object", "memory-backend-ram,id=node1,size=1024M", "-numa", "node,nodeid=1,memdev=node1",
        "-numa", "dist,src=0,dst=1,val=20", "-numa", "dist,src=1,dst=0,val=21",
        "-device", "x",
    ]  # fmt: skip


def test_an_hmat_needs_initiators() -> None:
    words = GUESTS["hmat"].qemu_arguments()
    assert "q35,hmat=on" in words
    assert sum(word.endswith(",initiator=0") for word in words) == len(GUESTS["hmat"].nodes)
    assert sum(word.startswith("hmat-lb,") for word in words) == 2 * len(GUESTS["hmat"].nodes)


@pytest.mark.parametrize("guest", CXL_GUESTS, ids=lambda guest: guest.name)
def test_a_guest_with_cxl_devices_has_a_machine_of_the_model(guest: Guest) -> None:
    """As many bridges, devices and windows."""
    words = guest.qemu_arguments()
    machine = load(f"oracle-{guest.name}").setup().cxl
    assert machine is not None
    assert "2048M,maxmem=8G,slots=4" in words
    assert sum(word.startswith("pxb-cxl,") for word in words) == len(machine.bridges)
    assert sum(word.startswith("cxl-type3,") for word in words) == len(machine.devices)
    (windows,) = (word for word in words if word.startswith("cxl-fmw."))
    assert windows.count(".size=4G") == len(machine.windows)


def test_the_cxl_machine_has_its_modules() -> None:
    assert "q35,cxl=on" in CXL.qemu_arguments()
    assert not CXL.restorable
    assert {"cxl_acpi", "cxl_mem", "cxl_pci", "dax_cxl"} <= set(CXL.modules)
