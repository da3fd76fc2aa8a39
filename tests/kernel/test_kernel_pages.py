"""Pages of the kernel in hotplugged blocks of a kernel zone, and what they do to offlining (kernel_pages.py)."""

from __future__ import annotations

import pytest

from fakesysfs.kernel.config import Config
from fakesysfs.kernel.dax.bus import DaxDriver, create_store, size_store
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.memory_block import State
from fakesysfs.kernel.platform import PlatformDevice
from fakesysfs.kernel.profile import Mmop
from fakesysfs.ops.errors import KernelError
from fakesysfs.testing.tasks import Signal, Tasks
from tests.model import (
    BLOCK,
    bind,
    block_state,
    block_table,
    booted,
    dax,
    drive,
    log_since,
    region_of,
    small_setup,
    span,
    unbind,
)

NODE = 2


def kernel_zone(kernel: Kernel, *numbers: int) -> None:
    for number in numbers:
        assert block_state(kernel, number, "offline") == "ok"
        assert block_state(kernel, number, "online_kernel") == "ok"


def with_a_device_of_its_node(*numbers: int, pinctrl: bool = True, blocks: int = 8) -> Kernel:
    """The memory of dax0.0 is online in Movable, apart from blocks in a kernel zone, and dax0.0 is there once more."""
    config = Config(kernel_allocations_on_hotplugged_nodes=True, pinctrl=pinctrl)
    kernel = booted("7.2", small_setup(config=config, blocks=blocks))
    drive(kernel.rmmod("dax_hmem"))
    drive(kernel.modprobe("dax_hmem"))
    assert dax(kernel).numa_node == NODE, "the node is online now"
    kernel_zone(kernel, *numbers)
    return kernel


def test_a_block_with_a_slab_page_is_tried_until_a_signal_comes() -> None:
    kernel = with_a_device_of_its_node(52)
    assert bind(kernel) == "EBUSY", "its memory is there already"
    tasks = Tasks()
    offlining = tasks.spawn(kernel.memory_blocks.state_store(52, b"offline"))
    tasks.advance(1000)
    assert offlining.letter == "R"
    going = kernel.memory_blocks.get(52)
    assert going is not None
    assert going.status.state is State.GOING_OFFLINE
    tasks.signal(offlining, Signal.SIGKILL)
    tasks.settle()
    assert isinstance(offlining.error, KernelError)
    assert offlining.error.name == "EINTR"
    assert block_table(kernel)[52] == "Normal"
    assert block_state(kernel, 52, "offline", interrupt=True) == "EINTR", "the slab page stays"


def test_slab_pages_come_from_the_block_that_is_online_longest_and_then_from_that_one() -> None:
    kernel = with_a_device_of_its_node(52, 50)
    assert bind(kernel) == "EBUSY"
    assert kernel.memory_blocks.slab == {52}
    kernel_zone(kernel, 50, 49)
    assert bind(kernel) == "EBUSY"
    assert kernel.memory_blocks.slab == {52}


def test_a_block_that_could_not_go_offline_is_the_last_to_give_pages() -> None:
    """Its pages were isolated, and come back to the end of the free list."""
    kernel = with_a_device_of_its_node(52, 50)
    drive(kernel.modprobe("memory_notifier_error_inject"))
    directory = kernel.notifier_err_inject_dir
    assert directory is not None
    directory.injectors["memory"].actions["MEM_GOING_OFFLINE"].debugfs_errno_set(-12)
    assert block_state(kernel, 52, "offline") == "ENOMEM"
    assert bind(kernel) == "EBUSY"
    assert kernel.memory_blocks.slab == {50}


def test_empty_slabs_go_with_the_last_memory_of_the_node() -> None:
    kernel = with_a_device_of_its_node(52)
    assert bind(kernel) == "EBUSY"
    for number in sorted(set(range(48, 56)) - {52}):
        assert block_state(kernel, number, "offline") == "ok"
    assert block_state(kernel, 52, "offline") == "ok"
    assert kernel.memory_blocks.slab == set()


def test_the_workqueue_of_dax_hmem_has_an_object_on_each_node_while_it_is_loaded() -> None:
    """Then the last memory of the node cannot go offline either: the slab is not empty."""
    kernel = booted("7.2", small_setup(kernel_allocations=True))
    drive(kernel.rmmod("dax_hmem"))
    kernel_zone(kernel, 52)
    hmem_platform = kernel.platform_bus.devices["hmem_platform.0"]
    assert isinstance(hmem_platform, PlatformDevice)
    hmem_platform.driver_override_store(b"none")
    drive(kernel.modprobe("dax_hmem"))
    assert kernel.memory_blocks.slab == {52}
    for number in sorted(set(range(48, 56)) - {52}):
        assert block_state(kernel, number, "offline") == "ok"
    assert block_state(kernel, 52, "offline", interrupt=True) == "EINTR"
    drive(kernel.rmmod("dax_hmem"))
    assert block_state(kernel, 52, "offline") == "ok"


@pytest.mark.parametrize("without", ["PINCTRL", "a block in a kernel zone", "a device of the node"])
def test_no_slab_page_without(without: str) -> None:
    if without == "a device of the node":
        kernel = booted("7.2", small_setup(kernel_allocations=True))
        kernel_zone(kernel, 52)
        assert dax(kernel).numa_node != NODE, "the node was not online at boot"
        drive(kernel.rmmod("kmem"))
        drive(kernel.modprobe("kmem"))
    else:
        numbers = () if without == "a block in a kernel zone" else (52,)
        kernel = with_a_device_of_its_node(*numbers, pinctrl=without != "PINCTRL")
        assert bind(kernel) == "EBUSY"
    assert kernel.memory_blocks.slab == set()


def test_memory_maps_of_added_blocks_keep_a_block_online_until_these_are_removed() -> None:
    config = Config(kernel_allocations_on_hotplugged_nodes=True)
    kernel = booted("7.2", small_setup(config=config, policy=Mmop.ONLINE_MOVABLE, blocks=8, modules=("dax_hmem",)))
    size_store(dax(kernel), str(4 * BLOCK).encode())
    drive(create_store(region_of(kernel), b"1"))
    size_store(dax(kernel, "dax0.1"), str(4 * BLOCK).encode())
    drive(kernel.modprobe("kmem"))
    for number in range(52, 56):
        assert block_state(kernel, number, "offline") == "ok"
    assert unbind(kernel, "dax0.1") == "ok"
    kernel_zone(kernel, 50)
    assert bind(kernel, "dax0.1") == "ok"
    assert block_state(kernel, 50, "offline") == "EBUSY"
    for number in range(52, 56):
        assert block_state(kernel, number, "offline") == "ok"
    assert unbind(kernel, "dax0.1") == "ok"
    assert block_state(kernel, 50, "offline") == "ok"


@pytest.mark.parametrize("driver", ["device_dax", "fsdev_dax"])
def test_the_memory_map_of_a_page_map_keeps_a_block_online_until_the_device_is_unbound(driver: str) -> None:
    """What is allocated page by page is verified: device_dax logs once that it is not on the node of boot memory."""
    second = span(64, 67)
    setup = small_setup(config=Config(kernel_allocations_on_hotplugged_nodes=True), second=second, second_node=NODE)
    kernel = booted("7.2", setup)
    drive(kernel.modprobe(driver))
    for number in range(64, 68):
        assert block_state(kernel, number, "offline") == "ok"
    assert unbind(kernel, "dax1.0") == "ok"
    drive(kernel.rmmod("dax_hmem"))
    drive(kernel.rmmod("kmem"))
    drive(kernel.modprobe("dax_hmem"))
    kernel_zone(kernel, 50)
    ids = kernel.dax_bus.drivers[driver]
    assert isinstance(ids, DaxDriver)
    last = kernel.printk.sequence
    for _ in range(2):
        drive(ids.new_id_store(b"dax1.0"))
        assert block_state(kernel, 50, "offline") == "EBUSY"
        assert unbind(kernel, "dax1.0", driver) == "ok"
        ids.remove_id_store(b"dax1.0")
    assert block_state(kernel, 50, "offline", interrupt=True) == "EINTR", "the slab page of the probe stays"
    logged = [line for line in log_since(kernel, last) if "offnode" in line]
    expected = "<4>[ffd4000008000000-ffd4000008000fff] potential offnode page_structs"
    assert logged == ([expected] if driver == "device_dax" else [])
