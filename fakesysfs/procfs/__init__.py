"""/proc, as far as the clients of memory hotplug read it.

fs/proc/, kernel/resource.c, mm/vmstat.c, kernel/module/procfs.c.
"""
