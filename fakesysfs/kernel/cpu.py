"""CPUs, as far as the tools that read them beside memory need (drivers/base/cpu.c, topology.c).

All are online for good; each is a core of its own, and each node a package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fakesysfs.kernel.kernel import Kernel


@dataclass(slots=True, eq=False)
class Cpu:
    """The device `cpuN`."""

    serial: int
    number: int
    nid: int
    kernel: Kernel
    index: int = 0

    @property
    def name(self) -> str:
        """The name of the device."""
        return f"cpu{self.number}"

    @property
    def package(self) -> list[int]:
        """The CPUs of the same node."""
        return sorted(cpu.number for cpu in self.kernel.cpus.values() if cpu.nid == self.nid)
