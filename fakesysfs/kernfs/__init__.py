"""kernfs: how files behave whose contents are functions.

`declare` is the form of the tables, `tree` finds names and inode numbers, `file` reads and writes,
`listing` lists directories. The layers above (FUSE, the in-process machine, the replayer) use these
names and no others of the model.
"""

from fakesysfs.kernfs.declare import Place
from fakesysfs.kernfs.file import Caller, Journal, OpenFile, Process, open_file
from fakesysfs.kernfs.inode import ROOT, Stat
from fakesysfs.kernfs.listing import DirectoryReader, Members, names_in, open_directory
from fakesysfs.kernfs.tree import NameChange, Tree, index_in
from fakesysfs.ops.errors import KernelError

__all__ = [
    "ROOT",
    "Caller",
    "DirectoryReader",
    "Journal",
    "KernelError",
    "Members",
    "NameChange",
    "OpenFile",
    "Place",
    "Process",
    "Stat",
    "Tree",
    "index_in",
    "names_in",
    "open_directory",
    "open_file",
]
