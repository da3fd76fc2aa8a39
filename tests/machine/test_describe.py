"""A wrong machine file gets one clear message: the file, the key, the value and what is allowed (docs/commands.md)."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import msgspec
import pytest

from fakesysfs.kernel.config import Config
from fakesysfs.kernel.profile import Mmop
from fakesysfs.kernel.range import Range
from fakesysfs.machine import MachineError, builtin, load
from fakesysfs.machine.describe import KernelSection
from tests.model import Face, dax

NODE_5 = "{ node = 5, read_latency = 1, write_latency = 1, read_bandwidth = 1, write_bandwidth = 1 }"
NODE_0 = "{ node = 0, read_latency = 0, write_latency = 1, read_bandwidth = 1, write_bandwidth = 1 }"
GOOD = """
block_size = "128M"
modules = ["dax_hmem", "kmem"]

[[node]]
id = 0
cpus = "0-1"
memory = [{ start = "0", size = "2G" }]

[[node]]
id = 1

[[dax_region]]
kind = "hmem"
start = "4G"
size = "1G"
target_node = 1
"""


def said(folder: Path, text: str | bytes, name: str = "m.toml") -> str:
    """The message that loading a file gives, without the folder."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(MachineError) as error:
        load(str(path))
    message = str(error.value)
    assert message.startswith(f"{path}: "), message
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_a_good_file(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text(GOOD)
    machine = load(str(path))
    setup = machine.setup()
    assert (machine.name, machine.text) == ("m", GOOD)
    assert setup.block_size == 128 << 20
    assert [(node.nid, node.cpus) for node in setup.nodes] == [(0, (0, 1)), (1, ())]
    assert setup.soft_reserved[0].range == Range(4 << 30, (5 << 30) - 1)
    assert setup.default_online_type is Mmop.ONLINE


def test_a_file_that_changed_is_another_machine(tmp_path: Path) -> None:
    """Although a text that was parsed before is not parsed again."""
    path = tmp_path / "m.toml"
    path.write_text(GOOD)
    first = load(str(path))
    assert load(str(path)).setup() is first.setup()
    path.write_text(GOOD.replace("0-1", "0-3"))
    assert load(str(path)).setup().nodes[0].cpus == (0, 1, 2, 3)
    path.write_text("")
    for _ in range(2):
        with pytest.raises(MachineError, match="the file is empty"):
            load(str(path))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # keys that are not known
        ("[[node]]\nid = 1", "[[node]]\nid = 1\ncolour = 3", ["node[1].colour: unknown key", "cpus, id, memory"]),
        ("block_size", "blok_size", ["blok_size: unknown key", "block_size"]),
        ("modules =", "moduls = []\nmodules =", ["moduls: unknown key", "modules"]),
        ('kind = "hmem"', 'kind = "hmem"\nsze = 1', ["dax_region[0].sze: unknown key", "size"]),
        # types
        ("id = 1", 'id = "one"', ["node[1].id = 'one'", "expected int"]),
        ('cpus = "0-1"', "cpus = 1", ["node[0].cpus = 1", "expected str"]),
        ("target_node = 1", "target_node = 1.5", ["dax_region[0].target_node = 1.5", "expected int"]),
        ('"128M"', "[1]", ["block_size = [1]", "expected int | str"]),
        ("[[node]]\nid = 1", "[kernel]\nPM = 3\n\n[[node]]\nid = 1", ["kernel.PM = 3", "expected bool"]),
        ('kind = "hmem"', 'kind = "nvme"', ["dax_region[0].kind = 'nvme'", "hmem, cxl, pmem"]),
        ("id = 1", "cpus = '1'", ["node[1].id: missing"]),
        ("modules =", "kernel = 5\nmodules =", ["kernel = 5", "expected object"]),
        ("modules =", "distances = [[10, '20'], [20, 10]]\nmodules =", ["distances[0][1] = '20'", "expected int"]),
        ("modules =", "mem_total_kB = { 0 = { Movable = 1 } }\nmodules =", ["mem_total_kB", "Movable"]),
        # sizes
        ('"128M"', '"100M"', ["block_size", "100M", "power of two", "128M"]),
        ('"128M"', '"64M"', ["block_size", "64M", "at least 128M"]),
        ('"128M"', '"many"', ["block_size", "many", "128M"]),
        ('"128M"', "-1", ["block_size", "-1", "expected"]),
        ('size = "1G"', 'size = "1000K"', ["dax_region[0].size", "1000K", "multiple"]),
        ('start = "4G"', 'start = "0x100000001"', ["dax_region[0].start", "0x100000001", "multiple"]),
        ('size = "1G"', 'size = "0"', ["dax_region[0].size", "'0'", "more than 0"]),
        ('size = "1G"', 'size = "8P"', ["dax_region[0].size", "8P", "4P"]),
        ('start = "4G"', 'start = "4095T"', []),
        ('start = "4G"', f'start = "{(1 << 52) - (1 << 29)}"', ["dax_region[0].size", "4P"]),
        ('size = "1G"', 'size = "1G"\nalign = "3M"', ["dax_region[0].align", "3M", "2M"]),
        ('size = "1G"', 'size = "1G"\ndevice_size = "2G"', ["dax_region[0].device_size", "2G", "at most"]),
        # ranges
        (
            "target_node = 1",
            'target_node = 1\n[[dax_region]]\nkind = "hmem"\nstart = "4G"\nsize = "1G"\ntarget_node = 1',
            ["dax_region[1]", "0x100000000-0x13fffffff", "overlaps dax_region[0]"],
        ),
        (
            "target_node = 1",
            'target_node = 1\n[[dax_region]]\nkind = "cxl"\nstart = "4608M"\nsize = "1G"\ntarget_node = 1',
            ["dax_region[1]", "0x120000000-0x15fffffff", "overlaps dax_region[0]"],
        ),
        (
            "id = 1",
            'id = 1\nmemory = [{ start = "1G", size = "2G" }]',
            ["node[1].memory[0]", "0x40000000-0xbfffffff", "overlaps node[0].memory[0]"],
        ),
        (
            'memory = [{ start = "0", size = "2G" }]',
            "memory = [{ start = 0, size = 1000 }]",
            ["memory[0]", "0x0-0x3e7", "4096"],
        ),
        # nodes and cpus
        ("target_node = 1", "target_node = 7", ["dax_region[0].target_node", "7", "[0, 1]"]),
        ("target_node = 1", "target_node = -1", ["dax_region[0].target_node", "-1", "[0, 1]"]),
        ("id = 1", "id = 0", ["node[1].id", "0", "each once"]),
        ("id = 1", "id = 1024", ["node[1].id", "1024", "0 to 1023"]),
        ("id = 1", "id = -1", ["node[1].id", "-1", "0 to 1023"]),
        ('cpus = "0-1"', 'cpus = "a"', ["node[0].cpus", "'a'", "0-1,4"]),
        ('cpus = "0-1"', 'cpus = "3-1"', ["node[0].cpus", "3-1"]),
        ('cpus = "0-1"', 'cpus = ""', ["node", "cpus"]),
        ("id = 1", 'id = 1\ncpus = "1"', ["node[1].cpus", "CPU 1", "node[0].cpus"]),
        ('memory = [{ start = "0", size = "2G" }]', "memory = []", ["node", "at least one node with memory"]),
        # the rest
        ('"kmem"]', '"nvme"]', ["modules[1]", "nvme", "kmem"]),
        ('"kmem"]', '"kmem x=1"]', ["modules[1]", "kmem x=1", "parameters of kmem"]),
        ('"kmem"]', '"dax_hmem region_idle=x"]', ["modules[1]", "region_idle=x", "neither true nor false"]),
        ('"kmem"]', '""]', ["modules[1]", "expected one of"]),
        (
            "[[node]]\nid = 1",
            '[memory_hotplug]\nonline_type = "on"\n\n[[node]]\nid = 1',
            ["memory_hotplug.online_type = 'on'", "offline, online, online_kernel, online_movable"],
        ),
        ("modules =", "distances = [[10]]\nmodules =", ["distances", "[[10]]", "2 rows of 2"]),
        ("modules =", "distances = [[11, 20], [20, 10]]\nmodules =", ["distances[0][0] = 11", "10", "itself"]),
        ("modules =", "distances = [[10, 20], [10, 10]]\nmodules =", ["distances[1][0] = 10", "more to any other"]),
        ("modules =", "distances = [[10, 20], [20]]\nmodules =", ["distances", "2 rows of 2"]),
        (
            "modules =",
            f"hmat = [{NODE_5}]\nmodules =",
            ["hmat[0].node", "5", "[0, 1]"],
        ),
        (
            "modules =",
            f"hmat = [{NODE_0}]\nmodules =",
            ["hmat[0]", "above 0"],
        ),
        ("modules =", "mem_total_kB = { 9 = 5 }\nmodules =", ["mem_total_kB", "9", "[0, 1]"]),
        ("modules =", 'extends = "nobody"\nmodules =', ["extends", "nobody", "built-in"]),
        ("modules =", "latency = { online_block = -1.0 }\nmodules =", ["latency.online_block = -1.0", ">= 0"]),
        (
            "modules =",
            "memory_hotplug = { auto_movable_ratio = -1 }\nmodules =",
            ["memory_hotplug.auto_movable_ratio = -1", ">= 0"],
        ),
        (
            "modules =",
            'kernel = { out_of_tree_modules = ["nd-btt"] }\nmodules =',
            ["kernel.out_of_tree_modules[0] = 'nd-btt'", "expected one of", "nd_btt"],
        ),
        ("modules =", "kernel = { nr_cpus = 0 }\nmodules =", ["kernel.nr_cpus = 0", ">= 1"]),
        ("modules =", "kernel = { dax_major = 5000 }\nmodules =", ["kernel.dax_major = 5000", "<= 511"]),
        ("modules =", 'unmovable = [{ block = -1, why = "x" }]\nmodules =', ["unmovable[0].block = -1", ">= 0"]),
        ("modules =", "distances = [[10, -1], [20, 10]]\nmodules =", ["distances[0][1] = -1", ">= 10"]),
        ("modules =", "mem_total_kB = { 0 = -5 }\nmodules =", ["mem_total_kB", "-5", ">= 0"]),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    if not expected:
        (tmp_path / "m.toml").write_text(text)
        load(str(tmp_path / "m.toml"))
        return
    message = said(tmp_path, text)
    for part in expected:
        assert part in message, message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "empty"),
        (b"\n# only a comment\n", "empty"),
        (b"block_size = ", "not TOML"),
        (b"[[node]\n", "not TOML"),
        (b"\x00\x01", "not TOML"),
        (b'title = "\xff"', "not TOML"),
        (b"a = " + b"[" * 5000, "nested too deeply"),
        # some versions of Python 3.13 have a depth to spare
        (
            b"extends = 'default'\n[memory_hotplug]\nonline_type" + b".a" * 5000 + b" = 1",
            "nested too deeply|online_type",
        ),
        (b"title = 1", "block_size|title"),
        (b"title = 'x'", "block_size"),
    ],
)
def test_what_is_no_machine_file(tmp_path: Path, text: bytes, expected: str) -> None:
    assert re.search(expected, said(tmp_path, text))


def test_a_directory_a_missing_and_an_unreadable_file(tmp_path: Path) -> None:
    for path, expected in ((tmp_path, "Is a directory"), (tmp_path / "no.toml", "No such file or directory")):
        with pytest.raises(MachineError, match=re.escape(f"{path}: {expected}")):
            load(str(path))
    path = tmp_path / "secret.toml"
    path.write_text(GOOD)
    path.chmod(0)
    if os.geteuid():
        with pytest.raises(MachineError, match="Permission denied"):
            load(str(path))
    with pytest.raises(MachineError, match="/proc/self/mem: Input/output error"):
        load("/proc/self/mem")


def test_a_name_that_is_neither_built_in_nor_a_file() -> None:
    with pytest.raises(
        MachineError, match=r"unknown machine 'defualt' \(choose from .*default.*, or name a TOML file\)"
    ):
        load("defualt")


def test_every_built_in_machine_is_good_and_says_what_it_is() -> None:
    titles = builtin()
    assert {"default", "oracle", "oracle-hmat", "oracle-distribution"} <= set(titles)
    for name, title in titles.items():
        assert title
        assert load(name).setup().block_size >= 128 << 20


def test_a_file_may_extend_a_built_in_machine(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text('extends = "default"\n[memory_hotplug]\nonline_type = "offline"\n')
    setup, base = load(str(path)).setup(), load("default").setup()
    assert setup.default_online_type is Mmop.OFFLINE
    assert (setup.nodes, setup.cxl_regions, setup.config) == (base.nodes, base.cxl_regions, base.config)


def test_the_table_kernel_has_the_options_of_the_kernel_and_their_defaults() -> None:
    """Each option is declared in two forms: `Config` is the kernel's, `KernelSection` the file's."""
    assert msgspec.structs.asdict(KernelSection()) == dataclasses.asdict(Config())


# CXL ---------------------------------------------------------------------------------------------------------------

ONE_DEVICE = """
extends = "cxl-server"

[cxl]
windows = [{ start = "16G", size = "4G", bridges = [12], node = 2 }]
bridges = [12]
devices = [{ bridge = 12, path = ["0000:0c:00.0", "0000:0d:00.0"], ports = [0], ram = "1G" }]
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('start = "16G"', 'start = "0x400001000"', ["cxl.windows[0].start", "multiple of 256M"]),
        ('size = "4G"', 'size = "100M"', ["cxl.windows[0].size", "multiple of 256M"]),
        ("node = 2", "node = 9", ["cxl.windows[0].node", "9", "nodes"]),
        ("node = 2", "node = 2, granularity = 300", ["cxl.windows[0].granularity", "300", "256"]),
        ("bridges = [12], node", "bridges = [13], node", ["cxl.windows[0].bridges", "[13]"]),
        ("bridge = 12", "bridge = 13", ["cxl.devices[0].bridge", "13", "[12]"]),
        ('"0000:0d:00.0"]', '"0d:00.0"]', ["cxl.devices[0].path", "PCI addresses"]),
        (', "0000:0d:00.0"]', "]", ["cxl.devices[0].path", "PCI addresses"]),
        ("ports = [0]", "ports = [0, 1]", ["cxl.devices[0].ports", "1 port numbers"]),
        ('ram = "1G"', 'ram = "100M"', ["cxl.devices[0].ram", "multiple of 256M"]),
        ('ram = "1G"', 'ram = "1G", colour = 3', ["cxl.devices[0].colour", "unknown key"]),
        ("bridges = [12]\n", 'bridges = [12]\nmemdevs = ["0000:0e:00.0"]\n', ["cxl.memdevs", "0000:0d:00.0"]),
        ("bridges = [12]\n", "bridges = [12]\nprobe_order = []\n", []),
        ("bridges = [12]\n", 'bridges = [12]\nregisters = ["1G", "2G"]\n', ["cxl.registers", "each of cxl.bridges"]),
        (
            '[{ start = "16G"',
            '[{ start = "17G", size = "1G", bridges = [12], node = 2 }, { start = "16G"',
            ["overlaps"],
        ),
        ('start = "16G"', 'start = "4G"', ["cxl.windows[0]", "overlaps node[0].memory[1]"]),
    ],
)
def test_wrong_cxl_hardware(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    assert old in ONE_DEVICE
    path = tmp_path / "m.toml"
    path.write_text(ONE_DEVICE.replace(old, new, 1))
    if not expected:
        load(str(path))
        return
    with pytest.raises(MachineError) as error:
        load(str(path))
    assert [part for part in expected if part not in str(error.value)] == []


def test_cxl_hardware_and_its_modules_belong_together(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text("extends = 'cxl'\nmodules = ['cxl_acpi']\n")
    with pytest.raises(MachineError, match=r"modules\[0\] = 'cxl_acpi': needs CXL hardware"):
        load(str(path))
    path.write_text(f"{ONE_DEVICE}\n[[dax_region]]\nkind = 'cxl'\nstart = '64G'\nsize = '1G'\ntarget_node = 2\n")
    with pytest.raises(MachineError, match=r"dax_region\[0\].kind = 'cxl': not allowed beside \[cxl\]"):
        load(str(path))
    for line in ("cxl_test = true", "modules = ['cxl-test']"):
        path.write_text(ONE_DEVICE.replace("\n[cxl]", f"{line}\n\n[cxl]"))
        with pytest.raises(MachineError, match=r"cxl_test is not allowed beside \[cxl\]"):
            load(str(path))


TWO_BRIDGES = """
extends = "cxl-server"

[cxl]
regions = [
    { targets = ["0000:0d:00.0"], size = "1G" },
    { targets = ["0000:df:00.0"], size = "1G", window = 1, device_size = "512M", driver = "device_dax" },
    { targets = ["0000:0d:00.0", "0000:df:00.0"], size = "2G", window = 2, online_type = "offline" },
]
"""
FIRST = '{ targets = ["0000:0d:00.0"], size = "1G" }'


def test_regions_of_firmware(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text(TWO_BRIDGES)
    kernel = Face(str(path), "hotplug-v3").kernel
    assert {name: (device.driver and device.driver.name) for name, device in kernel.dax_bus.devices.items()} == {
        "dax0.0": "kmem",
        "dax1.0": "device_dax",
        "dax2.0": "kmem",
    }
    assert [(dax(kernel, name).size >> 20, dax(kernel, name).target_node) for name in kernel.dax_bus.devices] == [
        (1024, 2),
        (512, 3),
        (2048, 4),
    ]
    assert not kernel.nodes[4].managed_kb


def test_a_region_of_firmware_begins_behind_the_one_before_it(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    second = '{ targets = ["0000:0e:00.0"], size = "512M" }'
    third = '{ targets = ["0000:0d:00.0"], size = "512M", start = "20G" }'
    path.write_text(f'extends = "cxl-server"\n[cxl]\nregions = [{FIRST}, {second}, {third}]\n')
    assert [region.dax.range.start >> 20 for region in load(str(path)).setup().cxl_regions] == [
        16 << 10,
        17 << 10,
        20 << 10,
    ]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ('{ targets = ["0000:0d:00.0"], size = "1G", window = 3 }', [".window = 3", "0 to 2"]),
        ('{ targets = ["0000:11:00.0"], size = "1G" }', [".targets", "0000:11:00.0", "cxl.devices", "0000:0d:00.0"]),
        ('{ targets = ["0000:0d:00.0", "0000:0d:00.0"], size = "1G" }', [".targets", "each once"]),
        ("{ targets = [], size = 0 }", [".targets = []", "expected 1, 2, 4"]),
        ('{ targets = ["0000:0d:00.0"], size = "128M" }', [".size = '128M'", "multiple of 256M"]),
        ('{ targets = ["0000:0d:00.0"], size = 0 }', [".size = 0", "multiple of 256M"]),
        ('{ targets = ["0000:0d:00.0"], size = "16G" }', ["0x400000000-0x7ffffffff", "cxl.windows[0]"]),
        ('{ targets = ["0000:0d:00.0"], size = "1G", start = "0x408000000" }', ["0x408000000", "steps of 256M"]),
        ('{ targets = ["0000:0d:00.0"], size = "1G", start = "8G" }', ["0x200000000", "cxl.windows[0]"]),
        ('{ targets = ["0000:0d:00.0"], size = "1G", align = "3M" }', [".align", "3M", "2M"]),
        ('{ targets = ["0000:0d:00.0"], size = "256M", align = "1G" }', [".size", "256M", "multiple"]),
        ('{ targets = ["0000:0d:00.0"], size = "1G", device_size = "2G" }', [".device_size", "at most"]),
        ('{ targets = ["0000:0d:00.0"], size = "1G", mode = "dcd" }', [".mode = 'dcd'", "ram, pmem"]),
        ('{ targets = ["0000:0d:00.0"], size = "1G", mode = "pmem", driver = "kmem" }', [".driver", 'mode = "ram"']),
        # what only the kernel's code knows
        ('{ targets = ["0000:0d:00.0"], size = "8G" }', [".targets", "no such region can be", "more than the free"]),
        ('{ targets = ["0000:0d:00.0"], size = "1G", mode = "pmem" }', [".targets", "has no pmem"]),
        ('{ targets = ["0000:df:00.0"], size = "1G" }', [".targets", "decoder0.0 needs a target below bridge 12"]),
        ('{ targets = ["0000:0d:00.0"], size = "1G", granularity = 300 }', [".targets", "300 is not one of"]),
        (f"{FIRST}, {{ targets = ['0000:0e:00.0'], size = '1G', start = '16640M' }}", ["cxl.regions[1]", "overlaps"]),
        (
            f"{FIRST[:-2]}, start = '20G' }}, {{ targets = ['0000:0e:00.0'], size = '1G', start = '16G' }}",
            ["cxl.regions[1].targets", "at a higher address uses port1"],
        ),
    ],
)
def test_wrong_regions_of_firmware(tmp_path: Path, changed: str, expected: list[str]) -> None:
    path = tmp_path / "m.toml"
    path.write_text(f'extends = "cxl-server"\n[cxl]\nregions = [{changed}]\n')
    with pytest.raises(MachineError) as error:
        load(str(path))
    assert str(error.value).startswith(f"{path}: cxl.regions[")
    assert [part for part in expected if part not in str(error.value)] == [], str(error.value)


# Dax regions of kind cxl ---------------------------------------------------------------------------------------------


def of_kind_cxl(*starts: int, more: str = "", head: str = "") -> str:
    regions = "".join(
        f'[[dax_region]]\nkind = "cxl"\nstart = "{start}M"\nsize = "128M"\ntarget_node = 1\n{more}\n'
        for start in starts
    )
    text = GOOD[: GOOD.index("[[dax_region]]")]
    return f"{head}\n{text}\n{regions}"


def test_dax_regions_of_kind_cxl_have_hardware_of_their_own(tmp_path: Path) -> None:
    """Any start and size that other dax regions may have: a file from before [cxl] stays good."""
    path = tmp_path / "m.toml"
    path.write_text(of_kind_cxl(4096, 4096 + 128, 8192 + 2).replace('modules = ["', 'modules = ["dax_cxl", "'))
    kernel = Face(str(path), "7.3").kernel
    assert [device.devpath.split("/")[5:7] for device in kernel.dax_bus.devices.values()] == [
        [f"decoder0.{number}", f"region{number}"] for number in range(3)
    ]
    assert [name for name in kernel.cxl_bus.devices if name.startswith("mem")] == ["mem0", "mem1", "mem2"]
    loaded = list(kernel.modules.loaded)
    assert loaded.index("cxl_pci") < loaded.index("dax_cxl")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (of_kind_cxl(*range(4096, 4096 + 256 * 123, 256)), ["dax_region = '123 of kind cxl'", "at most 122"]),
        (of_kind_cxl(4096, 4096 + 64), ["dax_region[1]", "overlaps dax_region[0]"]),
        (
            of_kind_cxl(4096, more='soft_reserved = [{ start = "4G", size = "2M" }]'),
            ["dax_region[0].soft_reserved", "4G+2M", "not allowed"],
        ),
    ],
)
def test_wrong_dax_regions_of_kind_cxl(tmp_path: Path, text: str, expected: list[str]) -> None:
    path = tmp_path / "m.toml"
    path.write_text(text)
    with pytest.raises(MachineError) as error:
        load(str(path))
    assert [part for part in expected if part not in str(error.value)] == [], str(error.value)


def test_modules_of_a_file_with_dax_regions_of_kind_cxl(tmp_path: Path) -> None:
    """cxl_acpi and cxl_pci come first unless the file says when; no machine of another kind has them."""
    path = tmp_path / "m.toml"
    for modules, expected in (
        ("['kmem', 'dax_cxl']", ["cxl_acpi", "cxl_pci", "kmem", "dax_cxl"]),
        ("['kmem', 'cxl-pci']", ["cxl_acpi", "kmem", "cxl-pci"]),
        ("['cxl_test']", ["cxl_test"]),
    ):
        path.write_text(f"extends = 'default'\nmodules = {modules}\n")
        assert [name for name, _ in load(str(path)).setup().modules] == expected
    assert load("hmem").setup().modules[0] == ("device_dax", ())


def test_numbers_of_memory_devices_and_endpoints_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    addresses = [f"0000:{bus}:00.0" for bus in ("e0", "df", "0e", "0d")]
    path.write_text(f"extends = 'cxl-server'\n[cxl]\nmemdevs = {addresses}\nprobe_order = {addresses[::-1]}\n")
    devices = Face(str(path), "7.3").kernel.cxl_bus.devices
    assert devices["mem0"].devpath.endswith("/0000:e0:00.0/mem0")
    assert [getattr(device, "uport", "").rpartition("/")[2] for name, device in devices.items() if "endp" in name] == [
        "mem3", "mem2", "mem1", "mem0",
    ]  # fmt: skip
