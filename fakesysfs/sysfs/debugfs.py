"""/sys/kernel/debug: what notifier-error-inject shows there (lib/notifier-error-inject.c).

debugfs is not kernfs. `error` is a simple attribute (fs/libfs.c, DEFINE_SIMPLE_ATTRIBUTE_SIGNED):
it has size 0 and no position, the first read of an open file makes its text, and a write of 0 bytes
reaches its store (recording 7.2/16-notifier-error-inject, i=7 to 110). By the source, an open file
whose directory was removed answers EIO (fs/debugfs/file.c, debugfs_file_get), and of a longer write
the first 23 bytes count (simple_attr_write).

Differs knowingly: readdir gives kernfs's order, where debugfs gives the newest name first. Through
a mount, a write of 0 bytes never leaves the host's kernel, and an injected errno that the host does
not know arrives as EIO.
"""

from __future__ import annotations

import errno

from fakesysfs.kernel.kernel import Kernel
from fakesysfs.kernel.kstrtox import kstrtoll
from fakesysfs.kernel.notifier_error_inject import NotifierErrInject, NotifierErrInjectAction, NotifierErrInjectDir
from fakesysfs.kernfs.declare import Attribute, DirectoryKind, Entry, Group, Kobject, Subdirectories

PATH = "/sys/kernel/debug"

_SET_BUF = 24
"""Bytes in the buffer of struct simple_attr. Of a longer write 23 bytes count; all are taken."""


def _top(kernel: Kernel) -> dict[str, Kobject]:
    directory = kernel.notifier_err_inject_dir
    return {} if directory is None else {"notifier-error-inject": directory}


def _injectors(directory: NotifierErrInjectDir) -> dict[str, NotifierErrInject]:
    return directory.injectors


def _actions(inject: NotifierErrInject) -> dict[str, NotifierErrInjectAction]:
    return inject.actions


def _error_show(action: NotifierErrInjectAction) -> str:
    return f"{action.error}\n"


def _error_store(action: NotifierErrInjectAction, buffer: bytes) -> None:
    action.debugfs_errno_set(kstrtoll(buffer[: _SET_BUF - 1], 0, "simple_attr_write_signed"))


ENTRIES: tuple[Entry[Kernel], ...] = (Subdirectories(of=_top, doc="What loaded modules show in debugfs."),)

NOTIFIER_ERROR_INJECT = DirectoryKind[NotifierErrInjectDir](
    "notifier-error-inject",
    lambda _directory: f"{PATH}/notifier-error-inject",
    (Subdirectories(of=_injectors, doc="The notifier chains that errors can be injected into, by name."),),
)

NOTIFIER_ERR_INJECT = DirectoryKind[NotifierErrInject](
    "notifier-error-inject chain",
    lambda inject: f"{PATH}/notifier-error-inject/{inject.name}",
    (
        Group(
            name="actions",
            entries=(Subdirectories(of=_actions, doc="The events of the chain."),),
            doc="The events that can be refused.",
        ),
    ),
)

NOTIFIER_ERR_INJECT_ACTION = DirectoryKind[NotifierErrInjectAction](
    "notifier-error-inject action",
    lambda action: f"{PATH}/notifier-error-inject/{action.inject.name}/actions/{action.name}",
    (
        Attribute(
            name="error",
            mode=0o600,
            size=0,
            max_store=None,
            seekable=False,
            removed=errno.EIO,
            show=_error_show,
            store=_error_store,
            doc="The errno with which every such event is refused, 0 for none: -4095 to 0, others become the nearest.",
        ),
    ),
)
