"""Modules: loading, unloading and their directories (kernel/module/).

Only modules of the modelled code exist. What is built in shows parameters and nothing else.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fakesysfs.kernel.kstrtox import kstrtobool, kstrtoint
from fakesysfs.kernel.printk import ERR, WARNING
from fakesysfs.ops.errors import KernelError

if TYPE_CHECKING:
    from fakesysfs.kernel.device import Driver
    from fakesysfs.kernel.kernel import Kernel

TAINT_OOT_MODULE = 1 << 12
"""An out-of-tree module was loaded (include/linux/panic.h)."""


@dataclass(slots=True, eq=False)
class Module:
    """One loaded module. `parameters` are as set at load."""

    name: str
    kernel: Kernel
    parameters: dict[str, str]
    serial: int = 0
    drivers: list[Driver] = field(default_factory=list)
    index: int = 0

    def is_set(self, name: str) -> bool:
        """The value of a parameter of type bool."""
        return kstrtobool(self.parameters[name].encode(), "param_set_bool")


@dataclass(frozen=True, slots=True)
class ModuleKind:
    """A module that can be loaded.

    Its drivers in the order of registration, what it needs, its parameters with defaults.
    """

    drivers: Callable[[Module], list[Driver]]
    needs: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Of type bool, but for `hidden_integers`."""
    wants_memory_hotplug: bool = False
    """The module depends on MEMORY_HOTPLUG."""
    hidden_integers: frozenset[str] = frozenset()
    """The parameters of type int that sysfs does not show (module_param with permissions 0)."""
    core_size: int = 12288
    """Bytes, as the recorded guest's lsmod has them."""
    out_of_tree: bool = False
    """The recorded module was built outside the kernel's tree, which taints the kernel."""
    init: Callable[[Module], Awaitable[None]] | None = None
    exit: Callable[[Module], Awaitable[None]] | None = None

    def check_value(self, parameter: str, value: str) -> None:
        """Raise KernelError EINVAL or ERANGE if a parameter cannot have this value."""
        if parameter in self.hidden_integers:
            kstrtoint(value.encode(), 0, "param_set_int")
        else:
            kstrtobool(value.encode(), "param_set_bool")


class Modules:
    """The loaded modules of one kernel, in the order of loading."""

    def __init__(self, kernel: Kernel, kinds: Mapping[str, ModuleKind]) -> None:
        self._kernel = kernel
        self.kinds = kinds
        self.loaded: dict[str, Module] = {}

    async def load(self, name: str, parameters: Mapping[str, str | None] | None = None) -> None:
        """Load a module and what it needs; nothing happens if it is loaded (as modprobe does).

        A parameter without a value (None) is set, if it is of type bool, else refused (param_set_bool, parse_one).
        A parameter that it does not have is logged and ignored (unknown_module_param_cb). Raises KernelError: ENOENT
        for an unknown module, EINVAL for a bad value.
        """
        name = name.replace("-", "_")
        kind = self.kinds.get(name)
        if kind is None or not self._is_built(kind):
            known = ", ".join(sorted(name for name, other in self.kinds.items() if self._is_built(other)))
            raise KernelError(errno.ENOENT, f"there is no module {name!r} (there are {known})", "load_module")
        if name in self.loaded:
            return
        for needed in kind.needs:
            await self.load(needed)
        kernel = self._kernel
        if kind.out_of_tree:
            self._taint(name)
        given = self._parse_args(name, kind, parameters or {})
        module = Module(name, kernel, {**kind.parameters, **given}, kernel.new_serial())
        self.loaded[name] = module
        kernel.register(module)
        kernel.changed("module", module)
        for driver in kind.drivers(module):
            module.drivers.append(driver)
            await driver.bus.register_driver(driver)
        if kind.init is not None:
            await kind.init(module)
        kernel.uevents.send("add", f"/module/{name}", "module")

    def _parse_args(self, name: str, kind: ModuleKind, parameters: Mapping[str, str | None]) -> dict[str, str]:
        """The parameters that the module has (kernel/params.c, parse_args). Raises KernelError for a bad value."""
        given: dict[str, str] = {}
        for key, word in parameters.items():
            value = word if word is not None else "" if key in kind.hidden_integers else "1"
            if key not in kind.parameters:
                self._kernel.printk(WARNING, f"{name}: unknown parameter '{key}' ignored")
                continue
            try:
                kind.check_value(key, value)
            except KernelError as error:
                problem = "too large" if error.errno == errno.ERANGE else "invalid"
                self._kernel.printk(ERR, f"{name}: `{value}' {problem} for parameter `{key}'")
                raise
            given[key] = value
        return given

    def _is_built(self, kind: ModuleKind) -> bool:
        """Does the kernel's configuration have the module?"""
        return self._kernel.config.memory_hotplug or not kind.wants_memory_hotplug

    def _taint(self, name: str) -> None:
        """An out-of-tree module comes: only the first one is worth a message (module_augment_kernel_taints)."""
        kernel = self._kernel
        if not kernel.tainted & TAINT_OOT_MODULE:
            kernel.printk(WARNING, f"{name}: loading out-of-tree module taints kernel.")
        kernel.tainted |= TAINT_OOT_MODULE

    def users(self, name: str) -> list[str]:
        """The loaded modules that need this one (/sys/module/NAME/holders)."""
        return [other for other in self.loaded if name in self.kinds[other].needs]

    async def unload(self, name: str) -> None:
        """Unload a module. Raises KernelError: ENOENT if it is not loaded, EBUSY while another one needs it."""
        name = name.replace("-", "_")
        module = self.loaded.get(name)
        if module is None:
            raise KernelError(errno.ENOENT, f"module {name!r} is not loaded", "delete_module")
        users = self.users(name)
        if users:
            raise KernelError(errno.EWOULDBLOCK, f"{name} is in use by {', '.join(users)}", "try_stop_module")
        kernel = self._kernel
        kind = self.kinds[name]
        if kind.exit is not None:
            await kind.exit(module)
        for driver in reversed(list(module.drivers)):
            await driver.bus.unregister_driver(driver)
        module.drivers.clear()
        del self.loaded[name]
        kernel.changed("module", module)
        kernel.uevents.send("remove", f"/module/{name}", "module")
        kernel.unregister(module)
