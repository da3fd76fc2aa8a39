"""Files of CXL and nd devices that are not a region's or a decoder's (recordings of the guests t5 and t6)."""

from __future__ import annotations

from fakesysfs.kernfs import names_in
from fakesysfs.sysfs.cxl import cdat
from tests.model import Face, drive

ROOT0 = "/sys/devices/platform/ACPI0017:00/root0"
MODULES = ("libnvdimm", "cxl_pmem", "cxl_acpi", "cxl_mem", "cxl_pci")
CDAT_OF_256_MIB = (
    "a0000000020d0000000000000000000000001800000000000000000000000000"
    "0000001000000000010018000000010010270000000000000f00000000000000"
    "0100180000000200102700000000000019000000000000000100180000000400"
    "e80300000000000010000000000000000100180000000500e803000000000000"
    "1000000000000000040018000001000000000000000000000000001000000000"
)
"""As guest t6 has it."""


CDAT_OF_A_SWITCH = (
    "5000000002e20000000000000000000005002000000000001027000000000000"
    "000100000f000000000101000f00000005002000030000000004000000000000"
    "00010000100000000001010010000000"
)
"""As guest t4 has it."""


def loaded(machine: str) -> Face:
    face = Face(machine, "7.3")
    for module in MODULES:
        drive(face.kernel.modprobe(module))
    return face


def test_the_tables_of_memory_devices_and_switches_are_those_of_qemu() -> None:
    face = loaded("oracle-t6")
    endpoint = face.kernel.cxl_bus.devices["endpoint3"]
    assert cdat(endpoint).hex() == CDAT_OF_256_MIB  # type: ignore[arg-type]
    switch = loaded("oracle-t4").kernel.cxl_bus.devices["port2"]
    assert cdat(switch).hex() == CDAT_OF_A_SWITCH  # type: ignore[arg-type]
    assert sum(cdat(loaded("oracle-t5").kernel.cxl_bus.devices["endpoint2"])) % 256 == 0  # type: ignore[arg-type]


def test_persistent_memory_is_a_dimm_of_the_nd_bus() -> None:
    face = loaded("oracle-t5")
    ndbus = f"{ROOT0}/nvdimm-bridge0/ndbus0"
    assert face.read(f"{ndbus}/provider") == "CXL\n"
    expected = {
        "available_slots": "4089\n", "commands": "get_size get_data set_data \n", "cxl/id": "49408\n",
        "cxl/provider": "pmem0\n", "dev": "242:0\n", "devtype": "nvdimm\n", "flags": "label \n", "frozen": "0\n",
        "modalias": "nd:t1\n", "security": "disabled\n", "state": "idle\n",
        "uevent": "MAJOR=242\nMINOR=0\nDEVNAME=nmem0\nDEVTYPE=nvdimm\nDRIVER=nvdimm\nMODALIAS=nd:t1\n",
    }  # fmt: skip
    assert {name: face.read(f"{ndbus}/nmem0/{name}") for name in expected} == expected
    names = {name.partition("/")[0] for name in expected}
    assert set(names_in(face.sysroot.tree, f"{ndbus}/nmem0")) == names | {"driver", "firmware", "subsystem"}
    face.write("/sys/bus/cxl/drivers/cxl_mem/unbind", "mem0")
    assert "nmem0" not in names_in(face.sysroot.tree, ndbus)
