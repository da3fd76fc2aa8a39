"""What may differ on a distribution's kernel: each entry, on a line that needs it and on one that does not."""

from __future__ import annotations

from typing import Any

import pytest

from fakesysfs.replay.messages import Comparison
from fakesysfs.replay.normalise import ENVELOPE, Context, from_other_boot, normalise
from fakesysfs.replay.target import Messages

EXAMPLES: dict[tuple[str, str], tuple[Any, Any]] = {
    ("dax major", "uevents"): ([["add@/x", "MAJOR=251", "MINOR=1"]], [["add@/x", "MAJOR=<n>", "MINOR=1"]]),
    ("dax major", "text"): ("MAJOR=254\nMINOR=1\n", "MAJOR=<n>\nMINOR=1\n"),
    ("dax major", "data"): ("MAJOR=254\nMINOR=1\n", "MAJOR=<n>\nMINOR=1\n"),
    ("out-of-tree module", "dmesg"): (
        ["<4>notifier_error_inject: loading out-of-tree module taints kernel.", "<6>kmem: x"], ["<6>kmem: x"]
    ),
    ("out-of-tree module", "tainted"): ("4608", "512"),
    ("names of other options", "names"): (["align", "power", "size"], ["align", "size"]),
    ("names of other options", "text"): (
        "drwxr-xr-x 3 root root    0 <date> mapping0\ndrwxr-xr-x 2 root root 0 <date> power\npower\nsize\n",
        "drwxr-xr-x <links> root root    0 <date> mapping0\nsize\n",
    ),
    ("memory of a node", "text"): (
        "node 0 size: 2916 MB\nnode 2 size: 4096 MB\nNode 1 MemTotal:   12 kB\nNode 2 MemTotal: 1 kB\n",
        "node 0 size: <n>\nnode 2 size: 4096 MB\nNode 1 MemTotal: <n>\nNode 2 MemTotal: 1 kB\n",
    ),
    ("memory of a zone", "text"): (
        "Node 0, zone DMA\n  spanned 1\n  managed 2\nNode 2, zone Movable\n  managed 4\nNode 3, zone x\n managed 1\n",
        "Node 0, zone DMA\n  spanned 1\nNode 2, zone Movable\n  managed 4\nNode 3, zone x\n",
    ),
    ("demotion targets", "dmesg"): (["<6>Demotion targets for Node 0: null", "<4>x"], ["<4>x"]),
}  # fmt: skip


def test_every_entry_has_an_example_and_a_reason() -> None:
    assert {(entry.name, entry.stream) for entry in ENVELOPE} == EXAMPLES.keys()
    assert all(entry.reason for entry in ENVELOPE)


@pytest.mark.parametrize(("name", "stream"), EXAMPLES)
def test_an_entry_holds_on_a_distribution_only(name: str, stream: str) -> None:
    before, after = EXAMPLES[name, stream]
    assert normalise(stream, before, Context()) == before
    assert normalise(stream, before, Context(other_configuration=True)) == after
    assert normalise(stream, after, Context(other_configuration=True)) == after


def test_the_port_of_the_lab_is_below_a_pci_bus() -> None:
    lines = [
        "c000000000-c7ffffffff : PCI Bus 0000:00", "  c000000000-c000003fff : 0000:00:01.0",
        "    c000000000-c000003fff : virtio-pci-modern", "fd00000000-ffffffffff : Reserved",
        "180000000-27fffffff : dax0.0",
    ]  # fmt: skip
    assert normalise("iomem", lines, Context()) == lines[3:]


def test_memory_that_came_since_boot_is_compared() -> None:
    text = "MemTotal:        4159724 kB\nMemFree: 1 kB\nNode 0 MemTotal: 5 kB\n"
    expected = "MemTotal:        4216652 kB\nMemFree: 1 kB\nNode 0 MemTotal: 5 kB\n"
    assert from_other_boot(text, 4216652, 4159724) == expected
    assert from_other_boot("MemTotal:         999999 kB\n", 1, 0) == "MemTotal:        1000000 kB\n"


def test_uevents_of_writers_that_end_together_come_in_any_order() -> None:
    one, other = ["offline@/a"], ["unbind@/b"]
    for ordered in (True, False):
        comparison = Comparison(Context(), leak_frees_name=False, bursts_compared=False)
        first = comparison.compare({"uevents": [one]}, Messages([], [other]), last=False, ordered=ordered)
        second = comparison.compare({"uevents": [other]}, Messages([], [one]), ordered=ordered)
        assert (first + second == []) is not ordered
    comparison = Comparison(Context(), leak_frees_name=False)
    assert comparison.compare({"uevents": [one, other]}, Messages([], [one, one]), ordered=False) != []


def test_reports_of_pages_that_cannot_be_migrated_are_not_compared_on_a_real_kernel() -> None:
    burst = Messages(["<4>migrating pfn 1 failed ret:200"])
    assert Comparison(Context(), leak_frees_name=False).compare({}, burst) != []
    assert Comparison(Context(), leak_frees_name=False, bursts_compared=False).compare({}, burst) == []
