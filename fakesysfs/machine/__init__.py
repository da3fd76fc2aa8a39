"""Machine files: checked, and translated into the kernel's terms.

A machine file is TOML. `load` finds a built-in machine by name, or reads a file, and returns a
`MachineDescription`. A `Kernel` boots with `MachineDescription.setup()`.
"""

from fakesysfs.machine.describe import MachineDescription, builtin, load
from fakesysfs.machine.values import MachineError

__all__ = ["MachineDescription", "MachineError", "builtin", "load"]
