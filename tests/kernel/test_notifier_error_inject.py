"""Errors injected into the memory notifier chain, as plain calls on the kernel (7.2/16, 7.3/14, hotplug-v3/18)."""

from __future__ import annotations

import pytest

from fakesysfs.kernel.config import Config
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.notifier_error_inject import NotifierErrInject
from fakesysfs.machine import load
from fakesysfs.ops import sched
from fakesysfs.ops.errors import KernelError
from tests.model import (
    block_state,
    block_table,
    booted,
    errno_of,
    events_since,
    kmem_log,
    log_since,
    name_of,
    read_state,
    set_policy,
    unbind,
    world,
    write_state,
)

MODULE = "memory-notifier-error-inject"
TAINT_LINE = "<4>notifier_error_inject: loading out-of-tree module taints kernel."
REONLINE_LINE = "<4>try_reonline_memory_block: Failed to re-online memory: -12"


def loaded(profile: str = "7.3", kernel: Kernel | None = None) -> Kernel:
    kernel = kernel or booted(profile)
    sched.run(kernel.modprobe(MODULE))
    return kernel


def injector(kernel: Kernel) -> NotifierErrInject:
    assert kernel.notifier_err_inject_dir is not None
    return kernel.notifier_err_inject_dir.injectors["memory"]


def inject(kernel: Kernel, online: int = 0, offline: int = 0) -> None:
    actions = injector(kernel).actions
    actions["MEM_GOING_ONLINE"].debugfs_errno_set(online)
    actions["MEM_GOING_OFFLINE"].debugfs_errno_set(offline)


# The modules --------------------------------------------------------------------------------------------------------


def test_a_distribution_s_modules_are_in_tree() -> None:
    kernel = booted("7.3", load("oracle-distribution").setup())
    log = kernel.printk.sequence
    sched.run(kernel.modprobe(MODULE))
    assert kernel.tainted == 0
    assert log_since(kernel, log) == []


def test_modprobe_loads_what_it_needs_first_and_taints_once() -> None:
    """The recorded guest's modules were built outside of the tree."""
    kernel = booted("7.2", load("oracle").setup())
    log, events = kernel.printk.sequence, kernel.uevents.sequence
    sched.run(kernel.modprobe(MODULE))
    assert events_since(kernel, events) == ["add notifier_error_inject", "add memory_notifier_error_inject"]
    assert kernel.tainted == 4096
    sched.run(kernel.rmmod(MODULE))
    sched.run(kernel.rmmod("notifier-error-inject"))
    sched.run(kernel.modprobe(MODULE))
    assert log_since(kernel, log) == [TAINT_LINE]


def test_needed_module_cannot_be_unloaded() -> None:
    kernel = loaded()
    assert name_of(errno_of(kernel.rmmod("notifier_error_inject"))) == "EAGAIN"
    assert kernel.notifier_err_inject_dir is not None


def test_unloading_ends_the_injection_and_loading_starts_without() -> None:
    kernel = loaded()
    inject(kernel, offline=-12)
    objects = len(kernel.objects)
    sched.run(kernel.rmmod(MODULE))
    assert block_state(kernel, 48, "offline") == "ok"
    sched.run(kernel.modprobe(MODULE))
    assert [action.error for action in injector(kernel).actions.values()] == [0, 0]
    assert len(kernel.objects) == objects


@pytest.mark.parametrize(
    ("value", "answer"), [("5", "ok"), ("-0x10", "ok"), ("x", "EINVAL"), ("", "EINVAL"), ("2147483648", "ERANGE")]
)
def test_priority_is_a_number(value: str, answer: str) -> None:
    kernel = booted()
    assert name_of(errno_of(kernel.modprobe(MODULE, {"priority": value}))) == answer
    assert ("memory_notifier_error_inject" in kernel.modules.loaded) == (answer == "ok")


def test_what_the_log_says_of_a_bad_priority() -> None:
    kernel = booted()
    for value in ("x", "2147483648"):
        errno_of(kernel.modprobe(MODULE, {"priority": value}))
    assert log_since(kernel, 0)[-2:] == [
        "<3>memory_notifier_error_inject: `x' invalid for parameter `priority'",
        "<3>memory_notifier_error_inject: `2147483648' invalid for parameter `priority'",
    ]


def test_kernel_without_memory_hotplug_has_only_the_base_module() -> None:
    kernel = booted(modules=(), config=Config(memory_hotplug=False))
    sched.run(kernel.modprobe("notifier_error_inject"))
    assert name_of(errno_of(kernel.modprobe(MODULE))) == "ENOENT"


# What an action's error is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, 0),
        (-1, -1),
        (-4095, -4095),
        (-4096, -4095),
        (1, 0),
        (4294967284, -12),
        (-4294967308, -12),
        ((1 << 31) - 1, 0),
        (1 << 31, -4095),
        (-(1 << 63), 0),
    ],
)
def test_value_is_truncated_then_clamped(value: int, error: int) -> None:
    action = injector(loaded()).actions["MEM_GOING_ONLINE"]
    action.debugfs_errno_set(value)
    assert action.error == error


# What it does -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [-1, -4, -11, -12, -16, -22, -512, -4095])
def test_block_is_refused_with_exactly_that_error(error: int) -> None:
    kernel = loaded()
    before, log, events = world(kernel), kernel.printk.sequence, kernel.uevents.sequence
    inject(kernel, offline=error)
    for store in (kernel.memory_blocks.state_store(48, b"offline\n"), kernel.memory_blocks.online_store(48, b"0")):
        with pytest.raises(KernelError) as refused:
            sched.run(store)
        assert (refused.value.errno, refused.value.block) == (-error, 48)
    assert log_since(kernel, log) == [f"<6>Injecting error ({error}) to MEM_GOING_OFFLINE"] * 2
    assert events_since(kernel, events) == []
    assert world(kernel) == before


def test_checks_before_the_notifier_win() -> None:
    kernel = loaded(kernel=booted("7.3", modules=("dax_hmem",)))
    kernel.memory_blocks.unmovable.add(40)
    inject(kernel, -12, -12)
    log = kernel.printk.sequence
    assert block_state(kernel, 0, "offline") == "EINVAL"  # several zones
    assert block_state(kernel, 1, "online") == "EINVAL"  # online already
    assert block_state(kernel, 1, "garbage") == "EINVAL"
    assert block_state(kernel, 40, "offline") == "EBUSY"
    assert errno_of(kernel.memory_blocks.online_store(1, b"1")) == 0
    assert log_since(kernel, log) == ["<4>page dumped because: unmovable page"]


def test_plug_succeeds_though_no_block_goes_online() -> None:
    kernel = loaded()
    write_state(kernel, "unplugged")
    inject(kernel, online=-12)
    log = kernel.printk.sequence
    assert write_state(kernel, "online_movable") == "ok"
    assert read_state(kernel) == "online_movable"
    assert set(block_table(kernel).values()) == {"offline"}
    assert kmem_log(kernel, log) == ["<6>Injecting error (-12) to MEM_GOING_ONLINE"]


def test_bind_succeeds_though_no_block_goes_online() -> None:
    kernel = loaded("7.2")
    for index in block_table(kernel):
        block_state(kernel, index, "offline")
    assert unbind(kernel) == "ok"
    set_policy(kernel, "online_movable")
    inject(kernel, online=-12)
    bus = kernel.dax_bus
    assert errno_of(bus.bind_store(bus.drivers["kmem"], b"dax0.0")) == 0
    assert set(block_table(kernel).values()) == {"offline"}


@pytest.mark.parametrize("profile", ["7.3", "hotplug-v3"])
def test_unplug_fails_with_the_injected_error(profile: str) -> None:
    kernel = loaded(profile)
    before = world(kernel)
    inject(kernel, offline=-12)
    assert write_state(kernel, "unplugged" if profile == "7.3" else "unplug") == "ENOMEM"
    assert world(kernel) == before
    assert read_state(kernel) == "online_movable"


def test_failed_rollback_says_so_for_each_block_and_keeps_the_first_error() -> None:
    kernel = loaded()
    kernel.memory_blocks.unmovable.add(51)
    inject(kernel, online=-12)
    log, events = kernel.printk.sequence, kernel.uevents.sequence
    assert write_state(kernel, "unplugged") == "EBUSY"
    assert kmem_log(kernel, log) == [
        "<4>page dumped because: unmovable page",
        *["<6>Injecting error (-12) to MEM_GOING_ONLINE", REONLINE_LINE] * 3,
        "<3>kmem dax0.0: hotremove failed, device left online: -16",
    ]
    assert events_since(kernel, events) == [f"offline memory{index}" for index in (48, 49, 50)]
    inject(kernel)
    assert write_state(kernel, "online_movable") == "ok"
    assert block_table(kernel)[48] == "offline", "the same state again repairs nothing"
    assert block_state(kernel, 48, "online_movable") == "ok"
