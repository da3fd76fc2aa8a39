"""Places, links and module directories (snapshots 7.2/06-pmem-devdax, 07-hmat; 7.2-distribution/01-boot, i=12)."""

from __future__ import annotations

import os

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


def test_the_nd_bus_comes_and_goes_with_its_module() -> None:
    face = Face("oracle", "7.2")
    assert "nd" not in face.names("/sys/bus")
    sched.run(face.kernel.modprobe("nd_e820"))
    assert sorted(face.names("/sys/bus/nd/devices")) == ["namespace0.0", "ndbus0", "region0"]
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
