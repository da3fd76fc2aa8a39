"""A region that firmware made shows what a region shows that a user made of the same memory devices."""

from __future__ import annotations

from pathlib import Path

from fakesysfs.ops.errors import KernelError
from tests.model import Face

DEVICES = "/sys/bus/cxl/devices"
SERVER = 'extends = "cxl-server"\n[cxl]\n'
REGION = 'regions = [{ window = 2, targets = ["0000:0d:00.0", "0000:df:00.0"], size = "2G" }]\n'
BY_HAND = (
    ("decoder0.2/create_ram_region", "region2"),
    ("region2/interleave_granularity", "1024"),
    ("region2/interleave_ways", "2"),
    ("region2/size", "0x80000000"),
    ("decoder3.0/mode", "ram"),
    ("decoder3.0/dpa_size", "0x40000000"),
    ("region2/target0", "decoder3.0"),
    ("decoder5.0/mode", "ram"),
    ("decoder5.0/dpa_size", "0x40000000"),
    ("region2/target1", "decoder5.0"),
    ("region2/commit", "1"),
    ("../drivers/cxl_region/bind", "region2"),
)


def boot(folder: Path, more: str) -> Face:
    path = folder / "m.toml"
    path.write_text(SERVER + more)
    return Face(str(path), "7.3")


def shown(face: Face) -> dict[str, str]:
    """What each file of each CXL device reads, or the errno."""
    found = {"iomem": face.read("/proc/iomem"), "debugfs": " ".join(face.names("/sys/kernel/debug/cxl"))}
    for device in (*face.kernel.cxl_bus.devices.values(), *face.kernel.dax_bus.devices.values()):
        for name in face.names(f"/sys{device.devpath}"):
            path = f"/sys{device.devpath}/{name}"
            try:
                found[path] = face.read(path)
            except KernelError as error:
                found[path] = error.name
    return found


def test_every_file_reads_the_same(tmp_path: Path) -> None:
    made, by_hand = boot(tmp_path, REGION), boot(tmp_path, "")
    assert shown(made) != shown(by_hand)
    for path, text in BY_HAND:
        by_hand.write(f"{DEVICES}/{path}" if not path.startswith("..") else f"/sys/bus/cxl{path[2:]}", text)
    assert shown(made) == shown(by_hand)
    assert made.read("/sys/bus/dax/devices/dax2.0/size") == "2147483648\n"


def test_it_is_destroyed_as_a_user_destroys_one(tmp_path: Path) -> None:
    """And after a reset of the machine it is there again."""
    face = boot(tmp_path, REGION)
    face.write("/sys/bus/dax/devices/dax2.0/state", "unplugged")
    for path, text in (
        ("region2/commit", "0"),
        ("region2/target1", "\n"),
        ("region2/target0", "\n"),
        ("decoder5.0/dpa_size", "0"),
        ("decoder3.0/dpa_size", "0"),
        ("decoder0.2/delete_region", "region2"),
    ):
        face.write(f"{DEVICES}/{path}", text)
    assert not [name for name in face.names(DEVICES) if "region" in name]
    assert "region" not in face.read("/proc/iomem")
    face.write("/control/reset", "1")
    assert face.read(f"{DEVICES}/region2/commit") == "1\n"
