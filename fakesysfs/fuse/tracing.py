"""A mount that is traced: the handlers tell a `Tracer` of names, attributes and directories.

Opens, reads and writes are told by the open files themselves (`kernfs/file.py:TracedFile`). What the
host answers from its own cache is in no trace.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable, Coroutine
from typing import Any

from pyfuse3 import FUSEError, RequestContext

from fakesysfs.fuse.callers import process_of
from fakesysfs.fuse.handler import handler
from fakesysfs.fuse.operations import Operations
from fakesysfs.kernfs import KernelError, Tree

_NO_NAME = KernelError(errno.ENOENT, "there is no such name", "kernfs_iop_lookup")
_NO_XATTR = KernelError(errno.ENODATA, "this xattr was never set", "kernfs_vfs_xattr_get")


def _tell(tree: Tree, op: str, path: str, ctx: RequestContext, answer: Callable[[], Any], absent: Any = None) -> Any:
    """Run `answer`, which does not wait, as one traced call. `absent` is the answer for a name that is not there."""
    tracer = tree.tracer
    assert tracer is not None
    process, began = process_of(ctx.pid, ctx.uid), tracer.now()
    try:
        result = answer()
    except KernelError as error:
        tracer.did(process, op, path, began, error)
        raise
    except FUSEError as error:
        tracer.did(process, op, path, began, KernelError(error.errno, os.strerror(error.errno), op))
        raise
    tracer.did(process, op, path, began, _NO_NAME if absent is not None and result is absent else 0)
    return result


def _traced(op: str, *, named: bool = False) -> Any:
    """The handler `op`, traced. Its first argument is an inode, or a directory's and a name in it."""
    method: Callable[..., Any] = getattr(Operations, op).__wrapped__

    @handler
    @functools.wraps(method)
    def answer(self: TracingOperations, *args: Any) -> Any:
        path = self.path_of(args[0], args[1] if named else None)
        return _tell(self.tree, op, path, args[-1], lambda: method(self, *args), self.absent)

    return answer


class TracingOperations(Operations):
    """The handlers of a mount whose tree has a tracer."""

    lookup = _traced("lookup", named=True)
    getattr = _traced("getattr")
    setattr = _traced("setattr")
    readlink = _traced("readlink")
    setxattr = _traced("setxattr")
    listxattr = _traced("listxattr")
    removexattr = _traced("removexattr")
    opendir = _traced("opendir")
    symlink = _traced("symlink", named=True)
    mkdir = _traced("mkdir", named=True)
    unlink = _traced("unlink", named=True)
    rmdir = _traced("rmdir", named=True)
    rename = _traced("rename", named=True)
    create = _traced("create", named=True)

    def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> Coroutine[Any, Any, bytes]:
        """See Operations."""
        return self._getxattr_told(inode, name, ctx)

    @handler
    def _getxattr_told(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        def answer() -> bytes:
            if self._tree.lacks_xattr(inode, name):
                raise _NO_XATTR
            return self._tree.getxattr(inode, os.fsdecode(name))

        value: bytes = _tell(self._tree, "getxattr", self.path_of(inode), ctx, answer)
        return value

    @property
    def tree(self) -> Tree:
        """The name space."""
        return self._tree

    @property
    def absent(self) -> Any:
        """The answer for a name that is not there."""
        return self._absent

    def path_of(self, inode: int, name: bytes | None = None) -> str:
        """The path of an inode, or of a name in its directory."""
        path = self._tree.path_of(inode)
        return path if name is None else f"{path.rstrip('/')}/{os.fsdecode(name)}"
