"""CPUs, for the tools that read them together with memory (drivers/base/cpu.c, topology.c).

All CPUs stay online. Each CPU is a core of its own, and each node is a package.
"""

from __future__ import annotations

from dataclasses import dataclass

from fakesysfs.kernel.core import Core
from fakesysfs.kernel.node import Nodes


@dataclass(slots=True, eq=False)
class Cpu:
    """The device `cpuN`."""

    serial: int
    number: int
    nid: int
    kernel: Core
    nodes: Nodes
    index: int = 0

    @property
    def name(self) -> str:
        """The name of the device."""
        return f"cpu{self.number}"

    @property
    def package(self) -> list[int]:
        """The CPUs of the same node, ascending."""
        return sorted(self.nodes[self.nid].cpus)
