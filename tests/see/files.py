"""Where these tests read a machine: one in process."""

from __future__ import annotations

from fakesysfs.see import memory
from fakesysfs.testing import RunningMachine


class FilesOf:
    """The files of a machine in process; without control/ as on a real one."""

    def __init__(self, machine: RunningMachine, *, control: bool = True) -> None:
        self._machine = machine
        self._control = control

    def text(self, path: str) -> str:
        if path.startswith("/control/") and not self._control:
            raise FileNotFoundError(path)
        return self._machine.read(path)

    def names(self, path: str) -> list[str]:
        return self._machine.ls(path)

    def target(self, path: str) -> str:
        return self._machine.readlink(path)


def map_of(machine: RunningMachine, *, control: bool = True) -> memory.MemoryMap:
    return memory.read(FilesOf(machine, control=control))
