"""/sys: the face of the kernel model.

Each module declares the directories of one area as tables (kernfs/declare.py says how). `root` puts
them together; `changes` knows which names a change in the kernel touches. Nothing is stored here:
every `show` asks the kernel's objects.
"""
