"""kernfs: how files that are functions behave, whatever they show.

`declare` is the form of the tables, `tree` finds names and numbers, `file` reads and writes, `listing` lists. The
layers above it (FUSE, the in-process machine, the replayer) use these names and nothing else of the model.
"""

from fakesysfs.kernfs.declare import Place
from fakesysfs.kernfs.file import Caller, OpenFile, Refusals, open_file
from fakesysfs.kernfs.inode import ROOT, Stat
from fakesysfs.kernfs.listing import DirectoryReader
from fakesysfs.kernfs.tree import NameChange, Tree, index_in
from fakesysfs.ops.errors import KernelError

__all__ = [
    "ROOT",
    "Caller",
    "DirectoryReader",
    "KernelError",
    "NameChange",
    "OpenFile",
    "Place",
    "Refusals",
    "Stat",
    "Tree",
    "index_in",
    "open_file",
]
