"""/sys/module: loaded modules, and the parameters of memory_hotplug, which is built in.

kernel/module/sysfs.c, kernel/params.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fakesysfs.kernel.kernel import kernel_of
from fakesysfs.kernel.kstrtox import kstrtobool
from fakesysfs.kernel.module import Module, ModuleKind
from fakesysfs.kernel.modules import MODULE_KINDS
from fakesysfs.kernfs.declare import Attribute, DirectoryKind, Entry, Group, Kobject, Links
from fakesysfs.sysfs.common import on, uevent


def _refcnt(module: Module) -> str:
    return f"{len(kernel_of(module).modules.users(module.name))}\n"


def _drivers(module: Module) -> dict[str, tuple[Kobject, str]]:
    return {f"{driver.bus.name}:{driver.name}": (driver, f"/sys{driver.devpath}") for driver in module.drivers}


def _holders(module: Module) -> dict[str, tuple[Kobject, str]]:
    modules = kernel_of(module).modules
    return {name: (modules.loaded[name], f"/sys/module/{name}") for name in modules.users(module.name)}


def _shown(kind: ModuleKind) -> set[str]:
    """The parameters of a module that have a file."""
    return set(kind.parameters) - kind.hidden_integers


_SECTIONS = (".text", "__mcount_loc", "__patchable_function_entries")
"""Some of a module's sections (recorded: 7.2-distribution/01-boot, i=12; `ls` does not show those with a dot)."""


def _boolean(name: str) -> Attribute:
    def show(module: Module) -> str:
        return "Y\n" if module.is_set(name) else "N\n"

    def store(module: Module, buffer: bytes) -> None:
        module.parameters[name] = "Y" if kstrtobool(buffer, "param_set_bool") else "N"

    return Attribute(
        name=name,
        mode=0o644,
        show=show,
        store=store,
        visible=lambda module: name in module.parameters,
        doc="A parameter, Y or N.",
    )


MODULE = DirectoryKind(
    "module",
    lambda module: f"/sys/module/{module.name}",
    (
        Attribute(
            name="coresize",
            mode=0o444,
            show=lambda module: f"{kernel_of(module).modules.kinds[module.name].core_size}\n",
            doc="Bytes of the module.",
        ),
        Attribute(name="initsize", mode=0o444, show=on("0"), doc="Bytes of its start-up code, given back already."),
        Attribute(name="initstate", mode=0o444, show=on("live"), doc="live: the module is loaded."),
        Attribute(name="refcnt", mode=0o444, show=_refcnt, doc="Users of the module."),
        Attribute(
            name="taint",
            mode=0o444,
            show=lambda module: "O\n" if kernel_of(module).modules.kinds[module.name].out_of_tree else "\n",
            doc="How the module taints the kernel: O is out of tree.",
        ),
        uevent(lambda module: f"/module/{module.name}", "module", write_only=True),
        Group(name="notes", entries=(), doc="ELF notes of the module: none here."),
        Group(
            name="sections",
            entries=tuple(Attribute(name=name, mode=0o400, show=on("0x0000000000000000")) for name in _SECTIONS),
            doc="Addresses of the module's sections, hidden.",
        ),
        Group(
            name="holders",
            entries=(Links(of=_holders, doc="Links to the modules that use this one."),),
            doc="The modules that use this one.",
        ),
        Group(
            name="parameters",
            entries=tuple(
                _boolean(name) for name in sorted({name for kind in MODULE_KINDS.values() for name in _shown(kind)})
            ),
            visible=lambda module: bool(_shown(kernel_of(module).modules.kinds[module.name])),
            doc="The module's parameters.",
        ),
        Group(
            name="drivers",
            entries=(Links(of=_drivers, doc="Links to the module's drivers, as bus:driver."),),
            visible=lambda module: bool(module.drivers),
            doc="The module's drivers.",
        ),
    ),
)


def _hotplug(
    name: str, mode: int, show: Callable[[Any], str], store: Callable[[Any, bytes], None] | None, doc: str
) -> Attribute:
    return Attribute(name=name, mode=mode, show=show, store=store, doc=doc)


def _numa_aware_store(kernel: Any, buffer: bytes) -> None:
    kernel.memory_hotplug.parameters.auto_movable_numa_aware = kstrtobool(buffer, "param_set_bool")


MEMORY_HOTPLUG_ENTRIES: tuple[Entry, ...] = (
    uevent(lambda _kernel: "/module/memory_hotplug", "module", write_only=True),
    Group(
        name="parameters",
        doc="Parameters of memory hotplug.",
        entries=(
            _hotplug(
                "memmap_on_memory",
                0o444,
                lambda kernel: "Y\n" if kernel.memory_hotplug.parameters.memmap_on_memory else "N\n",
                None,
                "Whether added memory can hold its own memory map (set at boot).",
            ),
            _hotplug(
                "online_policy",
                0o644,
                lambda kernel: f"{kernel.memory_hotplug.parameters.online_policy}\n",
                lambda kernel, buffer: kernel.memory_hotplug.set_online_policy(buffer),
                "How `online` chooses a zone: contig-zones or auto-movable.",
            ),
            _hotplug(
                "auto_movable_ratio",
                0o644,
                lambda kernel: f"{kernel.memory_hotplug.parameters.auto_movable_ratio}\n",
                lambda kernel, buffer: kernel.memory_hotplug.set_auto_movable_ratio(buffer),
                "Movable to kernel memory in percent, for auto-movable.",
            ),
            _hotplug(
                "auto_movable_numa_aware",
                0o644,
                lambda kernel: "Y\n" if kernel.memory_hotplug.parameters.auto_movable_numa_aware else "N\n",
                _numa_aware_store,
                "Whether the ratio must hold on the node too.",
            ),
        ),
    ),
)
