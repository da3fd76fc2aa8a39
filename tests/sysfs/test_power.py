"""power/ of devices: what is written is remembered (KERNEL.md 9, "power/")."""

from __future__ import annotations

import pytest

from fakesysfs.kernel.kernel import Kernel
from fakesysfs.ops import sched
from tests.model import Face

MEMORY = "/sys/devices/system/memory"
DAX = "/sys/bus/dax/devices/dax0.0"
DIRECTORIES = [
    f"{MEMORY}/memory50",
    MEMORY,
    DAX,
    "/sys/devices/platform",
    "/sys/devices/platform/hmem_platform.0",
    "/sys/devices/system/cpu",
    "/sys/devices/system/cpu/cpu0",
    "/sys/devices/system/node",
    "/sys/devices/system/node/node0",
    "/sys/devices/virtual/memory_tiering",
    "/sys/devices/virtual/memory_tiering/memory_tier4",
]
DEFAULTS = {"control": "auto", "runtime_enabled": "disabled", "runtime_usage": "0", "async": "disabled"}


@pytest.fixture
def face() -> Face:
    return distribution()


def distribution(profile: str = "7.3") -> Face:
    face = Face("oracle-distribution-policy-online_movable", profile)
    for module in ("device_dax", "dax_hmem", "kmem"):
        face.write("/control/modules/load", module)
    return face


def settings(face: Face, directory: str) -> dict[str, str]:
    return {name: face.read(f"{directory}/power/{name}").removesuffix("\n") for name in DEFAULTS}


@pytest.mark.parametrize("directory", DIRECTORIES)
def test_each_device_remembers_its_own_settings(face: Face, directory: str) -> None:
    path = directory if directory != DAX else "/sys/devices/platform/hmem_platform.0/hmem.0/dax0.0"
    assert settings(face, path) == DEFAULTS
    assert face.write(f"{path}/power/control", "on\n") == len("on\n")
    assert face.write(f"{path}/power/async", "enabled") == len("enabled")
    assert settings(face, path) == {
        "control": "on",
        "runtime_enabled": "disabled & forbidden",
        "runtime_usage": "1",
        "async": "enabled",
    }
    others = [other for other in DIRECTORIES if other not in {directory, DAX}]
    assert all(settings(face, other) == DEFAULTS for other in [*others, f"{MEMORY}/memory51"])
    assert face.write(f"{path}/power/control", "auto\0x") == len("auto\0x")
    assert face.write(f"{path}/power/async", "disabled\0x") == len("disabled\0x")
    assert settings(face, path) == DEFAULTS


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("control", "ON"), ("control", "o"), ("control", "on\n\n"), ("control", "\n"),
        ("async", "enable"), ("async", "\n"), ("async", "enabled\n\n"), ("async", "on"),
    ],
)  # fmt: skip
def test_another_word_is_refused_and_changes_nothing(face: Face, name: str, word: str) -> None:
    face.write(f"{MEMORY}/memory50/power/control", "on")
    before = settings(face, f"{MEMORY}/memory50")
    assert face.refusal(f"{MEMORY}/memory50/power/{name}", word) == "EINVAL"
    assert settings(face, f"{MEMORY}/memory50") == before


def test_a_new_device_has_the_defaults(face: Face) -> None:
    """The settings go with the device: a block that was removed and added again is another device."""
    device = "/sys/devices/platform/hmem_platform.0/hmem.0/dax0.0"
    for directory in (f"{MEMORY}/memory50", device):
        face.write(f"{directory}/power/control", "on")
    face.write(f"{device}/state", "unplugged")
    face.write(f"{device}/state", "online_movable")
    assert settings(face, f"{MEMORY}/memory50") == DEFAULTS
    assert settings(face, device)["control"] == "on", "the dax device stayed"
    kernel: Kernel = face.kernel
    sched.run(kernel.rmmod("kmem"))
    assert settings(face, device)["control"] == "on", "it outlives its driver"
