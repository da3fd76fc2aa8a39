"""Listens to one machine and hands out events.

The model and the files call a `Tracer` (ops/trace.py): `Recorder` is one. It also watches the
log, the uevents and the changes of devices. After a reset it listens to the next kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Protocol

from fakesysfs import __version__
from fakesysfs.kernel.dax.bus import DevDax
from fakesysfs.kernel.dax.kmem import memory_block_align_range
from fakesysfs.kernel.interval_map import IntervalMap
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.memory_block import BlockStatus
from fakesysfs.kernel.uevent import UeventRange
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import Preempt, Sleep, Waiting, WaitQueue
from fakesysfs.ops.trace import Process
from fakesysfs.sysroot import Sysroot
from fakesysfs.trace import events
from fakesysfs.trace.events import Event

DATA_KEPT = 1024
"""Bytes of a read or write in its event, as many as control/writes keeps."""

_DIGITS = 6
_MICROSECONDS = 10**6
_LOCK = re.compile(r"mutex_lock\((.*)\)")
_DEVICE_HOTPLUG = "lock_device_hotplug_sysfs"

_Shown = tuple[str, str | None, tuple[int, ...]]
"""What is shown of a block: state, zone, nodes."""


class _Call:
    """A system call under way."""

    __slots__ = ("event", "locks", "said", "wait")

    def __init__(self, event: events.Op) -> None:
        self.event = event
        self.said = False
        """Its event was handed out when it began to wait."""
        self.wait: events.Wait | None = None
        self.locks: dict[str, _Held] = {}


class _Held:
    """A lock that a call holds: since when, and its event once the call has waited with it."""

    __slots__ = ("event", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.event: events.Lock | None = None


class Sink(Protocol):
    """Takes events."""

    def __call__(self, event: Event) -> None:
        """Take one. It may change afterwards, if it has no duration yet."""

    def hold(self, event: Event) -> None:
        """Take a call that changed nothing, did not wait and was not refused: it may be written later."""

    def flush(self) -> None:
        """Write what was held back."""


class Recorder:
    """Listens to `sysroot` and gives each event to each of `sinks`, from the first boot on.

    `machine` is the machine's name in the trace.
    """

    def __init__(self, sysroot: Sysroot, sinks: Iterable[Sink], machine: str) -> None:
        self._sysroot = sysroot
        self._sinks = tuple(sinks)
        self.held_back = WaitQueue()
        self._now_ns = sysroot.now_ns
        self._booted_ns = self._now_ns() - round(sysroot.kernel.printk.clock() * 10**9)
        self._last = 0
        self._booted = False
        self._calls = self._waits = self._locks = 0
        self._running: _Call | None = None
        """The call that runs in the kernel now."""
        self._kernel = sysroot.kernel
        kernel = self._kernel
        self._emit(events.Trace(events.VERSION, machine, kernel.profile.name, kernel.setup.block_size, __version__))
        sysroot.tree.tracer = self
        sysroot.on_reset = self._take_kernel
        self._take_kernel()

    def detach(self) -> None:
        """Hand out no more events."""
        self._settle()
        self.flush()
        self._sysroot.tree.tracer = None
        self._sysroot.on_reset = None
        self._leave_kernel()
        self._sinks = ()

    def _emit(self, event: Event) -> None:
        for sink in self._sinks:
            sink(event)

    def now(self) -> int:
        """See Tracer. The host's clock may be set back; a trace does not go back."""
        now = (self._now_ns() - self._booted_ns) // 1000
        if now < self._last:
            return self._last
        self._last = now
        return now

    def _seconds(self) -> float:
        return self.now() / _MICROSECONDS

    @property
    def _cause(self) -> int | None:
        return None if self._running is None else self._running.event.seq

    # A kernel -------------------------------------------------------------------------------------------------------

    def _take_kernel(self) -> None:
        """Listen to the kernel that has just booted, and say what there is."""
        self._leave_kernel()
        kernel = self._kernel = self._sysroot.kernel
        self._booted_at = round(self._seconds() - kernel.printk.clock(), _DIGITS) if self._booted else 0.0
        self._booted = True
        self._blocks: IntervalMap[_Shown] = IntervalMap()
        self._nodes: set[int] = set()
        self._dax: dict[str, events.Dax] = {}
        self._memory: tuple[int, dict[str, int]] = (0, {})
        self._logged, self._sent = 0, 1
        self._devices_changed = self._sizes_changed = True
        self._emit(events.Boot(self._seconds()))
        self._hear_log(kernel)
        self._hear_uevents(kernel)
        for first, last, status in kernel.memory_blocks.runs:
            self.blocks(first, last, status)
        kernel.tracer = self
        kernel.lock_observers.observer = self._lock
        kernel.observe(self._changed)
        self._settle()

    def _leave_kernel(self) -> None:
        """Calls that wait in a kernel go on in it after a reset. What they change is no longer there."""
        self._kernel.tracer = None
        self._kernel.lock_observers.observer = None

    def _hear_log(self, kernel: Kernel) -> None:
        """Hand out the messages since the last time, and be called at the next one."""
        if kernel is not self._kernel or not self._sinks:
            return
        for record in kernel.printk.since(self._logged):
            seconds = round(self._booted_at + record.seconds, _DIGITS)
            self._emit(events.Log(seconds, self._cause, record.sequence, record.level, record.text))
        self._logged = kernel.printk.sequence
        kernel.printk.arrived.add(lambda: self._hear_log(kernel))

    def _hear_uevents(self, kernel: Kernel) -> None:
        if kernel is not self._kernel or not self._sinks:
            return
        for record in kernel.uevents.records(self._sent):
            self._emit(self._uevent(record, max(self._sent - record.sequence, 0)))
        self._sent = kernel.uevents.sequence
        kernel.uevents.arrived.add(lambda: self._hear_uevents(kernel))

    def _uevent(self, record: UeventRange, skip: int) -> events.Uevent:
        """A record without its first `skip` events, which were handed out before it grew."""
        number = "" if record.first < 0 else record.first + skip
        return events.Uevent(
            self._seconds(),
            self._cause,
            record.sequence + skip,
            record.events - skip,
            record.action,
            f"{record.devpath}{number}",
            record.subsystem,
            dict(pair.split("=", 1) for pair in record.environment),
        )

    def _changed(self, what: str, kobj: Any, first: Any, last: Any) -> None:
        self._devices_changed = True

    # State ----------------------------------------------------------------------------------------------------------

    def blocks(self, first: int, last: int, status: BlockStatus | None) -> None:
        """See Tracer. Blocks that look as they did are left out."""
        self._sizes_changed = True
        if status is None:
            if any(True for _ in self._blocks.between(first, last)):
                self._blocks.clear(first, last)
                self._emit(
                    events.Blocks(self._seconds(), self._cause, first, last, None, None, list(status_nodes(status)))
                )
            return
        zone = None if status.zone is None else status.zone.name
        shown = (status.state.value, zone, status_nodes(status))
        run = self._blocks.run(first)
        if run is None or run[1] < last or run[2] != shown:
            self._blocks.set(first, last, shown)
            self._emit(events.Blocks(self._seconds(), self._cause, first, last, shown[0], zone, list(shown[2])))

    def _settle(self) -> None:
        """Say how nodes, devices and sizes have changed since the last time."""
        if self._devices_changed:
            self._devices_changed = False
            self._settle_nodes()
            self._settle_dax()
        if self._sizes_changed:
            self._sizes_changed = False
            self._settle_sizes()

    def _settle_nodes(self) -> None:
        online = set(self._kernel.nodes.online())
        for nid in sorted(online ^ self._nodes):
            self._emit(events.Node(self._seconds(), self._cause, nid, nid in online))
        self._nodes = online

    def _settle_dax(self) -> None:
        now = self._seconds()
        found = {
            name: self._dax_event(device, now)
            for name, device in self._kernel.dax_bus.devices.items()
            if isinstance(device, DevDax)
        }
        for name, event in found.items():
            known = self._dax.get(name)
            if known is None or (known.driver, known.blocks) != (event.driver, event.blocks):
                self._emit(event)
        for name, known in self._dax.items():
            if name not in found:
                self._emit(events.Dax(now, self._cause, name, False, None, known.node, []))  # noqa: FBT003  a field
        self._dax = found

    def _dax_event(self, device: DevDax, now: float) -> events.Dax:
        size = self._kernel.setup.block_size
        spans = sorted(memory_block_align_range(mapping.range, size) for mapping in device.mappings)
        whole = [(span.start // size, span.end // size) for span in spans if span.start < span.end]
        driver = None if device.driver is None else device.driver.name
        return events.Dax(now, self._cause, device.name, True, driver, device.target_node, whole)  # noqa: FBT003

    def _settle_sizes(self) -> None:
        nodes = self._kernel.nodes
        zones = {
            f"node{nid} {zone.name}": zone.managed_kb
            for nid in nodes.possible
            for zone in nodes[nid].zones
            if zone.managed_kb
        }
        sizes = sum(zones.values()), zones
        if sizes != self._memory:
            self._memory = sizes
            self._emit(events.Memory(self._seconds(), self._cause, *sizes))

    # System calls -----------------------------------------------------------------------------------------------------

    def did(
        self, process: Process, op: str, path: str, began: int, outcome: int | KernelError, data: bytes = b""
    ) -> None:
        """See Tracer. Nearly all calls of a busy machine are told here: it is written for speed."""
        if self._devices_changed or self._sizes_changed:
            self._settle()
        self._calls += 1
        pid, tgid, comm, program, uid = process
        time, took = began / _MICROSECONDS, (self.now() - began) / _MICROSECONDS
        said = data[:DATA_KEPT].decode("utf-8", "surrogateescape") if data else ""
        if isinstance(outcome, int):
            event = events.Op(
                self._calls, time, took, pid, tgid, comm, program, uid, op, path, said, outcome, None, None, None
            )
            for sink in self._sinks:
                sink.hold(event)
            return
        refusal = outcome.name, outcome.why, outcome.where
        self._emit(events.Op(self._calls, time, took, pid, tgid, comm, program, uid, op, path, said, None, *refusal))

    def flush(self) -> None:
        """See Tracer."""
        for sink in self._sinks:
            sink.flush()

    def begin(self, process: Process, op: str, path: str, data: bytes = b"") -> _Call:
        """See Tracer."""
        if self._devices_changed or self._sizes_changed:
            self._settle()
        self._calls += 1
        pid, tgid, comm, program, uid = process
        return _Call(
            events.Op(
                self._calls, self._seconds(), None, pid, tgid, comm, program, uid, op, path, _text(data),
                None, None, None, None,
            )
        )  # fmt: skip

    def end(self, call: _Call, outcome: int | KernelError, data: bytes = b"") -> None:
        """See Tracer."""
        event = call.event
        if self._devices_changed or self._sizes_changed:
            self._settle()
        if self._running is call:
            self._running = None
        for held in call.locks.values():  # of a kernel that was reset
            self._released(held)
        if data:
            event.data = _text(data)
        if isinstance(outcome, KernelError):
            event.errno, event.reason, event.func = outcome.name, outcome.why, outcome.where
        else:
            event.result = outcome
        event.duration = round(self._seconds() - event.time, _DIGITS)
        self._emit(event)

    def waits(self, call: _Call, request: Waiting) -> None:
        """See Tracer."""
        self._settle()
        self._running = None
        now = self._seconds()
        if not call.said:
            call.said = True
            self._emit(call.event)
        for name, held in call.locks.items():
            if held.event is None:
                self._locks += 1
                held.event = events.Lock(self._locks, held.since, None, call.event.seq, name)
                self._emit(held.event)
        self._waits += 1
        kind, lock = _kind_of(request)
        call.wait = events.Wait(self._waits, now, None, call.event.seq, kind, request.point, lock)
        self._emit(call.wait)

    def goes_on(self, call: _Call) -> None:
        """See Tracer."""
        wait, call.wait = call.wait, None
        if wait is not None:
            wait.duration = round(self._seconds() - wait.time, _DIGITS)
            self._emit(wait)
        self._running = call

    def _lock(self, name: str, held: bool) -> None:  # noqa: FBT001  a callback
        call = self._running
        if call is None:
            return
        if held:
            call.locks[name] = _Held(self._seconds())
            return
        released = call.locks.pop(name, None)
        if released is not None:
            self._released(released)

    def _released(self, held: _Held) -> None:
        if held.event is not None:
            held.event.duration = round(self._seconds() - held.since, _DIGITS)
            self._emit(held.event)


def status_nodes(status: BlockStatus | None) -> tuple[int, ...]:
    """The nodes of blocks, nothing for removed ones."""
    return () if status is None else status.group.nids


def _kind_of(request: Waiting) -> tuple[str, str | None]:
    """What a wait is, and the lock that it is for."""
    if isinstance(request, Sleep):
        return "sleep", None
    if isinstance(request, Preempt):
        return "preempt", None
    if request.point == _DEVICE_HOTPLUG:
        return "lock", "device_hotplug_lock"
    mutex = _LOCK.fullmatch(request.point)
    return ("lock", mutex[1]) if mutex else ("event", None)


def _text(data: bytes) -> str:
    return data[:DATA_KEPT].decode("utf-8", "surrogateescape")
