"""control/blocks/memoryN: what a test does to one memory block from outside. control/blocks.jsonl: all blocks."""

from __future__ import annotations

import json
from dataclasses import dataclass

from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.kstrtox import kstrtobool
from fakesysfs.kernel.memory_block import State
from fakesysfs.kernfs.declare import RW, DirectoryKind, Indexed


@dataclass(slots=True, eq=False)
class ControlBlocks:
    """control/blocks/memoryN share one identity, each with the number of its block."""

    serial: int
    kernel: Kernel
    index: int = 0

    def at(self, index: int) -> ControlBlock | None:
        """The directory of a block that exists."""
        return ControlBlock(self, index) if self.kernel.memory_blocks.get(index) is not None else None


@dataclass(slots=True)
class ControlBlock:
    """control/blocks/memoryN."""

    blocks: ControlBlocks
    index: int

    @property
    def serial(self) -> int:
        """Shared."""
        return self.blocks.serial

    @property
    def kernel(self) -> Kernel:
        """The block's kernel."""
        return self.blocks.kernel


def pinned_store(block: ControlBlock, buffer: bytes) -> None:
    """1 pins a page of the block, 0 releases it and wakes what waits for it."""
    if kstrtobool(buffer, "pinned_store"):
        block.kernel.memory_blocks.pinned.add(block.index)
    else:
        block.kernel.unpin(block.index)


def unmovable_store(block: ControlBlock, buffer: bytes) -> None:
    """1 gives the block an unmovable page, 0 takes it away."""
    blocks = block.kernel.memory_blocks
    (blocks.unmovable.add if kstrtobool(buffer, "unmovable_store") else blocks.unmovable.discard)(block.index)


CONTROL_BLOCK = DirectoryKind[ControlBlock](
    "control block",
    lambda block: f"/control/blocks/memory{block.index}",
    (
        RW(
            "pinned",
            lambda block: block.index in block.kernel.memory_blocks.pinned,
            pinned_store,
            "1: a page of the block does not migrate, so offlining it hangs until a signal or until it is 0 again.",
        ),
        RW(
            "unmovable",
            lambda block: block.index in block.kernel.memory_blocks.unmovable,
            unmovable_store,
            "1: the block has an unmovable page, so offlining it fails with EBUSY.",
        ),
    ),
    file_size=0,
)


FAMILY: Indexed[ControlBlocks] = Indexed(
    prefix="memory",
    runs=lambda blocks: [(first, last) for first, last, _ in blocks.kernel.memory_blocks.runs.groups()],
    has=lambda blocks, index: blocks.kernel.memory_blocks.runs.group_of(index) is not None,
    count=lambda blocks: blocks.kernel.memory_blocks.count,
    directory=ControlBlock,
    run=lambda blocks, index: blocks.kernel.memory_blocks.span(index),
    doc="What can be done to a block from outside.",
)
"""The directories in control/blocks."""


def blocks_json(kernel: Kernel) -> bytes:
    """control/blocks.jsonl: a line for each run of equal blocks."""
    return "".join(
        json.dumps(
            {
                "first": first,
                "last": last,
                "nodes": list(status.group.nids),
                "state": status.state.value,
                "zone": status.zone.name if status.zone is not None and status.state is State.ONLINE else None,
            }
        )
        + "\n"
        for first, last, status in kernel.memory_blocks.runs
    ).encode()
