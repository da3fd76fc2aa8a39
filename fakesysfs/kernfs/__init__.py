"""kernfs: how files behave whose contents are functions.

`declare` is the form of the tables, `tree` finds names and inode numbers, `file` reads and writes,
`listing` lists directories. The layers above (FUSE, the in-process machine, the replayer) use these
names and no others of the model.
"""

from fakesysfs.kernfs.declare import Place
from fakesysfs.kernfs.file import Caller, CallingProcess, Journal, OpenFile, open_file
from fakesysfs.kernfs.inode import ROOT, Stat
from fakesysfs.kernfs.listing import DirectoryReader, names_in, open_directory
from fakesysfs.kernfs.tree import NameChange, Tree, index_in
from fakesysfs.ops.errors import KernelError

__all__ = [
    "ROOT",
    "Caller",
    "CallingProcess",
    "DirectoryReader",
    "Journal",
    "KernelError",
    "NameChange",
    "OpenFile",
    "Place",
    "Stat",
    "Tree",
    "index_in",
    "names_in",
    "open_directory",
    "open_file",
]
