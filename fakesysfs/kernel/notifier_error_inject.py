"""Errors injected into the memory notifier chain.

lib/notifier-error-inject.c, lib/memory-notifier-error-inject.c.

Module notifier_error_inject makes the directory of the injectors in debugfs. Module
memory_notifier_error_inject adds the injector "memory" to the notifier chain of memory hotplug.
While an action has an error, each block that is about to go online or offline is refused with it,
and the log has a line about it.

Differs knowingly: the module parameter `priority` is parsed but has no effect, because the modelled
chain has no other notifier. Open files do not stop the unloading of notifier_error_inject.
Recordings: 7.2/16-notifier-error-inject and 7.3/18-notifier-error-inject.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass, field

from fakesysfs.kernel.core import Core
from fakesysfs.kernel.memory_hotplug import MEM_GOING_OFFLINE, MEM_GOING_ONLINE, MemoryHotplug
from fakesysfs.kernel.module import Module
from fakesysfs.kernel.printk import INFO
from fakesysfs.ops.errors import KernelError

MAX_ERRNO = 4095
"""The largest errno inside the kernel (include/linux/err.h). Not every errno has a name."""

_INT_SIGN = 1 << 31


@dataclass(slots=True, eq=False)
class NotifierErrInjectAction:
    """struct notifier_err_inject_action: the error for one event, a negative errno or 0."""

    inject: NotifierErrInject
    name: str
    serial: int
    error: int = 0
    index: int = 0

    def debugfs_errno_set(self, value: int) -> None:
        """Set the error to the low 32 bits of `value` as an int, clamped to -4095..0."""
        number = (value + _INT_SIGN) % (2 * _INT_SIGN) - _INT_SIGN
        self.error = max(-MAX_ERRNO, min(number, 0))


@dataclass(slots=True, eq=False)
class NotifierErrInject:
    """struct notifier_err_inject: the injector of one chain, with its actions by name."""

    kernel: Core
    name: str
    serial: int
    actions: dict[str, NotifierErrInjectAction] = field(default_factory=dict)
    index: int = 0

    def callback(self, action: str, block: int) -> None:
        """The notifier (notifier_err_inject_callback).

        Raises KernelError if the action has an error.
        """
        error = self.actions[action].error
        if error:
            self.kernel.printk(INFO, f"Injecting error ({error}) to {action}")
            why = f"notifier-error-inject refuses {action} of memory{block}"
            raise KernelError(-error, why, "notifier_err_inject_callback", block)


@dataclass(slots=True, eq=False)
class NotifierErrInjectDir:
    """notifier_err_inject_dir: the injectors by name.

    It exists while notifier_error_inject is loaded.
    """

    kernel: Core
    serial: int
    injectors: dict[str, NotifierErrInject] = field(default_factory=dict)
    index: int = 0

    def add(self, name: str, actions: Iterable[str]) -> NotifierErrInject:
        """Show an injector in debugfs (notifier_err_inject_init)."""
        core = self.kernel
        inject = NotifierErrInject(core, name, core.new_serial())
        core.register(inject)
        for action in actions:
            inject.actions[action] = NotifierErrInjectAction(inject, action, core.new_serial())
            core.register(inject.actions[action])
        self.injectors[name] = inject
        core.changed("debugfs", self, name)
        return inject

    def remove(self, name: str) -> NotifierErrInject:
        """Remove an injector from debugfs (debugfs_remove_recursive); returns it."""
        core = self.kernel
        inject = self.injectors.pop(name)
        core.changed("debugfs", self, name)
        for action in inject.actions.values():
            core.unregister(action)
        core.unregister(inject)
        return inject


class NotifierErrorInject:
    """The init and exit functions of both modules."""

    def __init__(self, core: Core, memory_hotplug: MemoryHotplug) -> None:
        self._core = core
        self._memory_hotplug = memory_hotplug
        self.directory: NotifierErrInjectDir | None = None

    async def init(self, _module: Module) -> None:
        """Load notifier_error_inject (err_inject_init)."""
        core = self._core
        self.directory = NotifierErrInjectDir(core, core.new_serial())
        core.register(self.directory)
        core.changed("debugfs", None, "notifier-error-inject")

    async def exit(self, _module: Module) -> None:
        """Unload notifier_error_inject (err_inject_exit)."""
        directory, self.directory = self.directory, None
        self._core.changed("debugfs", None, "notifier-error-inject")
        self._core.unregister(directory)

    async def memory_init(self, _module: Module) -> None:
        """Load memory_notifier_error_inject (err_inject_init).

        Both actions start without an error.
        """
        inject = self._loaded().add("memory", (MEM_GOING_ONLINE, MEM_GOING_OFFLINE))
        self._memory_hotplug.register_memory_notifier(inject.callback)

    async def memory_exit(self, _module: Module) -> None:
        """Unload memory_notifier_error_inject (err_inject_exit)."""
        inject = self._loaded().remove("memory")
        self._memory_hotplug.unregister_memory_notifier(inject.callback)

    def _loaded(self) -> NotifierErrInjectDir:
        """The directory of the injectors.

        Raises KernelError ENODEV before notifier_error_inject is loaded.
        """
        if self.directory is None:
            raise KernelError(errno.ENODEV, "notifier_error_inject is not loaded", "notifier_err_inject_init")
        return self.directory
