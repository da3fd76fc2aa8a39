"""The built-in machines of docs/machines.md, each under every kernel."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest

from fakesysfs.kernel.cxl.core.port import CxlRootDecoder
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.profile import PROFILES
from fakesysfs.kernel.uevent import Uevents
from fakesysfs.machine import MachineError, builtin, load
from fakesysfs.ops.errors import KernelError
from tests.model import Face, dax, drive, read_state, write_state

MACHINES = ("default", "cxl", "hmem", "pmem", "tiny", "huge")
HUGE_BLOCKS = 524288
WINDOW = "/devices/platform/ACPI0017:00/root0/decoder0.0"


def boot(machine: str, profile: str) -> Kernel:
    kernel = Kernel(load(machine).setup(), PROFILES[profile])
    drive(kernel.boot())
    return kernel


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("machine", MACHINES)
def test_machine_boots(machine: str, profile: str) -> None:
    kernel = boot(machine, profile)
    assert dax(kernel).driver is not None
    assert not kernel.tainted


@pytest.mark.parametrize("machine", sorted(builtin()))
def test_machine_says_what_it_is(machine: str) -> None:
    assert load(machine).title


@pytest.mark.parametrize(
    ("machine", "path", "drivers"),
    [
        ("default", f"{WINDOW}/region0/dax_region0/dax0.0", ["kmem"]),
        ("cxl", "/devices/platform/cxl_acpi.0/root0/decoder3.0/region0/dax_region0/dax0.0", ["device_dax"]),
        ("hmem", "/devices/platform/hmem_platform.0/hmem.0/dax0.0", ["kmem", "kmem"]),
        ("pmem", "/devices/platform/e820_pmem/ndbus0/region0/dax0.0/dax0.0", ["device_dax"]),
        ("tiny", f"{WINDOW}/region0/dax_region0/dax0.0", ["kmem"]),
        ("huge", f"{WINDOW}/region0/dax_region0/dax0.0", ["kmem"]),
    ],
)
def test_devices_and_their_drivers(machine: str, path: str, drivers: list[str]) -> None:
    kernel = boot(machine, "hotplug-v3")
    assert dax(kernel).devpath == path
    assert [device.driver.name for device in kernel.dax_bus.devices.values() if device.driver] == drivers


@pytest.mark.parametrize("profile", PROFILES)
def test_default_has_a_region_that_its_dax_device_fills_by_half(profile: str) -> None:
    face = Face("default", profile)
    assert face.read("/proc/iomem").splitlines()[-4:] == [
        "200000000-3ffffffff : CXL Window 0",
        "  200000000-3ffffffff : region0",
        "    200000000-2ffffffff : dax0.0",
        "      200000000-2ffffffff : System RAM (kmem)",
    ]
    region = f"/sys{WINDOW}/region0/dax_region0/dax_region"
    assert (face.read(f"{region}/size"), face.read(f"{region}/available_size")) == ("8589934592\n", "4294967296\n")
    blocks = [name for name in face.names("/sys/devices/system/node/node2") if name.startswith("memory")]
    assert {int(name.removeprefix("memory")) for name in blocks if name[6:].isdigit()} == set(range(64, 96))


def test_cxl_server_has_hardware_and_no_region() -> None:
    """Two bridges with two memory devices each, a window each and one for both."""
    kernel = boot("cxl-server", "7.3")
    devices = kernel.cxl_bus.devices
    assert [name for name in devices if name.startswith(("mem", "region"))] == ["mem0", "mem1", "mem2", "mem3"]
    assert [device.driver.name for name, device in devices.items() if name.startswith("mem") and device.driver] == [
        "cxl_mem"
    ] * 4
    windows = [device.window.targets for device in devices.values() if isinstance(device, CxlRootDecoder)]
    assert windows == [(12,), (222,), (12, 222)]
    assert not kernel.dax_bus.devices
    assert not kernel.tainted


def test_cxl_device_is_the_whole_region() -> None:
    device = dax(boot("cxl", "hotplug-v3"))
    assert device.size == device.region.range.length
    assert not device.region.static


def test_pmem_region_is_static() -> None:
    face = Face("pmem")
    region = "/sys/devices/platform/e820_pmem/ndbus0/region0/dax0.0/dax_region"
    assert sorted(face.names(region)) == ["align", "id", "size"]


def test_tiny_has_one_block_to_plug() -> None:
    kernel = boot("tiny", "hotplug-v3")
    assert kernel.memory_blocks.count == 2
    assert write_state(kernel, "unplug") == "ok"
    assert kernel.memory_blocks.count == 1


@pytest.mark.parametrize("profile", [name for name, profile in PROFILES.items() if profile.attribute])
def test_huge_costs_by_the_run(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    send = Uevents.send

    def counting(uevents: Uevents, action: str, *arguments: Any) -> None:
        sent.append(action)
        send(uevents, action, *arguments)

    monkeypatch.setattr(Uevents, "send", counting)
    kernel = boot("huge", profile)
    assert kernel.memory_blocks.count == HUGE_BLOCKS
    assert kernel.nodes.managed_kb() == 64 << 30
    off = next(word for word, state in PROFILES[profile].words_written.items() if state < 0)
    for word in (off, "online_movable"):
        sent.clear()
        assert write_state(kernel, word) == "ok"
        assert len(sent) <= 8
        assert len(kernel.memory_blocks.runs) < 16
    assert read_state(kernel) == "online_movable"
    assert kernel.memory_blocks.count == HUGE_BLOCKS


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('driver = "kmem"', None),
        ('namespace = "raw"', None),
        ('namespace = "fsdax"', "namespace"),
        ('device_size = "1G"', "such a region is one device"),
    ],
)
def test_pmem_in_a_file(tmp_path_factory: pytest.TempPathFactory, more: str, said: str | None) -> None:
    text = (resources.files("fakesysfs.machine") / "machines" / "pmem.toml").read_text()
    path = tmp_path_factory.mktemp("machine") / "own.toml"
    path.write_text(text.replace('kind = "pmem"', f'kind = "pmem"\n{more}'))
    if said is not None:
        with pytest.raises(MachineError, match=said):
            load(str(path))
        return
    kernel = Kernel(load(str(path)).setup(), PROFILES["7.3"])
    drive(kernel.boot())
    drivers = [device.driver.name for device in kernel.dax_bus.devices.values() if device.driver]
    assert drivers == (["kmem"] if "kmem" in more else [])


def test_namespace_is_for_pmem_only(tmp_path_factory: pytest.TempPathFactory) -> None:
    text = (resources.files("fakesysfs.machine") / "machines" / "cxl.toml").read_text()
    path = tmp_path_factory.mktemp("machine") / "own.toml"
    path.write_text(text.replace('kind = "cxl"', 'kind = "cxl"\nnamespace = "raw"'))
    with pytest.raises(MachineError, match=r"dax_region\[0\].namespace"):
        load(str(path))


def test_kinds_on_one_machine_do_not_share_names(tmp_path_factory: pytest.TempPathFactory) -> None:
    text = (resources.files("fakesysfs.machine") / "machines" / "cxl.toml").read_text()
    more = '\n[[dax_region]]\nkind = "hmem"\nstart = "16G"\nsize = "1G"\ntarget_node = 1\n'
    path = tmp_path_factory.mktemp("machine") / "own.toml"
    path.write_text(text.replace('"dax_cxl"', '"dax_cxl", "dax_hmem"') + more)
    kernel = Kernel(load(str(path)).setup(), PROFILES["7.3"])
    drive(kernel.boot())
    assert {name: device.driver and device.driver.name for name, device in kernel.dax_bus.devices.items()} == {
        "dax0.0": "device_dax",
        "dax1.0": "kmem",
    }


@pytest.mark.parametrize("machine", ["default", "tiny", "huge", "hmem", "pmem", "cxl-server"])
def test_cxl_test_is_on_no_other_machine(machine: str) -> None:
    """So a test of ndctl that wants it is skipped there."""
    kernel = boot(machine, "7.3")
    with pytest.raises(KernelError) as error:
        drive(kernel.modprobe("cxl_test"))
    assert error.value.name == "ENOENT"


def test_cxl_test_is_where_a_file_names_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("machine") / "own.toml"
    path.write_text('extends = "default"\nmodules = ["cxl_test", "device_dax", "dax_cxl", "kmem"]\n')
    kernel = boot(str(path), "7.3")
    assert dax(kernel).devpath.startswith("/devices/platform/cxl_acpi.0/root0/decoder3.0/")
    drive(kernel.rmmod("cxl_test"))
    assert not kernel.dax_bus.devices
