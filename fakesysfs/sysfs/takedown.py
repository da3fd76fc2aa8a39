"""Takes the memory of all dax devices away, as an administrator would: which of it cannot be taken away?

A device whose memory nobody can take away any more is wedged until the next reboot. An explorer looks for that when
its programs have ended (fakesysfs/explore). What is done here are writes to the attributes, so that the kernel's own
checks decide:

- `unplug` (`unplugged`) to the whole-device attribute, where the kernel has it,
- then `offline` to the state of each block, and the device's name to the driver's `unbind`.

Many orders of a search end in the same state of the memory. `Takedown` remembers for each state what was left.

Nobody else runs meanwhile. Latencies pass at once. A wait that nobody ends, such as that for a pinned page, ends as by
a signal.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator

from fakesysfs.kernel.dax.bus import DevDax
from fakesysfs.kernel.dax.kmem import DaxKmemData
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.memory_block import BlockStatus, State
from fakesysfs.kernel.profile import DAX_KMEM_UNPLUGGED
from fakesysfs.kernfs import Caller, Tree, open_file
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import Answer, Operation, Preempt, Signals, Sleep, Waiting, advance
from fakesysfs.sysfs.state import DAX, MEMORY

_ADMINISTRATOR = Caller(os.getpid(), "explore")
_NO_DRIVER = "no driver has it"
_REMEMBERED = 10_000
"""States of which a search remembers what was left."""


def take_down(tree: Tree, kernel: Kernel) -> dict[int, str]:
    """Take away all memory that was hot-added.

    Returns the numbers of the memory blocks that are left, with the reason of the last refusal.
    """
    kernel.preempt.watched = False
    refusals: dict[int, str] = {}
    for device in [device for device in kernel.dax_bus.devices.values() if isinstance(device, DevDax)]:
        blocks = list(_blocks_of(device, kernel.memory_blocks.block_size))
        for why in _refusals(tree, kernel, device, blocks):
            refusals.update(dict.fromkeys(blocks, why))
    return {block: refusals.get(block, _NO_DRIVER) for block in _hot_added(kernel)}


class Takedown:
    """`take_down` for one machine under one kernel, which boots again and again."""

    def __init__(self) -> None:
        self._left: dict[Hashable, dict[int, str]] = {}

    def left(self, tree: Tree, kernel: Kernel) -> dict[int, str]:
        """What would be left if all memory was taken away. The machine may be unusable after that."""
        state = _state(kernel)
        left = self._left.get(state)
        if left is None:
            left = take_down(tree, kernel)
            if state is not None and len(self._left) < _REMEMBERED:
                self._left[state] = left
        return left


def _state(kernel: Kernel) -> Hashable:
    """All that decides which memory can be taken away; None where that cannot be told."""
    if kernel.notifier_err_inject_dir is not None:
        return None  # user space decides which blocks are refused
    blocks = kernel.memory_blocks
    return (
        tuple((first, last, *_of_block(status)) for first, last, status in blocks.runs),
        frozenset(blocks.unmovable),
        frozenset(blocks.pinned),
        tuple(_of_device(device) for device in kernel.dax_bus.devices.values() if isinstance(device, DevDax)),
    )


def _of_block(status: BlockStatus) -> tuple[Hashable, ...]:
    zone, group = status.zone, status.group
    where = None if zone is None else (zone.nid, zone.name)
    return status.state, where, group.early, group.holes, group.altmap_kb


def _of_device(device: DevDax) -> tuple[Hashable, ...]:
    driver = None if device.driver is None else device.driver.name
    data = device.driver_data
    if not isinstance(data, DaxKmemData):
        return device.name, driver
    return device.name, driver, data.state, tuple(data.usable()), frozenset(data.resources), data.attribute_exists


def _blocks_of(device: DevDax, block_size: int) -> Iterator[int]:
    """The blocks that kmem adds for a device."""
    data = device.driver_data
    if isinstance(data, DaxKmemData):
        for _, span in data.usable():
            yield from range(span.start // block_size, span.end // block_size + 1)


def _hot_added(kernel: Kernel) -> Iterator[int]:
    for first, last, status in kernel.memory_blocks.runs:
        if not status.group.early:
            yield from range(first, last + 1)


def _refusals(tree: Tree, kernel: Kernel, device: DevDax, blocks: list[int]) -> Iterator[str]:
    """Take one device down; why writes were refused."""
    profile = kernel.profile
    if not blocks:
        return
    if profile.attribute is not None:
        word = next(word for word, state in profile.words_written.items() if state == DAX_KMEM_UNPLUGGED)
        why = _write(tree, f"{DAX}/{device.name}/{profile.attribute}", word)
        if why:
            yield why
    left = [block for block in blocks if kernel.memory_blocks.get(block) is not None]
    for block in left:
        status = kernel.memory_blocks.runs.get(block)
        if status is not None and status.state is not State.OFFLINE:
            why = _write(tree, f"{MEMORY}/memory{block}/state", "offline")
            if why:
                yield why
                return  # to unbind the driver now would leak the memory, and tell nothing more
    if left:
        why = _write(tree, f"{DAX}/{device.name}/driver/unbind", device.name)
        yield why or f"unbind of {device.name} left it there"


def _write(tree: Tree, path: str, word: str) -> str:
    """Write a word; returns why that was refused, "" if it was not."""
    try:
        file = open_file(tree, tree.resolve(path), os.O_WRONLY, _ADMINISTRATOR)
        _drive(file.write(word.encode(), _ADMINISTRATOR))
    except KernelError as error:
        return error.why
    return ""


def _drive(operation: Operation[int]) -> None:
    """Run an operation to its end. Raises KernelError."""
    answers: list[Answer] = []

    def signal_pending() -> bool:
        return Answer.INTERRUPTED in answers

    try:
        while True:
            answers.append(_answer(advance(operation, answers[-1] if answers else None, signal_pending)))
    except StopIteration:
        pass
    finally:
        operation.close()


def _answer(request: Waiting) -> Answer:
    if isinstance(request, Preempt | Sleep):
        return Answer.WOKEN
    if request.signals is Signals.NONE:
        raise KernelError(0, f"it waits for {request.point}, which nobody ends", request.point)
    return Answer.INTERRUPTED
