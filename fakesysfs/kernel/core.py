"""The services that every part of the kernel model uses.

They are the registry of objects with their serials, the log, uevents, the settings of power/, the
locks, the profile and the configuration. This module knows no part of the model.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from typing import Any

from fakesysfs.kernel.config import Config
from fakesysfs.kernel.pm import PowerManagement
from fakesysfs.kernel.printk import WARNING, Printk
from fakesysfs.kernel.profile import Profile
from fakesysfs.kernel.uevent import Uevents
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import (
    Answer,
    LockObservers,
    Mutex,
    Operation,
    Preemption,
    Signals,
    Wait,
    WaitQueue,
    ask,
)
from fakesysfs.ops.trace import Tracer

FIRST_SERIAL = 2
"""The root directory has serial 1."""
LAST_SERIAL = (1 << 20) - 1

TAINT_WARN = 1 << 9
"""A WARN was hit (include/linux/panic.h)."""

IGNORED_ERRORS = 256
"""How many errors `Core.ignored` keeps."""


def _no_allocation(_nid: int | None) -> None:
    """Without memory there is none."""


class Core:
    """The services of one running kernel.

    `clock` returns the seconds since boot. `serial` is the last serial that an earlier kernel gave.
    """

    def __init__(self, profile: Profile, config: Config, clock: Callable[[], float], serial: int) -> None:
        self.profile = profile
        self.config = config
        self.booted = False
        self.gone = False
        """Another kernel took the place of this one."""
        self.tainted = 0
        self._reached: set[str] = set()
        self.objects: dict[int, Any] = {}
        self.generation = 0
        """Counts the changes of the set of objects and of the entries of their directories."""
        self._serial = serial
        self._observers: list[Callable[[str, Any, Any, Any], None]] = []
        self.printk = Printk(clock)
        self.uevents = Uevents()
        self.power = PowerManagement()
        self.preempt = Preemption()
        self.ignored: deque[KernelError] = deque(maxlen=IGNORED_ERRORS)
        """The last errors that the kernel did not report, to explain a success without effect."""
        self.lock_observers = LockObservers()
        self.device_hotplug_lock = Mutex("device_hotplug_lock", self.lock_observers)
        self.allocate_for_probe: Callable[[int | None], None] = _no_allocation
        """Called with the node of a device that a driver is about to probe."""
        self.tracer: Tracer | None = None
        """Who is told of changes of memory blocks; None: nobody traces."""
        self.background: Callable[[Operation[None]], None] | None = None
        """Runs an operation beside the others. None: the operation that schedules it runs it at its own end."""
        self._scheduled: deque[Operation[None]] = deque()
        self._working = 0
        self._idle = WaitQueue()

    # Identity and observers -----------------------------------------------------------------------

    def new_serial(self) -> int:
        """A serial that no living object has."""
        while True:
            self._serial += 1
            if self._serial > LAST_SERIAL:
                self._serial = FIRST_SERIAL
            if self._serial not in self.objects:
                return self._serial

    @property
    def last_serial(self) -> int:
        """The last serial given. The next kernel behind the same tree continues from it."""
        return self._serial

    def register(self, kobject: Any) -> None:
        """Add an object to the registry, under its serial."""
        self.objects[kobject.serial] = kobject
        self.generation += 1

    def unregister(self, kobject: Any) -> None:
        """Take an object out of the registry."""
        self.objects.pop(kobject.serial, None)
        self.power.forget(kobject.serial)
        self.generation += 1

    def observe(self, observer: Callable[[str, Any, Any, Any], None]) -> None:
        """Call `observer(what, object, first, last)` at each change of what exists."""
        self._observers.append(observer)

    def changed(self, what: str, kobj: Any, first: Any = 0, last: Any = -1) -> None:
        """Tell the observers that a thing of the kind `what` appeared or went away."""
        self.generation += 1
        for observer in self._observers:
            observer(what, kobj, first, last)

    # Work in the background -----------------------------------------------------------------------

    def schedule(self, operation: Operation[None]) -> None:
        """Have an operation run in the background (kernel/async.c, kernel/workqueue.c)."""
        self._working += 1
        if self.background is None:
            self._scheduled.append(operation)
        else:
            self.background(self._work(operation))

    async def run_scheduled(self) -> None:
        """Run what was scheduled and nothing else runs. Operations that may schedule something end with it."""
        while self._scheduled:
            await self._work(self._scheduled.popleft())

    async def flush_scheduled(self) -> None:
        """Wait until all that was scheduled is done (flush_workqueue)."""
        await self.run_scheduled()
        while self._working:
            await ask(Wait("flush_workqueue", self._idle))

    async def _work(self, operation: Operation[None]) -> None:
        try:
            await operation
        except KernelError as error:
            self.note_ignored(error)
        finally:
            self._working -= 1
            if not self._working:
                self._idle.wake_all()

    # Errors and warnings --------------------------------------------------------------------------

    def note_ignored(self, error: KernelError) -> None:
        """Keep an error that the kernel does not report."""
        self.ignored.append(error)

    def warn(self, text: str, place: str) -> None:
        """Log a warning with its place in the source, and taint the kernel (WARN)."""
        self.printk(WARNING, text)
        self.printk(WARNING, f"WARNING: {place}")
        self.tainted |= TAINT_WARN

    def warn_once(self, text: str, place: str) -> None:
        """Warn only the first time at this place (WARN_ONCE)."""
        if self.first_time(place):
            self.warn(text, place)

    def first_time(self, place: str) -> bool:
        """Is this place of the source reached for the first time since boot (pr_warn_once)?"""
        before = len(self._reached)
        self._reached.add(place)
        return len(self._reached) > before

    # Locks ----------------------------------------------------------------------------------------

    async def lock_device_hotplug_sysfs(self) -> None:
        """Take device_hotplug_lock as the attributes of blocks do.

        Linux tries the lock; if it is taken, Linux sleeps 5 ms and restarts the system call. A
        handled signal does not end this, SIGKILL does. Raises KernelError EINTR after SIGKILL.
        """
        while not self.device_hotplug_lock.trylock():
            answer = await ask(Wait("lock_device_hotplug_sysfs", self.device_hotplug_lock.released, Signals.FATAL))
            if answer is Answer.INTERRUPTED:
                raise KernelError(
                    errno.EINTR, "the caller was killed while it waited for device_hotplug_lock", "restart_syscall"
                )
