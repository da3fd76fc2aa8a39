"""For whoever tests a tool for memory hotplug: machines in this process, mounted machines, and what they remember.

    from fakesysfs.testing import Machine

    with Machine(kernel="7.3") as machine:
        machine.write("/sys/bus/dax/devices/dax0.0/state", "unplugged")
        assert machine.uevents[-1].action == "remove"

`docs/testing.md` tells it all, the pytest fixtures (`fakesysfs.pytest_plugin`) too. What `__all__` names is kept
compatible; the modules below are not for users.
"""

from fakesysfs.testing.machine import AsyncRunningMachine, Machine, RunningMachine, StartedWrite, WaitsForeverError
from fakesysfs.testing.mounted import CannotMountError, MountedMachine
from fakesysfs.testing.records import LogMessage, Refusal, Uevent, Write
from fakesysfs.testing.watch import AsyncWatch, Watch

__all__ = [
    "AsyncRunningMachine",
    "AsyncWatch",
    "CannotMountError",
    "LogMessage",
    "Machine",
    "MountedMachine",
    "Refusal",
    "RunningMachine",
    "StartedWrite",
    "Uevent",
    "WaitsForeverError",
    "Watch",
    "Write",
]
