"""Modules: loading and unloading (kernel/module/).

`modules.py` has the table of the modules that exist.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from fakesysfs.kernel.core import Core
from fakesysfs.kernel.device import Driver
from fakesysfs.kernel.kstrtox import kstrtobool, kstrtoint
from fakesysfs.kernel.printk import ERR, WARNING
from fakesysfs.ops.errors import KernelError

TAINT_OOT_MODULE = 1 << 12
"""An out-of-tree module was loaded (include/linux/panic.h)."""


@dataclass(slots=True, eq=False)
class Module:
    """One loaded module. `parameters` have the values from the load."""

    name: str
    kernel: Core
    parameters: dict[str, str]
    serial: int = 0
    drivers: list[Driver] = field(default_factory=list)
    index: int = 0

    def is_set(self, name: str) -> bool:
        """The value of a parameter of type bool."""
        return kstrtobool(self.parameters[name].encode(), "param_set_bool")


@dataclass(slots=True, eq=False)
class BuiltInModule:
    """A part of the kernel with a driver."""

    name: str
    kernel: Core
    driver: Driver
    serial: int = 0
    index: int = 0


@dataclass(frozen=True, slots=True)
class ModuleKind:
    """What the module's file says: the modules that it needs, its parameters with defaults."""

    needs: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    """All are of type bool, except `hidden_integers`."""
    wants_memory_hotplug: bool = False
    """The module depends on MEMORY_HOTPLUG."""
    hidden_integers: frozenset[str] = frozenset()
    """Parameters of type int that sysfs does not show (module_param with permissions 0)."""
    core_size: int = 12288
    """Bytes, as lsmod shows them in the recorded guest."""
    import_ns: str = ""
    """The namespace whose symbols it uses (MODULE_IMPORT_NS), or empty."""
    out_of_tree: bool = False
    """The kernel's tree never has the module, so it taints the kernel."""

    def check_value(self, parameter: str, value: str) -> None:
        """Check a value for a parameter. Raises KernelError: EINVAL or ERANGE."""
        if parameter in self.hidden_integers:
            kstrtoint(value.encode(), 0, "param_set_int")
        else:
            kstrtobool(value.encode(), "param_set_bool")


@dataclass(frozen=True, slots=True)
class ModuleCode:
    """What a module does: the drivers that it registers, in this order, and its init and exit."""

    drivers: Callable[[Module], list[Driver]] = lambda _module: []
    init: Callable[[Module], Awaitable[None]] | None = None
    exit: Callable[[Module], Awaitable[None]] | None = None


class Modules:
    """The loaded modules of one kernel, in the order of loading."""

    def __init__(self, core: Core, kinds: Mapping[str, ModuleKind], code: Mapping[str, ModuleCode]) -> None:
        """`code` lacks the modules for hardware that the machine lacks."""
        self._core = core
        self.kinds = kinds
        self._code = code
        self.loaded: dict[str, Module] = {}
        self.built_in: dict[str, BuiltInModule] = {}
        """Parts of the kernel that have drivers, by the name under which /sys/module shows them."""

    async def add_built_in(self, name: str, driver: Driver) -> None:
        """Register a driver that is part of the kernel (kernel/params.c, lookup_or_create_module_kobject)."""
        module = self.built_in[name] = BuiltInModule(name, self._core, driver, self._core.new_serial())
        self._core.register(module)
        await driver.bus.register_driver(driver)

    async def load(self, name: str, parameters: Mapping[str, str | None] | None = None) -> None:
        """Load a module and the modules that it needs, as modprobe does.

        A loaded module stays as it is.

        A parameter without a value (None) is set if it is of type bool, and refused otherwise
        (param_set_bool, parse_one). An unknown parameter is logged and ignored
        (unknown_module_param_cb). Raises KernelError: ENOENT for an unknown module, EINVAL or
        ERANGE for a bad value.
        """
        name = name.replace("-", "_")
        kind = self.kinds.get(name)
        if kind is None or not self._is_built(name):
            known = ", ".join(sorted(filter(self._is_built, self.kinds)))
            raise KernelError(errno.ENOENT, f"unknown module {name!r} (choose from {known})", "load_module")
        if name in self.loaded:
            return
        for needed in kind.needs:
            await self.load(needed)
        core, code = self._core, self._code[name]
        if self.is_out_of_tree(name):
            self._taint(name)
        given = self._parse_args(name, kind, parameters or {})
        module = Module(name, core, {**kind.parameters, **given}, core.new_serial())
        self.loaded[name] = module
        core.register(module)
        core.changed("module", module)
        for driver in code.drivers(module):
            module.drivers.append(driver)
            await driver.bus.register_driver(driver)
        if code.init is not None:
            await code.init(module)
        core.uevents.send("add", f"/module/{name}", "module")
        await core.run_scheduled()

    def _parse_args(self, name: str, kind: ModuleKind, parameters: Mapping[str, str | None]) -> dict[str, str]:
        """The values of the known parameters (kernel/params.c, parse_args).

        Raises KernelError: EINVAL, ERANGE.
        """
        given: dict[str, str] = {}
        for key, word in parameters.items():
            value = word if word is not None else "" if key in kind.hidden_integers else "1"
            if key not in kind.parameters:
                self._core.printk(WARNING, f"{name}: unknown parameter '{key}' ignored")
                continue
            try:
                kind.check_value(key, value)
            except KernelError:
                # "too large" is for a text that its buffer does not hold (ENOSPC), not for ERANGE
                self._core.printk(ERR, f"{name}: `{value}' invalid for parameter `{key}'")
                raise
            given[key] = value
        return given

    def _is_built(self, name: str) -> bool:
        """Does the kernel's configuration include the module, and the machine what it is for?"""
        return name in self._code and (self._core.config.memory_hotplug or not self.kinds[name].wants_memory_hotplug)

    def is_out_of_tree(self, name: str) -> bool:
        """Was the module built outside of the kernel's tree, on every kernel or on this one?"""
        return self.kinds[name].out_of_tree or name in self._core.config.out_of_tree_modules

    def _taint(self, name: str) -> None:
        """Taint the kernel for an out-of-tree module; only the first is logged.

        module_augment_kernel_taints.
        """
        core = self._core
        if not core.tainted & TAINT_OOT_MODULE:
            core.printk(WARNING, f"{name}: loading out-of-tree module taints kernel.")
        core.tainted |= TAINT_OOT_MODULE

    def users(self, name: str) -> list[str]:
        """The loaded modules that need this one (/sys/module/NAME/holders)."""
        return [other for other in self.loaded if name in self.kinds[other].needs]

    async def unload(self, name: str) -> None:
        """Unload a module.

        Raises KernelError: ENOENT if it is not loaded, EBUSY while another one needs it.
        """
        name = name.replace("-", "_")
        module = self.loaded.get(name)
        if module is None:
            raise KernelError(errno.ENOENT, f"module {name!r} is not loaded", "delete_module")
        users = self.users(name)
        if users:
            raise KernelError(errno.EWOULDBLOCK, f"{name} is in use by {', '.join(users)}", "try_stop_module")
        core, code = self._core, self._code[name]
        if code.exit is not None:
            await code.exit(module)
        for driver in reversed(list(module.drivers)):
            await driver.bus.unregister_driver(driver)
        module.drivers.clear()
        await core.run_scheduled()
        del self.loaded[name]
        core.changed("module", module)
        core.uevents.send("remove", f"/module/{name}", "module")
        core.unregister(module)
