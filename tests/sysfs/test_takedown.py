"""Which memory can still be taken away."""

from __future__ import annotations

import pytest

from fakesysfs.kernel.profile import PROFILES
from fakesysfs.sysfs.takedown import Takedown, take_down
from tests.model import Face

BLOCKS = range(64, 96)
"""Those of dax0.0 of the machine `default`."""
MEMORY = "/sys/devices/system/memory"
UNBIND = "/sys/bus/dax/drivers/kmem/unbind"


def left(face: Face) -> dict[int, str]:
    return take_down(face.sysroot.tree, face.kernel)


CHANGES = {
    "nothing": (),
    "offline": ((f"{MEMORY}/memory70/state", "offline"),),
    "online": ((f"{MEMORY}/memory70/state", "offline"), (f"{MEMORY}/memory70/state", "online")),
    "unbind": ((UNBIND, "dax0.0"),),
    "unmovable": (("/control/blocks/memory70/unmovable", "1"),),
    "pinned": (("/control/blocks/memory70/pinned", "1"),),
    "devdax": (
        (UNBIND, "dax0.0"),
        ("/sys/bus/dax/drivers/device_dax/new_id", "dax0.0"),
    ),
    "policy": ((f"{MEMORY}/auto_online_blocks", "online"),),
}
"""What is written, by name: what may decide whether memory can be taken away."""


@pytest.mark.parametrize("kernel", PROFILES)
def test_what_is_remembered_is_what_would_be_found(kernel: str) -> None:
    """Each state of the machine, twice and one after another, as in a search."""
    remembered, face = Takedown(), Face("default", kernel)
    for _ in range(2):
        for change, writes in CHANGES.items():
            found = []
            for look in (take_down, remembered.left):
                face.sysroot.reset()
                for path, word in writes:
                    face.write(path, word)
                found.append(look(face.sysroot.tree, face.kernel))
            assert found[0] == found[1], change


def test_the_second_look_leaves_the_machine_alone() -> None:
    remembered, face = Takedown(), Face("default", "7.2")
    for memory64_is_there in (False, True):
        face.sysroot.reset()
        assert remembered.left(face.sysroot.tree, face.kernel) == {}
        assert ("memory64" in face.names(MEMORY)) is memory64_is_there


def test_what_user_space_decides_is_not_remembered() -> None:
    remembered, face = Takedown(), Face("default", "7.2")
    for _ in range(2):
        face.sysroot.reset()
        face.write("/control/modules/load", "memory_notifier_error_inject")
        assert remembered.left(face.sysroot.tree, face.kernel) == {}
        assert "memory64" not in face.names(MEMORY)


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
