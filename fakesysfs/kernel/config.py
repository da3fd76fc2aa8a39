"""The kernel's configuration: build options (CONFIG_*) and boot options."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The options that programs can notice. A machine file sets them in its table `kernel`."""

    pm: bool = True
    memory_hotplug: bool = True
    memory_hotremove: bool = True
    memory_failure: bool = True
    crash_hotplug: bool = True
    numa_migration: bool = True
    pinctrl: bool = True
    dev_dax_kmem_protected: bool = False
    movable_node: bool = False
    kernel_allocations_on_hotplugged_nodes: bool = True
    dax_major: int = 254
    cxl_major: int = 249
    nr_cpus: int = 8192
    max_numnodes: int = 1024
    cmdline: str = ""
    out_of_tree_modules: tuple[str, ...] = ()
    """Modules that were built outside of the kernel's tree, and so taint it."""
