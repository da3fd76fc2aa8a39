"""Two controllers of one dax device: one takes its memory away, one keeps it online."""

import contextlib

from fakesysfs.testing import ExploreHandle, RunningMachine

MEMORY = "/sys/devices/system/memory"
BLOCKS = ("memory32", "memory33")
DEVICE = "/sys/bus/dax/devices/dax0.0"


async def remove_blocks(m: ExploreHandle) -> None:
    """Today's way: offline all blocks, then take the driver off."""
    for block in BLOCKS:
        if await m.read(f"{MEMORY}/{block}/state") == "online\n":
            await m.write(f"{MEMORY}/{block}/state", "offline")
    await m.write("/sys/bus/dax/drivers/kmem/unbind", "dax0.0")


async def remove_device(m: ExploreHandle) -> None:
    """The series' way: one write."""
    await m.write(f"{DEVICE}/hotplug", "unplug")


async def keep_online(m: ExploreHandle) -> None:
    """Check, then act: what was true at the check may not be true at the write."""
    for block in BLOCKS:
        if await m.exists(f"{MEMORY}/{block}") and await m.read(f"{MEMORY}/{block}/state") == "offline\n":
            await m.write(f"{MEMORY}/{block}/state", "online")


async def keep_online_mended(m: ExploreHandle) -> None:
    """Act, and take a refusal for an answer: the block is gone, or is online already."""
    for block in BLOCKS:
        with contextlib.suppress(OSError):
            await m.write(f"{MEMORY}/{block}/state", "online")


def not_stuck(machine: RunningMachine) -> bool:
    """The memory is gone, or the driver still has it."""
    there = [block for block in BLOCKS if machine.exists(f"{MEMORY}/{block}")]
    return not there or machine.exists(f"{DEVICE}/driver")
