"""Places, links and module directories (snapshots 7.2/06-pmem-devdax, 07-hmat; 7.2-distribution/01-boot, i=12)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fakesysfs.ops import sched
from tests.model import Face

ND_DAX = "/sys/devices/platform/e820_pmem/ndbus0/region0/dax0.0"


def link(face: Face, path: str) -> str:
    tree = face.sysroot.tree
    return os.fsdecode(tree.readlink(tree.walk(path)))


@pytest.mark.parametrize("kind", ["initiators", "targets"])
@pytest.mark.parametrize("access", ["access0", "access1"])
def test_a_link_to_a_directory_around_it_names_that_directory(access: str, kind: str) -> None:
    """The way goes up to an ancestor of the target, never to the target itself."""
    assert link(Face("oracle-hmat", "7.2"), f"/sys/devices/system/node/node0/{access}/{kind}/node0") == "../../../node0"


def test_a_static_region_s_place_and_attributes() -> None:
    face = Face("oracle-pmem", "7.2")
    for module in ("nd_e820", "nd_pmem", "dax_pmem", "device_dax"):
        sched.run(face.kernel.modprobe(module))
    assert face.write("/control/pmem/devdax", "namespace0.0\n") == len("namespace0.0\n")
    assert sorted(face.names(ND_DAX)) == [
        "align", "dax0.0", "dax_region", "devtype", "driver", "modalias", "mode", "namespace", "numa_node", "resource",
        "size", "subsystem", "supported_alignments", "target_node", "uevent", "uuid",
    ]  # fmt: skip
    assert "mapping" not in face.names(f"{ND_DAX}/dax0.0")
    assert face.refusal(f"{ND_DAX}/dax0.0/size", "0") == "EACCES"
    assert link(face, f"{ND_DAX}/dax0.0/driver") == "../../../../../../../bus/dax/drivers/device_dax"
    assert face.read(f"{ND_DAX}/uevent") == "DEVTYPE=nd_dax\nDRIVER=dax_pmem\nMODALIAS=nd:t7\n"
    assert face.refusal(f"{ND_DAX}/align", "4096") == "EBUSY"
    assert face.names("/sys/module/dax_pmem/drivers") == ["nd:dax_pmem"]


@pytest.mark.parametrize("words", ["", "namespace0.0 4096", "namespace0.0 align=x", "namespace0.0 align=4096 more"])
def test_junk_to_control_pmem_devdax(words: str) -> None:
    face = Face("pmem")
    expected = "ok" if not words else "EINVAL"  # a write of nothing calls nothing
    assert face.refusal("/control/pmem/devdax", words) == expected


def test_the_mode_of_a_namespace_says_what_has_claimed_it() -> None:
    face = Face("oracle", "7.2")
    mode = "/sys/devices/platform/e820_pmem/ndbus0/region0/namespace0.0/mode"
    sched.run(face.kernel.modprobe("nd_e820"))
    assert face.read(mode) == "memory\n"
    sched.run(face.kernel.modprobe("nd_pmem"))
    assert face.read(mode) == "memory\n", "a raw namespace with its block device"
    face.write("/control/pmem/devdax", "namespace0.0\n")
    assert face.read(mode) == "dax\n"


def test_the_nd_bus_comes_and_goes_with_its_module() -> None:
    face = Face("oracle", "7.2")
    assert "nd" not in face.names("/sys/bus")
    sched.run(face.kernel.modprobe("nd_e820"))
    assert sorted(face.names("/sys/bus/nd/devices")) == ["namespace0.0", "ndbus0", "region0"]
    assert sorted(face.names("/sys/bus/nd/drivers")) == ["nd_bus", "nd_region", "nvdimm"]
    assert sorted(face.names("/sys/bus/nd/drivers/nd_bus")) == ["module", "ndbus0", "uevent"]
    assert sorted(face.names("/sys/bus/nd/drivers/nvdimm")) == ["bind", "module", "uevent", "unbind"]
    sched.run(face.kernel.rmmod("nd_e820"))
    sched.run(face.kernel.rmmod("libnvdimm"))
    assert "nd" not in face.names("/sys/bus")


def test_a_module_s_directory() -> None:
    face = Face("oracle-distribution", "7.2")
    sched.run(face.kernel.modprobe("kmem"))
    assert sorted(face.names("/sys/module/kmem")) == [
        "coresize", "drivers", "holders", "initsize", "initstate", "notes", "refcnt", "sections", "taint", "uevent",
    ]  # fmt: skip
    assert face.read("/sys/module/kmem/taint") == "\n"


def test_links_to_a_node_with_hmat_data_outlive_it() -> None:
    """Nothing takes them back, and the node that returns is not registered again (hmat_hotplug_target)."""
    face = Face("oracle-hmat", "7.3")
    node = "/sys/devices/system/node"
    face.write("/sys/devices/system/memory/auto_online_blocks", "online_movable")
    for module in ("device_dax", "dax_hmem"):
        sched.run(face.kernel.modprobe(module))
    assert face.names(f"{node}/node0/access0/targets") == face.names(f"{node}/node0/access1/targets")
    assert "node2" not in face.names(f"{node}/node0/access0/targets")
    sched.run(face.kernel.modprobe("kmem"))
    for access in ("access0", "access1"):
        assert "node2" in face.names(f"{node}/node0/{access}/targets")
        assert "node0" in face.names(f"{node}/node2/{access}/initiators")
    kmem = "/sys/bus/dax/drivers/kmem"
    for _ in range(2):
        for index in range(48, 80):
            face.write(f"/sys/devices/system/memory/memory{index}/state", "offline")
        face.write(f"{kmem}/unbind", "dax0.0")
        assert "node2" not in face.names(node)
        for access in ("access0", "access1"):
            assert "node2" in face.names(f"{node}/node0/{access}/targets")
            assert link(face, f"{node}/node0/{access}/targets/node2") == "../../../node2"
        face.write(f"{kmem}/bind", "dax0.0")
        assert "access0" not in face.names(f"{node}/node2")
        assert "access1" not in face.names(f"{node}/node2")
        for access in ("access0", "access1"):
            assert "node2" in face.names(f"{node}/node0/{access}/targets")


def test_an_initiator_that_is_no_target_has_the_link_alone(tmp_path: Path) -> None:
    """The HMAT names one node: the nearest node with CPUs gets access0 and access1 too, without figures."""
    machine = tmp_path / "machine.toml"
    figures = "read_bandwidth = 1\nread_latency = 1\nwrite_bandwidth = 1\nwrite_latency = 1\n"
    machine.write_text(f'extends = "default"\nmemory_hotplug.online_type = "offline"\n[[hmat]]\nnode = 2\n{figures}')
    face = Face(str(machine), "7.2")
    node = "/sys/devices/system/node"
    near = face.kernel.nodes.nearest_initiators(2)[0]
    assert "access0" not in face.names(f"{node}/node{near}")
    state = "/sys/devices/system/memory/memory64/state"
    assert face.refusal(state, "online_movable") == "ok"
    for access in ("access0", "access1"):
        assert face.names(f"{node}/node{near}/{access}/targets") == ["node2"]
        assert face.names(f"{node}/node{near}/{access}/initiators") == []
        assert f"node{near}" in face.names(f"{node}/node2/{access}/initiators")
        assert face.read(f"{node}/node2/{access}/initiators/read_latency") == "1\n"


def test_power_of_a_node_s_access_has_async_only(tmp_path: Path) -> None:
    """Its device has no callbacks for runtime PM; access0 and access1 are devices of their own."""
    machine = tmp_path / "machine.toml"
    machine.write_text('extends = "oracle-hmat"\n[kernel]\nPM = true\n')
    face = Face(str(machine), "7.2")
    access = "/sys/devices/system/node/node0/access"
    assert face.names(f"{access}0/power") == ["async"]
    assert face.write(f"{access}0/power/async", "enabled") == len("enabled")
    assert face.read(f"{access}0/power/async") == "enabled\n"
    assert face.read(f"{access}1/power/async") == "disabled\n"
    assert face.read("/sys/devices/system/node/node0/power/async") == "disabled\n"
