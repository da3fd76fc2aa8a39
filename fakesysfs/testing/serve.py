"""The server of a `MountedMachine`: python -m fakesysfs.testing.serve MOUNTPOINT MACHINE KERNEL [TRACE].

It prints "0" once it answers requests; or an exit status, and the reason on the next lines. It ends
with its standard input, and so with the process that started it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from fakesysfs import machine
from fakesysfs.fuse import mount
from fakesysfs.fuse.daemon import log_to_standard_error
from fakesysfs.kernel.profile import UnknownKernelError, find_profile
from fakesysfs.sysroot import Sysroot
from fakesysfs.trace import CannotTraceError, attach, open_target


def main(point: str, name: str, kernel: str, trace: str | None = None) -> int:
    """Serve until standard input ends; returns the exit status."""
    try:
        profile = find_profile(kernel)
        mount.check_limits()
        mount.check_threads()
        mount.check(point)
        loaded = machine.load(name)
        targets = [] if trace is None else [open_target(trace)]
    except (machine.MachineError, UnknownKernelError, CannotTraceError) as error:
        return _refuse(2, str(error))
    except mount.MountError as error:
        return _refuse(error.status, str(error))
    try:
        mount.import_pyfuse3()
    except mount.MountError as error:
        return _refuse(error.status, str(error))
    from fakesysfs.fuse.session import serve  # noqa: PLC0415  slow; errors come first
    from fakesysfs.fuse.uevent_barrier import RemoteUevents  # noqa: PLC0415  the same

    log_to_standard_error()
    sysroot = Sysroot.boot(loaded, profile, uid=os.getuid(), gid=os.getgid(), whole_dev=True)
    if targets:
        attach(sysroot, targets, name, at_once=False)
    uevents = RemoteUevents(sysroot.uevent_readers)
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    try:
        # For those users that a command of root in `run` becomes.
        serve(sysroot, point, allow_other=os.getuid() == 0, ready=lambda: _say("0"), uevents=uevents)
    except mount.MountError as error:
        return _refuse(error.status, str(error))
    return 0


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  to the process that started us


def _refuse(status: int, why: str) -> int:
    _say(f"{status}\n{why}")
    return status


def _end_with_standard_input() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
