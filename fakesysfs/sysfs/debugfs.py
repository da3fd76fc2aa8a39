"""/sys/kernel/debug: what notifier-error-inject shows there (lib/notifier-error-inject.c).

Files of debugfs are not kernfs's: `error` is a simple attribute (fs/libfs.c, DEFINE_SIMPLE_ATTRIBUTE_SIGNED). It has
size 0 and no position, its text is made at the first read of an open file, and a write of nothing reaches it: recording
7.2/16-notifier-error-inject (i=7 to 110). By the source, an open file whose directory was removed answers EIO
(fs/debugfs/file.c, debugfs_file_get), and the first 23 bytes of a longer write count (simple_attr_write).

Differs knowingly: readdir gives kernfs's order here too, debugfs shows the newest name first; through a mount a write
of nothing never leaves the host's kernel, and an injected errno without a name on the host arrives as EIO.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from fakesysfs.kernel.kstrtox import kstrtoll
from fakesysfs.kernfs.declare import Attribute, DirectoryKind, Entry, Group, Kobject, Subdirectories

if TYPE_CHECKING:
    from fakesysfs.kernel.kernel import Kernel
    from fakesysfs.kernel.notifier_error_inject import NotifierErrInject, NotifierErrInjectAction, NotifierErrInjectDir

PATH = "/sys/kernel/debug"

_SET_BUF = 24
"""Size of struct simple_attr's buffer: of a longer write its first 23 bytes count, and all of it is taken."""


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


ENTRIES: tuple[Entry, ...] = (Subdirectories(of=_top, doc="What loaded modules show in debugfs."),)

NOTIFIER_ERROR_INJECT = DirectoryKind(
    "notifier-error-inject",
    lambda _directory: f"{PATH}/notifier-error-inject",
    (Subdirectories(of=_injectors, doc="The notifier chains that errors can be injected into, by name."),),
)

NOTIFIER_ERR_INJECT = DirectoryKind(
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

NOTIFIER_ERR_INJECT_ACTION = DirectoryKind(
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
