"""The table of the modules that can be loaded.

Only modules of the modelled code exist. `kernel.py` gives each one its code.
"""

from __future__ import annotations

from collections.abc import Mapping

from fakesysfs.kernel.module import ModuleKind

MODULE_KINDS: Mapping[str, ModuleKind] = {
    "device_dax": ModuleKind(),
    "fsdev_dax": ModuleKind(),
    "kmem": ModuleKind(wants_memory_hotplug=True),
    "dax_hmem": ModuleKind(parameters={"region_idle": "N"}),
    "dax_cxl": ModuleKind(needs=("dax_hmem",), import_ns="CXL"),
    "cxl_acpi": ModuleKind(needs=("cxl_pmem",), import_ns="CXL"),
    "cxl_mem": ModuleKind(import_ns="CXL"),
    "cxl_pci": ModuleKind(needs=("cxl_mem",), import_ns="CXL"),
    "cxl_pmem": ModuleKind(needs=("libnvdimm",), import_ns="CXL"),
    "cxl_test": ModuleKind(out_of_tree=True),
    "libnvdimm": ModuleKind(core_size=110592, import_ns="DEVMEM"),
    "nd_btt": ModuleKind(needs=("libnvdimm",), core_size=24576),
    "nd_e820": ModuleKind(needs=("libnvdimm",)),
    "nd_pmem": ModuleKind(needs=("libnvdimm", "nd_btt"), core_size=20480),
    "dax_pmem": ModuleKind(needs=("libnvdimm",)),
    "notifier_error_inject": ModuleKind(),
    "memory_notifier_error_inject": ModuleKind(
        needs=("notifier_error_inject",),
        parameters={"priority": "0"},
        hidden_integers=frozenset({"priority"}),
        wants_memory_hotplug=True,
    ),
}

CXL_MODULES = frozenset({"cxl_acpi", "cxl_mem", "cxl_pci", "cxl_pmem"})
"""The modules for CXL hardware. A machine without such hardware lacks them."""
CXL_AT_BOOT = ("cxl_acpi", "cxl_pci")
"""Those that udev loads for the hardware, with what they need."""
