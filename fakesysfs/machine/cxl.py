"""The table [cxl] of machine files: CXL hardware, and the regions that firmware made of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import msgspec

from fakesysfs.kernel.cxl.core.hdm import SZ_256M as CXL_ALIGN
from fakesysfs.kernel.cxl.core.region import GRANULARITIES, WAYS
from fakesysfs.kernel.cxl.setup import CxlDeviceSetup, CxlSetup, CxlWindow
from fakesysfs.kernel.modules import CXL_AT_BOOT
from fakesysfs.kernel.range import Range
from fakesysfs.kernel.setup import CxlRegionSetup, DaxSetup, Setup
from fakesysfs.machine.values import Checks, DaxDriverName, Natural, OnlineType, Table

_PCI_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_BRIDGES_MADE = range(12, 256, 2)
"""Numbers of the bridges above regions of kind cxl. The bus behind each is that of its memory device."""
_FIRST_SERIAL = 0xC100


class CxlWindowSection(Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A range of addresses that firmware routes to CXL host bridges.

    With more than one bridge it is interleaved between them, `granularity` bytes for each in turn.
    `node` is the node of its memory.
    """

    start: str | int
    size: str | int
    bridges: tuple[Natural, ...]
    granularity: int = 256
    node: int


class CxlDeviceSection(Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A CXL memory device.

    `path` has the PCI addresses below the bridge: a root port, for each switch its upstream and its
    downstream port, the device. `ports` has the port number of the root port and of each downstream
    port. `ram` and `pmem` are the sizes of its volatile and its persistent memory, `lsa` the size of
    its label storage.
    """

    bridge: Natural
    path: tuple[str, ...]
    ports: tuple[Natural, ...]
    ram: str | int = 0
    pmem: str | int = 0
    lsa: str | int = 0
    serial: Natural = 0


class CxlRegionSection(Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A region that firmware made: its decoders are committed when the kernel starts.

    `targets` has the PCI addresses of its memory devices, by position. With several of them the
    region is interleaved, `granularity` bytes for each in turn; the default is that of its window.
    `window` is the number of the window. The region begins at `start`; the default is behind the
    region before it in this window. `align`, `device_size`, `online_type` and `driver` are those of a
    dax region, for mode ram only. The host bridges above the targets have decoders, also with a single
    root port, which leaves them out otherwise.
    """

    targets: tuple[str, ...]
    size: str | int
    window: Natural = 0
    start: str | int | None = None
    granularity: int | None = None
    mode: Literal["ram", "pmem"] = "ram"
    align: str | int = "2M"
    device_size: str | int | None = None
    online_type: OnlineType | None = None
    driver: DaxDriverName | None = None


class CxlSection(Table, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """CXL hardware: windows, host bridges, memory devices, and the regions that firmware made.

    `bridges` are the numbers of the host bridges, which are those of their PCI buses, in the order in
    which the kernel finds them; `registers` are the addresses of their component registers, for
    /proc/iomem. Without `regions` no region exists at the start: `cxl create-region` makes one.

    The kernel probes all devices at once, so that their numbers are a matter of chance. `memdevs` has
    the PCI addresses of mem0, mem1, ...; `probe_order` has them in the order in which their endpoints
    are made. The default of both is the order of `devices`.
    """

    windows: tuple[CxlWindowSection, ...]
    bridges: tuple[Annotated[int, msgspec.Meta(ge=1, le=255)], ...]
    registers: tuple[str | int, ...] = ()
    devices: tuple[CxlDeviceSection, ...] = ()
    regions: tuple[CxlRegionSection, ...] = ()
    memdevs: tuple[str, ...] | None = None
    probe_order: tuple[str, ...] | None = None


# Hardware ---------------------------------------------------------------------------------------------------------


def cxl_setup(
    check: Checks,
    section: CxlSection,
    known: set[int],
    taken: Sequence[tuple[str, Range]],
    memory: Sequence[tuple[str, Range]],
) -> CxlSetup:
    """The hardware in the kernel's terms.

    `known` are the nodes of the machine. No window may overlap `taken` and `memory`, ranges with their keys. Raises
    MachineError.
    """
    windows: list[CxlWindow] = []
    named: list[tuple[str, Range]] = []
    for number, window in enumerate(section.windows):
        key = f"cxl.windows[{number}]"
        span = check.range(key, window)
        named.append((key, span))
        for what, value in (("start", span.start), ("size", span.length)):
            if value % CXL_ALIGN:
                raise check.fail(f"{key}.{what}", getattr(window, what), "expected a multiple of 256M")
        if window.node not in known:
            raise check.fail(f"{key}.node", window.node, f"expected one of the nodes {sorted(known)}")
        if window.granularity not in GRANULARITIES:
            allowed = f"expected one of {', '.join(map(str, GRANULARITIES))}"
            raise check.fail(f"{key}.granularity", window.granularity, allowed)
        if len(window.bridges) not in WAYS or not set(window.bridges) <= set(section.bridges):
            allowed = f"expected {', '.join(map(str, WAYS))} of cxl.bridges"
            raise check.fail(f"{key}.bridges", list(window.bridges), allowed)
        windows.append(CxlWindow(range=span, targets=window.bridges, granularity=window.granularity, node=window.node))
    check.disjoint([*taken, *named])
    check.disjoint([*memory, *named])
    devices = tuple(
        _device(check, f"cxl.devices[{number}]", device, section.bridges)
        for number, device in enumerate(section.devices)
    )
    if len({device.path[-1] for device in devices}) < len(devices):
        raise check.fail("cxl.devices", [device.path[-1] for device in devices], "expected each device once")
    if len(section.registers) not in {0, len(section.bridges)}:
        raise check.fail("cxl.registers", list(section.registers), "expected an address for each of cxl.bridges")
    by_address = {device.path[-1]: device for device in devices}
    orders = {}
    for key in ("memdevs", "probe_order"):
        order = getattr(section, key) or tuple(by_address)
        if sorted(order) != sorted(by_address):
            allowed = f"expected each of {', '.join(sorted(by_address))} once"
            raise check.fail(f"cxl.{key}", list(order), allowed)
        orders[key] = order
    return CxlSetup(
        windows=tuple(windows),
        bridges=section.bridges,
        registers=tuple(check.size("cxl.registers", address) for address in section.registers),
        devices=tuple(by_address[address] for address in orders["probe_order"]),
        memdevs=orders["memdevs"],
    )


def _device(check: Checks, key: str, device: CxlDeviceSection, bridges: Sequence[int]) -> CxlDeviceSetup:
    if device.bridge not in bridges:
        raise check.fail(f"{key}.bridge", device.bridge, f"expected one of {list(bridges)}")
    if len(device.path) % 2 or not device.path or not all(_PCI_ADDRESS.fullmatch(name) for name in device.path):
        allowed = 'expected PCI addresses ("0000:0c:00.0"): a root port, two for each switch, the device'
        raise check.fail(f"{key}.path", list(device.path), allowed)
    if len(device.ports) != len(device.path) // 2:
        allowed = f"expected {len(device.path) // 2} port numbers: of the root port and of each downstream port"
        raise check.fail(f"{key}.ports", list(device.ports), allowed)
    sizes = {what: check.size(f"{key}.{what}", getattr(device, what)) for what in ("ram", "pmem", "lsa")}
    for what in ("ram", "pmem"):
        if sizes[what] % CXL_ALIGN:
            raise check.fail(f"{key}.{what}", getattr(device, what), "expected a multiple of 256M")
    return CxlDeviceSetup(bridge=device.bridge, path=device.path, ports=device.ports, serial=device.serial, **sizes)


# Regions that firmware made ---------------------------------------------------------------------------------------


def cxl_regions(check: Checks, section: CxlSection, hardware: CxlSetup) -> tuple[CxlSetup, tuple[CxlRegionSetup, ...]]:
    """The regions of the table, in the kernel's terms, and the hardware that has them. Raises MachineError.

    The bridges above them have decoders: Linux finds no region behind one that has not (find_pos_and_ways).
    """
    found: list[CxlRegionSetup] = []
    next_start = [window.range.start for window in hardware.windows]
    for number, region in enumerate(section.regions):
        key = f"cxl.regions[{number}]"
        if region.window >= len(hardware.windows):
            allowed = f"expected 0 to {len(hardware.windows) - 1}, the number of one of cxl.windows"
            raise check.fail(f"{key}.window", region.window, allowed)
        window = hardware.windows[region.window]
        _check_targets(check, key, region, hardware)
        start = next_start[region.window] if region.start is None else check.size(f"{key}.start", region.start)
        size = check.size(f"{key}.size", region.size)
        if not size or size % (CXL_ALIGN * len(region.targets)):
            raise check.fail(f"{key}.size", region.size, "expected a multiple of 256M for each of its targets")
        span = Range(start, start + size - 1)
        if start % CXL_ALIGN or start < window.range.start or span.end > window.range.end:
            inside = f"{window.range.start:#x}-{window.range.end:#x}, in steps of 256M"
            where = f"{span.start:#x}-{span.end:#x}"
            raise check.fail(key, where, f"expected to lie in cxl.windows[{region.window}]: {inside}")
        next_start[region.window] = span.end + 1
        found.append(
            CxlRegionSetup(
                window=region.window,
                targets=region.targets,
                granularity=window.granularity if region.granularity is None else region.granularity,
                mode=region.mode,
                dax=_dax_setup(check, key, region, span, window.node),
            )
        )
    check.disjoint([(f"cxl.regions[{number}]", region.dax.range) for number, region in enumerate(found)])
    used = {target for region in found for target in region.targets}
    decoding = frozenset(device.bridge for device in hardware.devices if device.path[-1] in used)
    return replace(hardware, decoding=decoding), tuple(found)


def _check_targets(check: Checks, key: str, region: CxlRegionSection, hardware: CxlSetup) -> None:
    addresses = {device.path[-1] for device in hardware.devices}
    if not set(region.targets) <= addresses or len(set(region.targets)) < len(region.targets):
        allowed = f"expected PCI addresses of cxl.devices, each once: {', '.join(sorted(addresses))}"
        raise check.fail(f"{key}.targets", list(region.targets), allowed)
    if len(region.targets) not in WAYS:
        raise check.fail(f"{key}.targets", list(region.targets), f"expected {', '.join(map(str, WAYS))} addresses")


def _dax_setup(check: Checks, key: str, region: CxlRegionSection, span: Range, node: int) -> DaxSetup:
    if region.mode == "pmem":
        for what in ("device_size", "online_type", "driver"):
            if getattr(region, what) is not None:
                raise check.fail(f"{key}.{what}", getattr(region, what), 'expected only with mode = "ram"')
    return check.dax_setup(key, region, span, node)


def check_regions(check: Checks, setup: Setup) -> None:
    """Have the kernel's code make the regions. Raises MachineError for the first one that cannot be.

    That code alone knows which decoders are free, and which positions the ports above allow.
    """
    from fakesysfs.kernel.kernel import Kernel  # noqa: PLC0415  machines without such regions start without it
    from fakesysfs.kernel.profile import PROFILES  # noqa: PLC0415  the same
    from fakesysfs.ops import sched  # noqa: PLC0415  the same

    modules = tuple((name, ()) for name in CXL_AT_BOOT)
    kernel = Kernel(replace(setup, modules=modules, latency={}), PROFILES["7.3"])
    sched.run(kernel.boot())
    assert kernel.cxl is not None
    for region, error in kernel.cxl.regions.failed:
        key = f"cxl.regions[{setup.cxl_regions.index(region)}]"
        raise check.fail(f"{key}.targets", list(region.targets), f"no such region can be: {error.why}")


# Hardware for dax regions of kind cxl -----------------------------------------------------------------------------


def hardware_for(check: Checks, regions: Sequence[DaxSetup]) -> tuple[CxlSetup, tuple[CxlRegionSetup, ...]]:
    """A window, a host bridge, a memory device and a region for each of `regions`. Raises MachineError."""
    if len(regions) > len(_BRIDGES_MADE):
        allowed = f"expected at most {len(_BRIDGES_MADE)}: each has a host bridge"
        raise check.fail("dax_region", f"{len(regions)} of kind cxl", allowed)
    made = list(zip(_BRIDGES_MADE, regions, strict=False))
    devices = tuple(
        CxlDeviceSetup(
            bridge=bridge,
            path=(f"0000:{bridge:02x}:00.0", f"0000:{bridge + 1:02x}:00.0"),
            ports=(0,),
            ram=region.range.length,
            serial=_FIRST_SERIAL + number,
        )
        for number, (bridge, region) in enumerate(made)
    )
    hardware = CxlSetup(
        windows=tuple(
            CxlWindow(range=region.range, targets=(bridge,), node=region.target_node) for bridge, region in made
        ),
        bridges=tuple(bridge for bridge, _ in made),
        registers=(),
        devices=devices,
        memdevs=tuple(device.path[-1] for device in devices),
        decoding=frozenset(bridge for bridge, _ in made),
    )
    return hardware, tuple(
        CxlRegionSetup(window=number, targets=device.path[-1:], dax=region)
        for number, (device, region) in enumerate(zip(devices, regions, strict=True))
    )
