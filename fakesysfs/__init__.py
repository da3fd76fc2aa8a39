"""A Linux machine's memory-hotplug sysfs that can be mounted anywhere."""

__version__ = "1.3.0"
