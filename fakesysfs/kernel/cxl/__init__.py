"""CXL: drivers/cxl, one module for each source file of the kernel.

`acpi` finds windows and host bridges, `pci` the memory devices, `mem` puts each below its port, `port` makes a port's
decoders. `core` has the ports, decoders, memory devices and regions themselves.
"""
