"""A Linux machine's memory-hotplug sysfs that can be mounted anywhere."""

__version__ = "0.1.0"
