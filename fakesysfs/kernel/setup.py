"""The machine that a kernel boots on, in the kernel's terms.

`fakesysfs.machine` makes a `Setup` from a machine file. Sizes and addresses are in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fakesysfs.kernel.config import Config
from fakesysfs.kernel.cxl.setup import CxlSetup
from fakesysfs.kernel.memory_hotplug import Parameters
from fakesysfs.kernel.memory_tiers import AccessCoordinate
from fakesysfs.kernel.profile import Mmop
from fakesysfs.kernel.range import Range

PMD_SIZE = 2 << 20
"""The default alignment of a dax region."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSetup:
    """One possible node: its CPUs and the RAM that firmware gives it.

    `managed_kb` is the memory that the page allocator has, in kB: a total, or one number for each
    zone. None means all of the RAM.
    """

    nid: int
    cpus: tuple[int, ...] = ()
    ranges: tuple[Range, ...] = ()
    managed_kb: int | Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DaxSetup:
    """Memory that becomes a dax region.

    `device_size` is the size of the first device; None means the whole region. `online_type` is the
    policy of the region's driver; None means the system's. Boot binds the first device to `driver`,
    even if another driver matches. `raw` persistent memory stays a block device until a tool
    changes its mode.
    """

    range: Range
    target_node: int
    align: int = PMD_SIZE
    device_size: int | None = None
    online_type: Mmop | None = None
    driver: str | None = None
    raw: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CxlRegionSetup:
    """A CXL region that firmware made: it set up and committed the decoders before the kernel started.

    `window` is the number of the window. `targets` has the PCI addresses of the memory devices, by position. `dax` has
    the addresses and the node of the region, and what its dax region gets. `mode` is `ram` or `pmem`.
    """

    window: int
    targets: tuple[str, ...]
    dax: DaxSetup
    granularity: int = 256
    mode: str = "ram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """All that a kernel boots with."""

    block_size: int
    nodes: tuple[NodeSetup, ...]
    distances: tuple[tuple[int, ...], ...] | None = None
    performance: Mapping[int, AccessCoordinate] = field(default_factory=dict)
    soft_reserved: tuple[DaxSetup, ...] = ()
    cxl: CxlSetup | None = None
    cxl_regions: tuple[CxlRegionSetup, ...] = ()
    """The regions that firmware made of the memory devices of `cxl`, in the order in which they get their decoders."""
    cxl_test: tuple[DaxSetup, ...] | None = None
    """The regions of the module cxl_test. None: there is no such module."""
    pmem: tuple[DaxSetup, ...] = ()
    iomem: tuple[tuple[int, int, str, bool], ...] = ()
    """Other entries of /proc/iomem: start, end, name, busy."""
    reserved: tuple[Range, ...] = ()
    """Parts of the nodes' ranges that are not RAM. The memory of dax regions is among them."""
    unmovable: tuple[int, ...] = ()
    """Blocks of boot memory with pages that cannot be moved."""
    platform_devices: tuple[str, ...] = ()
    default_online_type: Mmop = Mmop.ONLINE
    parameters: Parameters = field(default_factory=Parameters)
    modules: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    """Modules that boot loads: name, and (parameter, value) pairs."""
    latency: Mapping[str, float] = field(default_factory=dict)
    """Seconds for each block, by preemption point, from the end of the boot on."""
    config: Config = field(default_factory=Config)
