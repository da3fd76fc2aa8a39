"""The kernel model: dax devices, memory blocks and memory hotplug, without files, FUSE or a clock.

A module models one kernel source file and bears its name. A function that models a kernel function
bears the function's name.

core.py has the services that all parts use: the registry of objects, the log, uevents, locks, the
profile, the configuration. Each part takes the parts that it uses as arguments of its constructor.
kernel.py makes them all (`Kernel`). The file systems that show an object get its `Kernel` by
`kernel.kernel_of`; the model does not.
"""
