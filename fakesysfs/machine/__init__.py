"""Machines: what a machine file says, checked and put into the kernel's words.

A machine file is TOML. `load` finds a built-in machine by name or reads a file, `describe.Machine` is its typed form,
and `Machine.setup()` what a `Kernel` boots with.
"""

from fakesysfs.machine.describe import Machine, MachineError, builtin, load

__all__ = ["Machine", "MachineError", "builtin", "load"]
