"""The kernel model: what the kernel knows and does about dax devices, memory blocks and memory hotplug.

No files, no bytes of files, no FUSE, no clock. One module per kernel source file it stands for, under that file's name;
functions that stand for a kernel function bear its name. `kernel.Kernel` owns them all.
"""
