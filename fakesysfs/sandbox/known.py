"""What a run is known by, to its own processes and to those that look at it from outside."""

HOME = "/dev/.fakesysfs"
"""Where the private files of a run are, for the command (`view.py`)."""

VISIBLE = f"{HOME}/root"
"""Where the command sees the sysroot."""

HOLDS = "fakesysfs-holds"
"""The process name of the init of an explorer's run, whose mount holds the calls of everybody."""
