"""For tests of memory hotplug tools: machines in process, mounted machines, all orders of programs.

    from fakesysfs.testing import Machine

    with Machine(kernel="7.3") as machine:
        machine.write("/sys/bus/dax/devices/dax0.0/state", "unplugged")
        assert machine.uevents[-1].action == "remove"

`docs/testing.md` documents all of it and the pytest fixtures (`fakesysfs.pytest_plugin`). The names
in `__all__` stay compatible. The modules below are not for users.
"""

from fakesysfs.explore.order import Step
from fakesysfs.testing.exploration import explore, explore_async
from fakesysfs.testing.explored import Exploration, Failure
from fakesysfs.testing.machine import AsyncRunningMachine, Machine, RunningMachine, StartedWrite, WaitsForeverError
from fakesysfs.testing.mounted import CannotMountError, MountedMachine
from fakesysfs.testing.order_runner import ExploreHandle
from fakesysfs.testing.records import LogMessage, Refusal, Uevent, Write
from fakesysfs.testing.watch import AsyncWatch, Watch

__all__ = [
    "AsyncRunningMachine",
    "AsyncWatch",
    "CannotMountError",
    "Exploration",
    "ExploreHandle",
    "Failure",
    "LogMessage",
    "Machine",
    "MountedMachine",
    "Refusal",
    "RunningMachine",
    "StartedWrite",
    "Step",
    "Uevent",
    "WaitsForeverError",
    "Watch",
    "Write",
    "explore",
    "explore_async",
]
