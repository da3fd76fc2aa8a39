"""The files of /proc (7.2/08-memmap_on_memory, 7.2/17-boot-block-offline, snapshot 7.2/00)."""

from __future__ import annotations

import re

import pytest

from tests.model import Face


def zones(text: str) -> list[tuple[str, int, int, int]]:
    """Of each zone in /proc/zoneinfo its name, and what it spans, has and manages."""
    pattern = r"^Node (\d), zone +(\w+)$.*?spanned +(\d+)\n +present +(\d+)\n +managed +(\d+)$"
    found = re.findall(pattern, text, re.MULTILINE | re.DOTALL)
    return [(f"{node} {name}", *map(int, pages)) for node, name, *pages in found]  # type: ignore[misc]  # three pages


def test_zoneinfo_has_every_zone_of_every_online_node() -> None:
    assert zones(Face("oracle", "7.2").read("/proc/zoneinfo")) == [
        ("0 DMA", 4095, 3998, 3840), ("0 DMA32", 1044480, 520160, 501498), ("0 Normal", 262144, 262144, 249770),
        ("0 Movable", 0, 0, 0), ("0 Device", 0, 0, 0),
        ("1 DMA", 0, 0, 0), ("1 DMA32", 0, 0, 0), ("1 Normal", 262144, 262144, 258044), ("1 Movable", 0, 0, 0),
        ("1 Device", 0, 0, 0),
        ("3 DMA", 0, 0, 0), ("3 DMA32", 0, 0, 0), ("3 Normal", 196608, 43008, 41011), ("3 Movable", 0, 0, 0),
        ("3 Device", 0, 0, 0),
    ]  # fmt: skip


def test_the_first_populated_zone_carries_the_counters_of_its_node() -> None:
    face = Face("default")
    text = face.read("/proc/zoneinfo")
    assert [line.strip() for line in text.splitlines()].count("per-node stats") == 3
    assert re.search(r"^Node 2, zone  Movable\n  per-node stats$", text, re.MULTILINE)


def test_meminfo_lines_of_huge_pages_are_aligned() -> None:
    text = Face("oracle", "7.2").read("/proc/meminfo")
    assert re.findall(r"^HugePages_.*$", text, re.MULTILINE) == [
        "HugePages_Total:       0", "HugePages_Free:        0", "HugePages_Rsvd:        0", "HugePages_Surp:        0",
    ]  # fmt: skip


def test_vmstat_counts_memory_maps() -> None:
    face = Face("oracle", "7.2")
    assert "nr_memmap_pages 0\nnr_memmap_boot_pages 17920\n" in face.read("/proc/vmstat")


@pytest.mark.parametrize(("word", "expected"), [("0", "ok"), ("4", "ok"), ("5", "EINVAL"), ("x", "EINVAL")])
def test_numa_balancing(word: str, expected: str) -> None:
    face = Face("oracle-distribution", "7.2")
    path = "/proc/sys/kernel/numa_balancing"
    assert face.read(path) == "1\n"
    assert face.refusal(path, word) == expected
    assert face.read(path) == (f"{word}\n" if expected == "ok" else "1\n")


def test_numa_balancing_is_a_matter_of_configuration() -> None:
    assert "numa_balancing" not in Face("oracle", "7.2").names("/proc/sys/kernel")
