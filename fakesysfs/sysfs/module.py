"""/sys/module: loaded modules, and the parameters of memory_hotplug, which is built in.

kernel/module/sysfs.c, kernel/params.c.
"""

from __future__ import annotations

from collections.abc import Sequence

from fakesysfs.kernel.device import Driver
from fakesysfs.kernel.kernel import Kernel, kernel_of
from fakesysfs.kernel.kstrtox import kstrtobool
from fakesysfs.kernel.module import BuiltInModule, Module, ModuleKind
from fakesysfs.kernel.modules import MODULE_KINDS
from fakesysfs.kernfs.declare import RO, RW, Attribute, DirectoryKind, Entry, Group, Kobject, Links
from fakesysfs.sysfs.common import always_0, uevent


def _links_to(drivers: Sequence[Driver]) -> dict[str, tuple[Kobject, str]]:
    return {f"{driver.bus.name}:{driver.name}": (driver, f"/sys{driver.devpath}") for driver in drivers}


def _holders(module: Module) -> dict[str, tuple[Kobject, str]]:
    modules = kernel_of(module).modules
    return {name: (modules.loaded[name], f"/sys/module/{name}") for name in modules.users(module.name)}


def _shown(kind: ModuleKind) -> set[str]:
    """The parameters that have a file."""
    return set(kind.parameters) - kind.hidden_integers


_SECTIONS = (".text", "__mcount_loc", "__patchable_function_entries")
"""Some of a module's sections; `ls` hides names with a dot (7.2-distribution/01-boot, i=12)."""


def _section(_module: Module) -> str:
    return "0x0000000000000000"


def _yes_no(value: bool) -> str:  # noqa: FBT001  the value of a parameter
    return "Y" if value else "N"


def _boolean(name: str) -> Attribute[Module]:
    """A boolean parameter of a module (param_ops_bool)."""

    def store(module: Module, buffer: bytes) -> None:
        module.parameters[name] = _yes_no(kstrtobool(buffer, "param_set_bool"))

    return RW(
        name,
        lambda module: _yes_no(module.is_set(name)),
        store,
        "A parameter, Y or N.",
        visible=lambda module: name in module.parameters,
    )


def _kind(module: Module) -> ModuleKind:
    return kernel_of(module).modules.kinds[module.name]


MODULE = DirectoryKind[Module](
    "module",
    lambda module: f"/sys/module/{module.name}",
    (
        RO("coresize", lambda module: _kind(module).core_size, "Bytes of the module."),
        RO("initsize", always_0, "Bytes of its start-up code, given back already."),
        RO("initstate", lambda _: "live", "live: the module is loaded."),
        RO("refcnt", lambda module: len(kernel_of(module).modules.users(module.name)), "Users of the module."),
        RO(
            "taint",
            lambda module: "O" if kernel_of(module).modules.is_out_of_tree(module.name) else "",
            "How the module taints the kernel: O is out of tree.",
        ),
        RO(
            "import_ns",
            lambda module: _kind(module).import_ns,
            "The namespace whose symbols the module uses.",
            visible=lambda module: bool(_kind(module).import_ns),
        ),
        uevent(lambda module: f"/module/{module.name}", "module", write_only=True),
        Group(name="notes", entries=(), doc="ELF notes of the module: none here."),
        Group(
            name="sections",
            entries=tuple(RO(name, _section, mode=0o400) for name in _SECTIONS),
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
            visible=lambda module: bool(_shown(_kind(module))),
            doc="The module's parameters.",
        ),
        Group(
            name="drivers",
            entries=(
                Links(of=lambda module: _links_to(module.drivers), doc="Links to the module's drivers, as bus:driver."),
            ),
            visible=lambda module: bool(module.drivers),
            doc="The module's drivers.",
        ),
    ),
)


BUILT_IN_MODULE = DirectoryKind[BuiltInModule](
    "built-in module",
    lambda module: f"/sys/module/{module.name}",
    (
        uevent(lambda module: f"/module/{module.name}", "module", write_only=True),
        Group(
            name="drivers",
            entries=(
                Links(
                    of=lambda module: _links_to([module.driver]),
                    doc="Links to the drivers, as bus:driver.",
                ),
            ),
            doc="The drivers of this part of the kernel.",
        ),
    ),
)


def modules_shown(kernel: Kernel) -> dict[str, Kobject]:
    """The directories of /sys/module that come and go, and those of built-in drivers."""
    return {**kernel.modules.built_in, **kernel.modules.loaded}


def _numa_aware_store(kernel: Kernel, buffer: bytes) -> None:
    kernel.memory_hotplug.parameters.auto_movable_numa_aware = kstrtobool(buffer, "param_set_bool")


MEMORY_HOTPLUG_ENTRIES: tuple[Entry[Kernel], ...] = (
    uevent(lambda _kernel: "/module/memory_hotplug", "module", write_only=True),
    Group(
        name="parameters",
        doc="Parameters of memory hotplug.",
        entries=(
            RO(
                "memmap_on_memory",
                lambda kernel: _yes_no(kernel.memory_hotplug.parameters.memmap_on_memory),
                "Whether added memory can hold its own memory map (set at boot).",
            ),
            RW(
                "online_policy",
                lambda kernel: kernel.memory_hotplug.parameters.online_policy,
                lambda kernel, buffer: kernel.memory_hotplug.set_online_policy(buffer),
                "How `online` chooses a zone: contig-zones or auto-movable.",
            ),
            RW(
                "auto_movable_ratio",
                lambda kernel: kernel.memory_hotplug.parameters.auto_movable_ratio,
                lambda kernel, buffer: kernel.memory_hotplug.set_auto_movable_ratio(buffer),
                "Movable to kernel memory in percent, for auto-movable.",
            ),
            RW(
                "auto_movable_numa_aware",
                lambda kernel: _yes_no(kernel.memory_hotplug.parameters.auto_movable_numa_aware),
                _numa_aware_store,
                "Whether the ratio must hold on the node too.",
            ),
        ),
    ),
)
