"""Binding and unbinding: the table of driver attributes of KERNEL.md 4, and the order of events of section 9."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakesysfs.kernel.dax.bus import DaxDriver, create_store, memmap_on_memory_store, size_store
from fakesysfs.kernel.device import synthetic_uevent
from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.platform import PlatformDevice
from fakesysfs.kernel.profile import Mmop
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import Operation
from fakesysfs.testing.tasks import Task, Tasks
from tests.model import (
    BLOCK,
    bind,
    booted,
    dax,
    drive,
    errno_of,
    events_since,
    kmem,
    kmem_log,
    log_since,
    name_of,
    region_of,
    span,
    unbind,
)


def driver(kernel: Kernel, name: str) -> DaxDriver:
    found = kernel.dax_bus.drivers[name]
    assert isinstance(found, DaxDriver)
    return found


def new_id(kernel: Kernel, name: bytes, to: str = "kmem") -> str:
    return name_of(errno_of(driver(kernel, to).new_id_store(name)))


def remove_id(kernel: Kernel, name: bytes, of: str = "kmem") -> str:
    try:
        driver(kernel, of).remove_id_store(name)
    except KernelError as error:
        return error.name
    return "ok"


@pytest.fixture
def kernel() -> Kernel:
    """dax0.0 bound to kmem; device_dax is loaded too."""
    return booted("7.2", policy=Mmop.OFFLINE, blocks=4)


# bind and unbind --------------------------------------------------------------------------------------------------


def test_bind_of_a_bound_device(kernel: Kernel) -> None:
    assert bind(kernel) == "EBUSY"


def test_bind_of_an_unknown_device(kernel: Kernel) -> None:
    for name in ("dax9.9", "", "dax0", "dax0.0 ", "dax0.00"):
        assert bind(kernel, name) == "ENODEV"


def test_bind_that_does_not_match(kernel: Kernel) -> None:
    """hmem regions carry the kmem flag: device_dax does not match them until new_id."""
    assert unbind(kernel) == "ok"
    assert bind(kernel, driver="device_dax") == "ENODEV"
    assert new_id(kernel, b"dax0.0", "device_dax") == "ok"
    assert dax(kernel).driver is driver(kernel, "device_dax")
    assert unbind(kernel, driver="device_dax") == "ok"
    assert bind(kernel, driver="device_dax") == "ok"


def test_a_name_may_have_one_newline(kernel: Kernel) -> None:
    assert unbind(kernel, "dax0.0\n") == "ok"
    assert bind(kernel, "dax0.0\n") == "ok"
    assert unbind(kernel, "dax0.0\0") == "ok"
    assert bind(kernel, "dax0.0\n\n") == "ENODEV"


def test_bind_of_a_device_without_size(kernel: Kernel) -> None:
    """ENXIO, and no line in the log (KERNEL.md 4)."""
    idle = booted("7.2", blocks=4, region_idle=True)
    assert new_id(idle, b"dax0.0") == "ok"
    log = idle.printk.sequence
    assert bind(idle) == "ENXIO"
    assert log_since(idle, log) == []
    del kernel


@pytest.mark.parametrize("name", ["dax9.9", "", "dax0.0x", "dax0.0 ", "DAX0.0"])
def test_unbind_of_what_is_not_bound_to_the_driver(kernel: Kernel, name: str) -> None:
    assert unbind(kernel, name) == "ENODEV"
    assert unbind(kernel, driver="device_dax") == "ENODEV"
    assert unbind(kernel) == "ok"
    assert unbind(kernel) == "ENODEV"


# new_id and remove_id ---------------------------------------------------------------------------------------------

NOT_IDS = [b"", b"\n", b"dax", b"dax0", b"dax0.", b"dax.0", b"dax00.0", b"dax0.00", b" dax0.0", b"dax0.0 ", b"dax0.0x",
           b"dax0.0\n\n", b"dax+0.0", b"DAX0.0", b"dax0.0.0", b"\xff", b"dax-0.0",
           b"dax99999999999999999.0", b"dax4294967295.0", b"dax0.2147483648"]  # fmt: skip


@pytest.mark.parametrize("name", NOT_IDS)
def test_an_id_is_exactly_daxn_m(kernel: Kernel, name: bytes) -> None:
    assert new_id(kernel, name) == "EINVAL"
    assert remove_id(kernel, name) == "EINVAL"
    assert kmem(kernel).ids == []


@pytest.mark.parametrize(
    "name", [b"dax7.3", b"dax7.3\n", b"dax-1.0", b"dax0.-1", b"dax0.2147483647", b"dax7.3\0", b"dax7.3\n\0junk"]
)
def test_an_id_of_no_device_is_remembered(kernel: Kernel, name: bytes) -> None:
    assert new_id(kernel, name) == "ok"
    assert new_id(kernel, name) == "ok"
    assert len(kmem(kernel).ids) == 1
    assert remove_id(kernel, name) == "ok"
    assert remove_id(kernel, name) == "ok", "an unknown one too"
    assert kmem(kernel).ids == []


def test_new_id_of_a_device_bound_elsewhere_has_no_effect(kernel: Kernel) -> None:
    assert new_id(kernel, b"dax0.0", "device_dax") == "ok"
    assert dax(kernel).driver is kmem(kernel)


def test_new_id_attaches_every_unbound_device_that_matches_and_hides_failures() -> None:
    """KERNEL.md 4; 7.3-6: each later new_id write of any device re-probes the leaked one and logs two lines again."""
    kernel = booted("7.2", blocks=4)
    assert unbind(kernel) == "ok"
    log = kernel.printk.sequence
    for _ in range(2):
        assert new_id(kernel, b"dax5.5") == "ok"
    assert (
        kmem_log(kernel, log)
        == [
            "<4>kmem dax0.0: mapping0: 0x180000000-0x19fffffff could not reserve region",
            "<3>kmem dax0.0: probe with driver kmem failed with error -16",
        ]
        * 2
    )
    assert [error.name for error in kernel.ignored][-2:] == ["EBUSY", "EBUSY"]


def test_drivers_probe(kernel: Kernel) -> None:
    def probe(name: bytes) -> str:
        return name_of(errno_of(kernel.dax_bus.drivers_probe_store(name)))

    assert probe(b"dax9.9") == "ENODEV"
    assert probe(b"dax0.0") == "ok", "a bound one too"
    unbind(kernel)
    assert probe(b"dax0.0\n") == "ok"
    assert dax(kernel).driver is kmem(kernel)


@pytest.mark.parametrize(
    ("buffer", "value"), [(b"0", False), (b"0\n", False), (b"00", False), (b"", True), (b"1", True), (b"x", True)]
)
def test_drivers_autoprobe(kernel: Kernel, buffer: bytes, value: bool) -> None:  # noqa: FBT001  the table's
    """A first byte '0' clears, anything else sets (KERNEL.md 9); with it off, a new driver takes nothing."""
    kernel.dax_bus.drivers_autoprobe_store(buffer)
    assert kernel.dax_bus.autoprobe is value
    drive(kernel.rmmod("kmem"))
    drive(kernel.modprobe("kmem"))
    assert (dax(kernel).driver is not None) is value


# Events -----------------------------------------------------------------------------------------------------------


def environments(kernel: Kernel, sequence: int, action: str) -> list[list[str]]:
    return [lines[3:] for lines in kernel.uevents.since(sequence) if lines[0].startswith(f"{action}@")]


def test_bind_and_unbind_events(kernel: Kernel) -> None:
    """KERNEL.md 4: bind@ with DRIVER and MODALIAS after all block events; unbind@ without both, after all removals."""
    sequence = kernel.uevents.sequence
    unbind(kernel)
    bind(kernel)
    device = ["SUBSYSTEM=dax", "MAJOR=254", "MINOR=0", "DEVNAME=dax0.0"]
    assert environments(kernel, sequence, "unbind") == [device]
    assert environments(kernel, sequence, "bind") == [[*device, "DRIVER=kmem", "MODALIAS=dax:t0"]]
    blocks = [f"memory{index}" for index in range(48, 52)]
    assert events_since(kernel, sequence) == [
        *(f"remove {name}" for name in blocks), "remove node2", "unbind dax0.0",
        "add node2", *(f"add {name}" for name in blocks), "bind dax0.0",
    ]  # fmt: skip


def test_a_failed_probe_sends_nothing() -> None:
    kernel = booted("hotplug-v3-as-posted", policy=Mmop.OFFLINE, blocks=4)
    sequence = kernel.uevents.sequence
    assert bind(kernel) == "EINVAL"
    assert events_since(kernel, sequence) == []


def test_module_events() -> None:
    """The order of KERNEL.md 9, "Module uevents", of two devices, each with one block."""
    kernel = booted("7.2", policy=Mmop.OFFLINE, blocks=1, second=span(60, 60), modules=())
    sequence = kernel.uevents.sequence
    for name in ("device_dax", "dax_hmem", "kmem"):
        drive(kernel.modprobe(name))
    loaded = kernel.uevents.sequence
    assert events_since(kernel, sequence) == [
        "add device_dax", "add device_dax",
        "add hmem.0", "add hmem.1", "bind hmem_platform.0", "add hmem_platform",
        "add dax0.0", "bind hmem.0", "add dax1.0", "bind hmem.1", "add hmem", "add dax_hmem",
        "add node2", "add memory48", "bind dax0.0", "add node3", "add memory60", "bind dax1.0", "add kmem", "add kmem",
    ]  # fmt: skip
    drive(kernel.rmmod("kmem"))
    drive(kernel.rmmod("dax_hmem"))
    assert events_since(kernel, loaded) == [
        "remove memory60", "remove node3", "unbind dax1.0", "remove memory48", "remove node2", "unbind dax0.0",
        "remove kmem", "remove kmem",
        "remove dax1.0", "unbind hmem.1", "remove dax0.0", "unbind hmem.0", "remove hmem",
        "remove hmem.1", "remove hmem.0", "unbind hmem_platform.0", "remove hmem_platform", "remove dax_hmem",
    ]  # fmt: skip
    assert environments(kernel, loaded, "remove")[6] == [
        "SUBSYSTEM=dax",
        "MAJOR=254",
        "MINOR=1",
        "DEVNAME=dax1.0",
        "MODALIAS=dax:t0",
    ]


def test_unloading_dax_hmem_takes_bound_devices_away_and_loading_it_starts_anew() -> None:
    kernel = booted("7.3", blocks=2, policy=Mmop.OFFLINE)
    drive(kernel.rmmod("dax_hmem"))
    assert kernel.dax_bus.devices == {}
    assert len(kernel.dax_minors) == 0
    drive(kernel.modprobe("dax_hmem"))
    assert dax(kernel).driver is kmem(kernel)
    assert region_of(kernel).devices() == [dax(kernel)]
    assert dax(kernel).minor == 0, "minors are given back too"


def test_modules_refuse_what_is_unknown() -> None:
    kernel = booted(modules=())
    for name, parameters, expected in (("nvme", {}, "ENOENT"), ("dax_hmem", {"region_idle": "x"}, "EINVAL")):
        assert name_of(errno_of(kernel.modprobe(name, parameters))) == expected
    assert log_since(kernel, 0) == ["<3>dax_hmem: `x' invalid for parameter `region_idle'"]
    assert name_of(errno_of(kernel.rmmod("kmem"))) == "ENOENT"
    drive(kernel.modprobe("dax-hmem", {"region_idle": "1"}))
    drive(kernel.modprobe("dax_hmem"))
    assert list(kernel.modules.loaded) == ["dax_hmem"]


def test_a_parameter_without_a_value_is_set() -> None:
    kernel = booted(modules=())
    drive(kernel.modprobe("dax_hmem", {"region_idle": None}))
    assert kernel.modules.loaded["dax_hmem"].is_set("region_idle")
    assert name_of(errno_of(kernel.modprobe("memory_notifier_error_inject", {"priority": None}))) == "EINVAL"


def test_a_parameter_that_a_module_does_not_have_is_ignored() -> None:
    kernel = booted(modules=())
    drive(kernel.modprobe("kmem", {"x": "1"}))
    assert log_since(kernel, 0) == ["<4>kmem: unknown parameter 'x' ignored"]
    assert kernel.modules.loaded["kmem"].parameters == {}


def platform(kernel: Kernel, operation: str, driver: str, name: str) -> str:
    bus = kernel.platform_bus
    store = bus.bind_store if operation == "bind" else bus.unbind_store
    return name_of(errno_of(store(bus.drivers[driver], name.encode())))


def test_region_idle_is_read_when_a_region_is_made() -> None:
    kernel = booted("7.2")
    assert dax(kernel).size
    kernel.modules.loaded["dax_hmem"].parameters["region_idle"] = "Y"
    assert platform(kernel, "unbind", "hmem", "hmem.0") == "ok"
    assert platform(kernel, "bind", "hmem", "hmem.0") == "ok"
    assert dax(kernel).size == 0
    assert not region_of(kernel).kmem


def test_driver_override_names_the_only_driver() -> None:
    kernel = booted("7.2")
    hmem = kernel.platform_bus.devices["hmem.0"]
    assert isinstance(hmem, PlatformDevice)
    hmem.driver_override = "other"
    assert platform(kernel, "unbind", "hmem", "hmem.0") == "ok"
    assert platform(kernel, "bind", "hmem", "hmem.0") == "ENODEV"
    assert platform(kernel, "bind", "hmem_platform", "hmem.0") == "ENODEV"
    drive(kernel.platform_bus.drivers_probe_store(b"hmem.0"))
    assert hmem.driver is None
    hmem.driver_override = "hmem"
    assert platform(kernel, "bind", "hmem", "hmem.0") == "ok"


@pytest.mark.parametrize(
    ("buffer", "name"),
    [
        (b"hmem", "hmem"),
        (b"hmem\nother", "hmem"),
        (b"hmem\0other", "hmem"),
        (b" hmem ", " hmem "),
        (b"", None),
        (b"\n", None),
        (b"\nhmem", None),
        (b"\0", None),
        (b"a" * 4094, "a" * 4094),
        (b"a" * 4093 + b"\n", "a" * 4093),
    ],
)
def test_driver_override_is_what_stands_before_the_first_newline(buffer: bytes, name: str | None) -> None:
    hmem = booted("7.2").platform_bus.devices["hmem.0"]
    assert isinstance(hmem, PlatformDevice)
    hmem.driver_override_store(b"before")
    hmem.driver_override_store(buffer)
    assert hmem.driver_override == name


@pytest.mark.parametrize("buffer", [b"a" * 4095, b"a" * 4094 + b"\n", b"\n" * 4095, b"a" * 4096])
def test_driver_override_refuses_what_a_read_could_not_give(buffer: bytes) -> None:
    """4,095 bytes written are too long, however short the name in them is."""
    hmem = booted("7.2").platform_bus.devices["hmem.0"]
    assert isinstance(hmem, PlatformDevice)
    hmem.driver_override_store(b"before")
    with pytest.raises(KernelError, match="EINVAL"):
        hmem.driver_override_store(buffer)
    assert hmem.driver_override == "before"


def test_a_device_is_as_near_as_the_one_above_it() -> None:
    """A dax device that is made while its node is online is still said to be near the node that hmem.0 was near to."""
    kernel = booted("7.2", policy=Mmop.OFFLINE)
    assert unbind(kernel) == "ok"
    size_store(dax(kernel), b"%d" % (4 * BLOCK))
    assert bind(kernel) == "ok"
    assert kernel.nodes[2].online
    drive(create_store(region_of(kernel), b"1"))
    assert [dax(kernel, name).numa_node for name in ("dax0.0", "dax0.1")] == [0, 0]


# Synthetic events (KERNEL.md 1) -----------------------------------------------------------------------------------

UUID = "12345678-abcd-abcd-abcd-123456789abc"


def synthesise(
    kernel: Kernel, buffer: bytes, subsystem: str | None = "memory", label: str | None = "memory memory50"
) -> list[str]:
    sequence = kernel.uevents.sequence
    environment = ("KEY=value", "MODALIAS=x")
    synthetic_uevent(kernel, buffer, "/devices/system/memory/memory50", subsystem, label, lambda: environment)
    return [line for lines in kernel.uevents.since(sequence) for line in lines]


@pytest.mark.parametrize(
    ("buffer", "action", "extra"),
    [
        (b"add", "add", ["SYNTH_UUID=0"]),
        (b"change\n", "change", ["SYNTH_UUID=0"]),
        (b"offline\0", "offline", ["SYNTH_UUID=0"]),
        (f"move {UUID}\0".encode(), "move", [f"SYNTH_UUID={UUID}"]),
        (f"bind {UUID}".encode(), "bind", [f"SYNTH_UUID={UUID}"]),
        (b"unbind", "unbind", ["SYNTH_UUID=0"]),
        (f"add {UUID} A=1 B=two\n".encode(), "add", [f"SYNTH_UUID={UUID}", "SYNTH_ARG_A=1", "SYNTH_ARG_B=two"]),
    ],
)
def test_a_synthetic_event(kernel: Kernel, buffer: bytes, action: str, extra: list[str]) -> None:
    path = "/devices/system/memory/memory50"
    head = [f"{action}@{path}", f"ACTION={action}", f"DEVPATH={path}", "SUBSYSTEM=memory"]
    modalias = [] if action == "unbind" else ["MODALIAS=x"]
    assert synthesise(kernel, buffer) == [*head, *extra, "KEY=value", *modalias]


def test_a_device_on_no_bus_sends_nothing(kernel: Kernel) -> None:
    assert synthesise(kernel, b"add", subsystem=None) == []


def test_what_is_no_device_complains_once(kernel: Kernel) -> None:
    log = kernel.printk.sequence
    with pytest.raises(KernelError, match="EINVAL"):
        synthesise(kernel, b"junk", label=None)
    assert log_since(kernel, log) == ["<4>synth uevent: /devices/system/memory/memory50: unknown uevent action string"]


@pytest.mark.parametrize(
    ("buffer", "problem"),
    [
        (b"junk", "unknown uevent action string"),
        (b"", "unknown uevent action string"),
        (b"Add", "unknown uevent action string"),
        (b" add", "unknown uevent action string"),
        (b"\n", "unknown uevent action string"),
        (b"\0", "unknown uevent action string"),
        (b"add\0junk", "unknown uevent action string"),
        (b"ad\0d", "unknown uevent action string"),
        (b"add\n\n", "unknown uevent action string"),
        (b"add\0\0", "unknown uevent action string"),
        (b"add\n\0", "unknown uevent action string"),
        (b"add\0\n", "unknown uevent action string"),
        (b"add\xff", "unknown uevent action string"),
        (b"add \n", "incorrect uevent action arguments"),
        (f"add {UUID} A=b\n\n".encode(), "incorrect uevent action arguments"),
        (f"add {UUID} A=b\0C=d".encode(), "incorrect uevent action arguments"),
        (f"add {UUID}\0A=b".encode(), "incorrect uevent action arguments"),
        (f"add {UUID} ".encode(), "incorrect uevent action arguments"),
        (f"add {UUID}  A=b".encode(), "incorrect uevent action arguments"),
        (b"add x", "incorrect uevent action arguments"),
        (f"add {UUID} A".encode(), "incorrect uevent action arguments"),
        (f"add {UUID} A=b-c".encode(), "incorrect uevent action arguments"),
    ],
)
def test_what_is_no_synthetic_event(kernel: Kernel, buffer: bytes, problem: str) -> None:
    log = kernel.printk.sequence
    with pytest.raises(KernelError, match="EINVAL"):
        synthesise(kernel, buffer)
    assert log_since(kernel, log) == [
        f"<4>synth uevent: /devices/system/memory/memory50: {problem}",
        "<3>memory memory50: uevent: failed to send synthetic uevent: -22",
    ]


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_an_event_or_einval(buffer: bytes) -> None:
    kernel = booted("7.2", modules=())
    try:
        synthesise(kernel, buffer)
    except KernelError as error:
        assert error.errno == errno.EINVAL  # noqa: PT017


# Bound to the end -------------------------------------------------------------------------------------------------


def in_work(kernel: Kernel, operation: Operation[None], tasks: Tasks) -> Task:
    """Start an operation that stops at its first block."""
    kernel.preempt.latency.update(online_block=100, offline_block=100)
    task = tasks.spawn(operation)
    tasks.settle()
    assert not task.finished
    return task


def refused(task: Task) -> str:
    return task.error.name if isinstance(task.error, KernelError) else "ok" if task.finished else "waits"


def others(kernel: Kernel, tasks: Tasks) -> dict[str, Task]:
    """What else somebody may do with the device meanwhile."""
    driver, device = kmem(kernel), dax(kernel)

    async def size() -> None:
        size_store(device, b"0")

    started = {
        "size": tasks.spawn(size()),
        "bind": tasks.spawn(kernel.dax_bus.bind_store(driver, b"dax0.0")),
        "unbind": tasks.spawn(kernel.dax_bus.unbind_store(driver, b"dax0.0")),
        "memmap_on_memory": tasks.spawn(memmap_on_memory_store(device, b"0")),
        "new_id": tasks.spawn(driver.new_id_store(b"dax7.7")),
    }
    tasks.settle()
    return started


def test_a_device_counts_as_bound_from_before_its_probe() -> None:
    """really_probe: the driver is set and linked before the probe, and size_store refuses; the rest wants the lock."""
    kernel = booted("7.3", blocks=2, modules=("device_dax", "dax_hmem"))
    tasks = Tasks()
    load = in_work(kernel, kernel.modprobe("kmem"), tasks)
    device = dax(kernel)
    assert device.driver is kernel.dax_bus.drivers["kmem"]
    assert device.driver_link is device.driver
    started = others(kernel, tasks)
    waits = dict.fromkeys(started, "waits")
    assert {name: refused(task) for name, task in started.items()} == {**waits, "size": "EBUSY"}
    tasks.advance(1000)
    assert load.finished
    assert {name: refused(task) for name, task in started.items()} == {
        "size": "EBUSY", "bind": "EBUSY", "unbind": "ok", "memmap_on_memory": "ok", "new_id": "ok"
    }  # fmt: skip


def test_a_device_counts_as_bound_to_the_end_of_its_removal() -> None:
    """__device_release_driver: the links go first, dev->driver last. A second unbind waits, and succeeds."""
    kernel = booted("7.3", blocks=2)
    tasks = Tasks()
    in_work(kernel, kmem(kernel).hotplug_store(dax(kernel), b"unplugged"), tasks)
    unbinding = tasks.spawn(kernel.dax_bus.unbind_store(kmem(kernel), b"dax0.0"))
    tasks.settle()
    device = dax(kernel)
    assert device.driver is kmem(kernel)
    assert device.driver_link is None
    started = others(kernel, tasks)
    waits = dict.fromkeys(started, "waits")
    assert {name: refused(task) for name, task in started.items()} == {**waits, "size": "EBUSY"}
    tasks.advance(10_000)
    assert refused(unbinding) == "ok"
    assert {name: refused(task) for name, task in started.items()} == {
        "size": "EBUSY", "bind": "ok", "unbind": "ok", "memmap_on_memory": "ok", "new_id": "ok"
    }  # fmt: skip


def test_a_probe_that_fails_leaves_no_link() -> None:
    kernel = booted("7.3", blocks=2, target_node=7)
    device = dax(kernel)
    assert (device.driver, device.driver_link) == (None, None)


@pytest.mark.parametrize(
    ("first", "second", "error"),
    [
        ("device_dax", "device_dax", errno.EINVAL),
        ("device_dax", "fsdev_dax", errno.EINVAL),
        ("fsdev_dax", "device_dax", errno.EBUSY),
        ("fsdev_dax", "fsdev_dax", errno.EBUSY),
    ],
)
def test_only_device_dax_leaves_the_page_map_of_a_failed_probe(first: str, second: str, error: int) -> None:
    """It stores the page map before it reserves the ranges; the next probe by either driver refuses it."""
    kernel = booted("7.2", policy=Mmop.OFFLINE, blocks=4)
    drive(kernel.modprobe("fsdev_dax"))
    assert unbind(kernel) == "ok"
    taken = dax(kernel).mappings[0].range
    assert kernel.iomem.request_region(taken.start, taken.end, "taken") is not None
    for name, expected in ((first, errno.EBUSY), (second, error)):
        log = kernel.printk.sequence
        assert new_id(kernel, b"dax0.0", to=name) == "ok"
        assert log_since(kernel, log)[-1] == f"<3>{name} dax0.0: probe with driver {name} failed with error -{expected}"
        assert remove_id(kernel, b"dax0.0", of=name) == "ok"


def test_what_a_character_device_maps_stays_in_the_span_of_zone_device() -> None:
    """Of the node of the device, which was online at boot, not of its target node. kmem maps nothing."""
    kernel = booted("7.2", policy=Mmop.OFFLINE, blocks=4)
    device = dax(kernel)
    assert device.numa_node is not None
    zone = kernel.nodes[device.numa_node].zones.device
    assert unbind(kernel) == "ok"
    assert (zone.start, zone.end) == (0, 0)
    assert new_id(kernel, b"dax0.0", to="device_dax") == "ok"
    spanned = device.mappings[0].range
    assert (zone.start << 12, zone.end << 12) == (spanned.start, spanned.end + 1)
    assert unbind(kernel, driver="device_dax") == "ok"
    assert (zone.start << 12, zone.end << 12, zone.present) == (spanned.start, spanned.end + 1, 0)
