"""/sys: the face of the kernel model.

One module per area declares its directories as tables (kernfs.declare); `root` puts them together, `changes` says
which names a change in the kernel touches. Nothing is stored here: every `show` asks the kernel's objects.
"""
