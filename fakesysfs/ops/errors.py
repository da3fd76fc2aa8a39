"""The one error of the kernel layer.

Every refusal in the model is a `KernelError`: the errno of the system call, one sentence with the
reason, and the kernel function that decides. FUSE, the in-process machine and the replayer
translate it into their own forms. Any other exception is a bug in fakesysfs.
"""

from __future__ import annotations

import errno as _errno
import os

EHWPOISON = 133
"""Memory page has hardware error. Python's errno lacks it before 3.14."""

NAMES = {**_errno.errorcode, EHWPOISON: "EHWPOISON"}
"""The symbolic names of all errnos that Linux has."""


class KernelError(Exception):
    """A refusal by the modelled kernel.

    `errno` is the positive Linux number, `why` one sentence, `where` the kernel function that
    decides (`"dax_kmem_parse_state"`). `block` is the number of the memory block that refused, if
    one did.
    """

    def __init__(self, errno: int, why: str, where: str, block: int | None = None) -> None:
        self.errno = errno
        self.block = block
        self.why = why
        self.where = where

    @property
    def name(self) -> str:
        """The symbolic name of the errno (`"EBUSY"`), or its number if it has no name."""
        return NAMES.get(self.errno, str(self.errno))

    def __str__(self) -> str:
        return f"{self.name} ({os.strerror(self.errno)}): {self.why} [{self.where}]"
