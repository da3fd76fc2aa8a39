"""/proc, as far as the clients of memory hotplug read it.

Fs/proc/, kernel/resource.c, mm/vmstat.c, kernel/module/procfs.c.
"""
