"""Random writes to CXL's files: each is taken or refused, and the tree stays in order."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from fakesysfs.kernel.cxl.core.port import CxlPort, CxlRootDecoder
from fakesysfs.kernel.cxl.core.region import CxlConfig, CxlRegion
from fakesysfs.kernfs import names_in
from fakesysfs.ops.errors import KernelError
from tests.model import Face, drive

DEVICES = "/sys/bus/cxl/devices"
DRIVERS = "/sys/bus/cxl/drivers"
MODULES = ("cxl_pmem", "cxl_acpi", "cxl_mem", "cxl_pci", "device_dax", "dax_cxl", "kmem")
OPERATIONS = 150

WORDS = {
    "interleave_ways": ("1", "2", "4", "3"),
    "interleave_granularity": ("256", "1024", "8192", "16384"),
    "size": ("0", "0x10000000", "0x20000000"),
    "commit": ("0", "1", "1"),
    "mode": ("ram", "ram", "pmem"),
    "dpa_size": ("0", "0x10000000", "0x20000000"),
}


def writes(face: Face, rng: random.Random) -> Iterator[tuple[str, str]]:
    """(path, text), drawn from what is there at each moment."""
    devices = face.kernel.cxl_bus.devices

    def named(*kinds: str) -> list[str]:
        return [name for name in devices if name.startswith(kinds)] or ["absent"]

    while True:
        kind = rng.choice(
            ("create", "region", "region", "region", "target", "target", "decoder", "decoder", "bind", "port")
        )
        region = rng.choice(named("region"))
        decoders = [name for name in named("decoder") if not name.startswith("decoder0")] or ["absent"]
        if kind == "create":
            roots = [device for device in devices.values() if isinstance(device, CxlRootDecoder)]
            for root in roots[:1] if rng.random() < 0.5 else roots[-1:]:
                yield f"{DEVICES}/{root.name}/create_ram_region", f"region{root.region_id}"
                if rng.random() < 0.3:
                    yield f"{DEVICES}/{root.name}/delete_region", region
        elif kind == "region":
            name = rng.choice(("interleave_ways", "interleave_granularity", "size", "commit"))
            yield f"{DEVICES}/{region}/{name}", rng.choice(WORDS[name])
        elif kind == "target":
            yield f"{DEVICES}/{region}/target{rng.randrange(3)}", rng.choice([*decoders, ""])
        elif kind == "decoder":
            name = rng.choice(("mode", "dpa_size"))
            yield f"{DEVICES}/{rng.choice(decoders)}/{name}", rng.choice(WORDS[name])
        elif kind == "bind":
            yield f"{DRIVERS}/cxl_region/{rng.choice(('bind', 'bind', 'unbind'))}", region
        else:
            device = rng.choice(named("mem", "endpoint", "port"))
            driver = "cxl_mem" if device.startswith("mem") else "cxl_port"
            yield f"{DRIVERS}/{driver}/{rng.choice(('bind', 'bind', 'bind', 'unbind'))}", device


def check(face: Face) -> None:
    """What holds at each moment."""
    for name, device in face.kernel.cxl_bus.devices.items():
        assert device.alive
        if isinstance(device, CxlRegion) and device.state >= CxlConfig.ACTIVE:
            assert sum(target is not None for target in device.targets) == device.interleave_ways, name
        if isinstance(device, CxlPort) and device.registers is not None and device.decoders:
            enabled = [decoder.id for decoder in device.decoders if decoder.enabled]
            assert device.commit_end == max(enabled, default=-1), name


@pytest.mark.parametrize("machine", ["cxl-server", "oracle-t2", "oracle-t4", "oracle-t5"])
def test_random_writes_are_taken_or_refused(machine: str) -> None:
    face, rng = Face(machine, "7.3"), random.Random(machine)  # noqa: S311  a schedule, no secret
    for module in MODULES:
        drive(face.kernel.modprobe(module))
    taken = 0
    for _, (path, text) in zip(range(OPERATIONS), writes(face, rng), strict=False):
        try:
            face.write(path, text)
            taken += 1
        except KernelError:
            pass
        check(face)
    assert taken > OPERATIONS // 10
    refusals: list[str] = []
    for name in list(face.kernel.cxl_bus.devices):
        for entry in names_in(face.sysroot.tree, f"{DEVICES}/{name}"):
            try:
                face.read(f"{DEVICES}/{name}/{entry}")
            except KernelError as error:
                refusals.append(error.name)
    assert set(refusals) <= {"EISDIR", "EACCES", "EBADF"}
