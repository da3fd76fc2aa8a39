"""Which memory can still be taken away."""

from __future__ import annotations

import pytest

from fakesysfs.kernel.profile import PROFILES
from fakesysfs.sysfs.takedown import take_down
from tests.model import Face

BLOCKS = range(64, 96)
"""Those of dax0.0 of the machine `default`."""
MEMORY = "/sys/devices/system/memory"
UNBIND = "/sys/bus/dax/drivers/kmem/unbind"


def left(face: Face) -> dict[int, str]:
    return take_down(face.sysroot.tree, face.kernel)


@pytest.mark.parametrize("kernel", PROFILES)
def test_nothing_is_left_of_a_machine_that_has_booted(kernel: str) -> None:
    face = Face("default", kernel)
    before = face.names(MEMORY)
    assert left(face) == {}
    assert {f"memory{block}" for block in BLOCKS} == set(before) - set(face.names(MEMORY))


@pytest.mark.parametrize("kernel", PROFILES)
def test_memory_without_a_driver_stays(kernel: str) -> None:
    face = Face("default", kernel)
    face.write(UNBIND, "dax0.0")
    assert left(face) == dict.fromkeys(BLOCKS, "no driver has it")


@pytest.mark.parametrize("kernel", PROFILES)
def test_a_refusal_says_why(kernel: str) -> None:
    face = Face("default", kernel)
    face.write("/control/blocks/memory70/unmovable", "1")
    found = left(face)
    assert set(found) == set(BLOCKS)
    assert "memory70" in found[70]


def test_a_wait_that_nobody_ends_is_ended() -> None:
    face = Face("default", "7.2")
    face.write("/control/pages/pin", "2")
    assert set(left(face)) == set(BLOCKS)


def test_latencies_pass_at_once() -> None:
    face = Face("default", "7.2")
    face.write("/control/latency/offline_block", "1000")
    assert left(face) == {}


def test_blocks_that_were_offlined_are_no_obstacle() -> None:
    face = Face("default", "7.2")
    for block in BLOCKS:
        face.write(f"{MEMORY}/memory{block}/state", "offline")
    assert left(face) == {}
