"""`fakesysfs run --at PID`: another command in a run that is there, from a second terminal.

The command joins the namespaces of the run's init (setns(2)), which the host's kernel allows to the user who started
the run, and to root. So it sees what the run's command sees, hears the same uevents, and ends with the run.
"""

from __future__ import annotations

import os
import select
import signal
from typing import NoReturn

from fakesysfs.fuse.descriptors import have_standard_descriptors, point_at_null
from fakesysfs.sandbox import linux, refusals, view
from fakesysfs.sandbox.init import NOT_EXECUTABLE, cannot_execute, execute
from fakesysfs.sandbox.launcher import Terminal, end_like, say, stop, working_directory

_KINDS = {
    "user": linux.CLONE_NEWUSER,
    "mnt": linux.CLONE_NEWNS,
    "pid": linux.CLONE_NEWPID,
    "net": linux.CLONE_NEWNET,
}


def _others(pid: int) -> int:
    """The kinds of namespaces in which that process is not with this one."""
    found = 0
    for name, kind in _KINDS.items():
        if os.stat(f"/proc/{pid}/ns/{name}").st_ino != os.stat(f"/proc/self/ns/{name}").st_ino:  # noqa: PTH116
            found |= kind
    return found


def run(command: list[str], pid: int, *, explain: bool = False) -> NoReturn:
    """Run `command` in the run whose init is `pid`, and end as it ends; [] is a shell."""
    have_standard_descriptors()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, linux.all_signals())
    signals = linux.SignalFile(linux.all_signals())
    terminal = Terminal()
    directory = working_directory()
    try:
        linux.join(pid, _others(pid))
    except OSError as error:
        say(f"the run cannot be joined: {error.strerror}; only the user who started it may, and root")
        os._exit(1)
    first = refusals.count() if explain else 0
    child = os.fork()
    if not child:
        _be_command(command, set(mask), directory)
    point_at_null(0, 1)  # the command's pipes must end when it closes them
    status = _wait(child, signals)
    terminal.take_back()
    if explain:
        say(refusals.explanation(refusals.since(first)))
    end_like(status)


def _be_command(command: list[str], mask: set[int], directory: str) -> NoReturn:
    status = NOT_EXECUTABLE
    try:
        try:
            os.chdir(directory or "/")
        except OSError:
            os.chdir("/")  # it is missing in the view
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        # What Python ignores.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        execute(command, view.environment(os.environ))
    except OSError as error:
        status = cannot_execute(command[0] if command else "the shell", error)
    finally:
        os._exit(status)


def _wait(child: int, signals: linux.SignalFile) -> int:
    """Hand signals on until the command ends; returns its status as from waitpid(2)."""
    poll = select.poll()
    poll.register(signals.fileno(), select.POLLIN)
    while True:
        poll.poll()
        for arrived in signals.take():
            if arrived.number == signal.SIGCHLD:
                pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
                if pid and not os.WIFSTOPPED(status):
                    return status
                if pid:
                    stop(os.WSTOPSIG(status))
            # The terminal tells the whole process group, which the command is in.
            elif arrived.code != linux.SI_KERNEL or arrived.number == signal.SIGHUP:
                os.kill(child, arrived.number)
