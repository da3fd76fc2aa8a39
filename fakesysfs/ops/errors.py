"""The one error of the kernel layer.

Every refusal in the model is a `KernelError`: the errno that a system call would return, one
sentence that says why, and the kernel function that decides. FUSE, the in-process machine and the
replayer turn it into their own form. Any other exception is a bug of ours.
"""

from __future__ import annotations

import errno as _errno
import os


class KernelError(Exception):
    """A refusal by the modelled kernel.

    `errno` is the positive Linux number, `why` one sentence in the words of the field, `where` the
    kernel function that decides (`"dax_kmem_parse_state"`). `block` is the memory block that
    refused, if one did.
    """

    def __init__(self, errno: int, why: str, where: str, block: int | None = None) -> None:
        self.errno = errno
        self.block = block
        self.why = why
        self.where = where

    @property
    def name(self) -> str:
        """The symbolic name of the errno (`"EBUSY"`), or its number where it has none."""
        return _errno.errorcode.get(self.errno, str(self.errno))

    def __str__(self) -> str:
        return f"{self.name} ({os.strerror(self.errno)}): {self.why} [{self.where}]"
