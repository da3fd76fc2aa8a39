"""Errors injected into the memory notifier chain (lib/notifier-error-inject.c, lib/memory-notifier-error-inject.c).

Module notifier_error_inject owns the place where injectors show themselves in debugfs; memory_notifier_error_inject
puts one of them, "memory", into the chain that memory_hotplug calls before blocks go online or offline. While an action
has an error, every block that is about to do that is refused with it, and a line in the log says so.

Differs knowingly: the module parameter `priority` is read as the kernel reads it and has no effect, because this
notifier is the only one of the modelled chain; open files do not keep notifier_error_inject from being unloaded.
Recordings 7.2/16-notifier-error-inject and 7.3/18-notifier-error-inject.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fakesysfs.kernel.memory_hotplug import MEM_GOING_OFFLINE, MEM_GOING_ONLINE
from fakesysfs.kernel.printk import INFO
from fakesysfs.ops.errors import KernelError

if TYPE_CHECKING:
    from fakesysfs.kernel.kernel import Kernel
    from fakesysfs.kernel.module import Module

MAX_ERRNO = 4095
"""The largest number that is an errno inside the kernel (include/linux/err.h); not all of them have a name."""

_INT_SIGN = 1 << 31


@dataclass(slots=True, eq=False)
class NotifierErrInjectAction:
    """struct notifier_err_inject_action: what one event of the chain is refused with, a negative errno or 0."""

    inject: NotifierErrInject
    name: str
    serial: int
    error: int = 0
    index: int = 0

    def debugfs_errno_set(self, value: int) -> None:
        """Take the low 32 bits of `value` as an int, and the nearest number from -4095 to 0."""
        number = (value + _INT_SIGN) % (2 * _INT_SIGN) - _INT_SIGN
        self.error = max(-MAX_ERRNO, min(number, 0))


@dataclass(slots=True, eq=False)
class NotifierErrInject:
    """struct notifier_err_inject: one chain's injector, with its actions by name."""

    kernel: Kernel
    name: str
    serial: int
    actions: dict[str, NotifierErrInjectAction] = field(default_factory=dict)
    index: int = 0

    def callback(self, action: str, block: int) -> None:
        """The notifier (notifier_err_inject_callback). Raises KernelError with the action's error, if it has one."""
        error = self.actions[action].error
        if error:
            self.kernel.printk(INFO, f"Injecting error ({error}) to {action}")
            why = f"notifier-error-inject refuses {action} of memory{block}"
            raise KernelError(-error, why, "notifier_err_inject_callback", block)


@dataclass(slots=True, eq=False)
class NotifierErrInjectDir:
    """notifier_err_inject_dir: the injectors by name, there as long as notifier_error_inject is loaded."""

    kernel: Kernel
    serial: int
    injectors: dict[str, NotifierErrInject] = field(default_factory=dict)
    index: int = 0

    def add(self, name: str, actions: Iterable[str]) -> NotifierErrInject:
        """Show an injector in debugfs (notifier_err_inject_init)."""
        kernel = self.kernel
        inject = NotifierErrInject(kernel, name, kernel.new_serial())
        kernel.register(inject)
        for action in actions:
            inject.actions[action] = NotifierErrInjectAction(inject, action, kernel.new_serial())
            kernel.register(inject.actions[action])
        self.injectors[name] = inject
        kernel.changed("debugfs", self, name)
        return inject

    def remove(self, name: str) -> NotifierErrInject:
        """Take an injector and all below it out of debugfs (debugfs_remove_recursive); returns it."""
        kernel = self.kernel
        inject = self.injectors.pop(name)
        kernel.changed("debugfs", self, name)
        for action in inject.actions.values():
            kernel.unregister(action)
        kernel.unregister(inject)
        return inject


async def err_inject_init(module: Module) -> None:
    """Loading notifier_error_inject."""
    kernel = module.kernel
    kernel.notifier_err_inject_dir = directory = NotifierErrInjectDir(kernel, kernel.new_serial())
    kernel.register(directory)
    kernel.changed("debugfs", None, "notifier-error-inject")


async def err_inject_exit(module: Module) -> None:
    """Unloading notifier_error_inject."""
    kernel = module.kernel
    directory, kernel.notifier_err_inject_dir = kernel.notifier_err_inject_dir, None
    kernel.changed("debugfs", None, "notifier-error-inject")
    kernel.unregister(directory)


async def memory_err_inject_init(module: Module) -> None:
    """Loading memory_notifier_error_inject: both actions start without an error (err_inject_init)."""
    kernel = module.kernel
    inject = _directory(kernel).add("memory", (MEM_GOING_ONLINE, MEM_GOING_OFFLINE))
    kernel.memory_hotplug.register_memory_notifier(inject.callback)


async def memory_err_inject_exit(module: Module) -> None:
    """Unloading memory_notifier_error_inject (err_inject_exit)."""
    kernel = module.kernel
    inject = _directory(kernel).remove("memory")
    kernel.memory_hotplug.unregister_memory_notifier(inject.callback)


def _directory(kernel: Kernel) -> NotifierErrInjectDir:
    """What the module that these functions need has made. Raises KernelError ENODEV before that."""
    if kernel.notifier_err_inject_dir is None:
        raise KernelError(errno.ENODEV, "notifier_error_inject is not loaded", "notifier_err_inject_init")
    return kernel.notifier_err_inject_dir
