"""The real cxl on machine cxl-server: a region's whole life."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from fakesysfs.replay import daxctl_versions
from tests.tools.conftest import Runner, need

ON_SERVER = ("--machine", "cxl-server", "--kernel", "7.3")
STATE = "/sys/bus/dax/devices/dax0.0/state"


def with_cxl(script: str) -> str:
    """A script that finds a cxl which creates regions of volatile memory. Skips where there is none."""
    folder = daxctl_versions.cxl_folder()
    if folder is None:
        need("cxl")
        if not daxctl_versions.has_recorded_cxl():
            pytest.skip("this cxl cannot create regions of volatile memory: it is older than 85")
        return script
    return f"PATH={folder}:$PATH\n{script}"


def documents(text: str) -> list[Any]:
    """The JSON documents among what a script prints."""
    return [json.loads(part) for part in re.findall(r"^[\[{]$.*?^[\]}]$", text, re.MULTILINE | re.DOTALL)]


def test_a_regions_whole_life(run: Runner) -> None:
    """From `cxl create-region` to `daxctl` and back."""
    script = f"""
    echo "windows $(cxl list -d root -D | grep -c '"decoder"')"
    cxl create-region -m -t ram -d decoder0.0 -w 1 mem0
    echo 1 > /sys/bus/cxl/flush
    daxctl list
    echo unplugged > {STATE}; cat {STATE}
    echo online_movable > {STATE}; cat {STATE}
    echo unplugged > {STATE}
    echo online_kernel > {STATE}
    cxl disable-region region0 || echo refused
    echo unplugged > {STATE} || echo stuck
    """
    text = run.shell(with_cxl(script), *ON_SERVER)
    region, (device,) = documents(text)
    assert (region["region"], region["size"], region["decode_state"]) == ("region0", 4 << 30, "commit")
    assert (device["chardev"], device["target_node"], device["movable"]) == ("dax0.0", 2, True)
    words = [line for line in text.splitlines() if re.fullmatch(r"[a-z_]+( \d+)?", line)]
    assert words == ["windows 3", "unplugged", "online_movable", "refused", "stuck"]


def test_movable_memory_goes_with_its_region(run: Runner) -> None:
    script = """
    cxl create-region -m -t ram -d decoder0.2 -w 4 mem0 mem2 mem1 mem3 > /dev/null
    echo 1 > /sys/bus/cxl/flush
    cxl list -R -T
    cxl disable-region region2 2>&1
    cxl list -R -i
    cxl destroy-region region2 2>&1
    ls /sys/bus/cxl/devices | grep -c region || true
    """
    text = run.shell(with_cxl(script), *ON_SERVER)
    (enabled,), (disabled,) = documents(text)
    assert {mapping["memdev"]: mapping["position"] for mapping in enabled["mappings"]} == {
        "mem0": 0, "mem2": 1, "mem1": 2, "mem3": 3,
    }  # fmt: skip
    assert disabled["state"] == "disabled"
    assert "disabled 1 region" in text
    assert "destroyed 1 region" in text
    assert text.splitlines()[-1] == "0"


def test_memory_devices_and_ports_are_disabled_and_enabled(run: Runner) -> None:
    script = """
    cxl create-region -m -t ram -d decoder0.0 -w 1 mem0 > /dev/null
    cxl disable-memdev mem0 2>&1 || true
    cxl disable-memdev -f mem0 2>&1
    cxl list -M -i -m mem0
    cxl enable-memdev mem0 2>&1
    cxl reserve-dpa -t ram -s 256M mem0 > /dev/null
    cxl free-dpa mem0 > /dev/null
    cxl disable-port -f port1 2>&1
    cxl enable-port -m port1 2>&1
    cxl list -M -i | grep -c disabled || true
    """
    text = run.shell(with_cxl(script), *ON_SERVER)
    assert "mem0 is part of an active region" in text
    assert documents(text)[0][0]["state"] == "disabled"
    assert text.splitlines()[-1] == "0"


def test_everything_is_listed(run: Runner) -> None:
    """`-v` looks for debugfs in /proc/mounts, and crashes without (cxl 85)."""
    text = run.shell(with_cxl("cxl list -v; cxl list -BPETDM > /dev/null; tail -n 1 /proc/mounts"), *ON_SERVER)
    ((bus,),) = documents(text)
    assert bus["provider"] == "ACPI.CXL"
    assert bus["nr_dports"] == 2
    assert text.splitlines()[-1].startswith("debugfs ")


def test_regions_are_made_by_writes_alone(run: Runner) -> None:
    """What `cxl create-region` writes, without it (docs/cxl.md)."""
    script = f"""
    cd /sys/bus/cxl/devices
    echo region0 > decoder0.0/create_ram_region
    echo 256 > region0/interleave_granularity
    echo 1 > region0/interleave_ways
    echo 268435456 > region0/size
    echo ram > decoder3.0/mode
    echo 268435456 > decoder3.0/dpa_size
    echo decoder3.0 > region0/target0
    echo 1 > region0/commit
    echo region0 > /sys/bus/cxl/drivers/cxl_region/bind
    echo 1 > /sys/bus/cxl/flush
    cat {STATE}
    grep -A 3 'CXL Window 0' /proc/iomem
    cat /sys/kernel/debug/cxl/mem0/dpamem
    """
    assert run.shell(script, *ON_SERVER).splitlines() == [
        "online_movable",
        "400000000-5ffffffff : CXL Window 0",
        "  400000000-40fffffff : region0",
        "    400000000-40fffffff : dax0.0",
        "      400000000-40fffffff : System RAM (kmem)",
        "00000000-ffffffff : ram",
        "  00000000-0fffffff : decoder3.0",
    ]


def test_32_devices_are_listed_in_time(run: Runner, tmp_path: Any) -> None:
    """Nothing is kept for a file: a large tree only takes longer to read."""
    devices = ",\n".join(
        f'{{ bridge = 12, path = ["0000:0c:{port:02x}.0", "0000:{port + 13:02x}:00.0"], ports = [{port}], ram = "1G" }}'
        for port in range(32)
    )
    machine = tmp_path / "many.toml"
    machine.write_text(
        f'extends = "cxl-server"\n[cxl]\nbridges = [12]\ndevices = [\n{devices}\n]\n'
        'windows = [{ start = "16G", size = "64G", bridges = [12], node = 2 }]\n'
    )
    need("cxl")
    text = run.shell("cxl list -M", "--machine", str(machine), "--kernel", "7.3")
    assert len(documents(text)[0]) == 32


def test_the_default_machine_is_listed(run: Runner) -> None:
    """`cxl` older than 85 lists it, too."""
    need("cxl")
    text = run.shell("cxl list; cxl list -R; daxctl list -R")
    both, (region,), (dax_region,) = documents(text)
    assert [entry["memdev"] for entry in both[0]["memdevs"]] == ["mem0"]
    assert both[1]["regions"] == [region]
    assert (region["region"], region["size"], region["decode_state"]) == ("region0", 8 << 30, "commit")
    assert dax_region["path"] == "/platform/ACPI0017:00/root0/decoder0.0/region0/dax_region0"
    assert (dax_region["size"], dax_region["available_size"]) == (8 << 30, 4 << 30)


def test_the_region_of_firmware_makes_room_for_another(run: Runner) -> None:
    script = """
    cxl disable-region region0 2>&1
    cxl destroy-region region0 2>&1
    cxl create-region -m -t ram -d decoder0.0 -w 1 -s 1G mem0 > /dev/null
    echo 1 > /sys/bus/cxl/flush
    daxctl list
    """
    text = run.shell(with_cxl(script), "--kernel", "7.3")
    assert "destroyed 1 region" in text
    ((device,),) = documents(text)
    assert (device["chardev"], device["size"], device["target_node"]) == ("dax0.0", 1 << 30, 2)
