"""Into the background: the command returns when its daemon answers, or says why it does not.

The fork comes before trio and pyfuse3 start: neither survives one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from fakesysfs.fuse import limits
from fakesysfs.fuse.descriptors import close_all_but, have_standard_descriptors
from fakesysfs.fuse.log import log_file, open_log
from fakesysfs.fuse.mount import MountError

log = logging.getLogger(__name__)

Serve = Callable[[Callable[[str], None]], None]
"""Serves until the mount ends, and calls what it is given with a text once it answers."""

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def log_to_standard_error() -> None:
    """Log warnings and worse there."""
    logging.basicConfig(level=logging.WARNING, format=_FORMAT)


def in_background(serve: Serve, point: str, kept: Collection[int] = ()) -> str:
    """Run `serve` in a daemon. Returns the text that `serve` calls back with.

    The daemon keeps the descriptors `kept`, and no others of this process.

    A signal that ends this process ends the daemon first: nothing stays mounted. Raises
    MountError: what `serve` raised, or that it ended.
    """
    have_standard_descriptors()
    log_path, output = _open_log(point)
    reader, writer = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    # A signal must come before there is a daemon, or find it and end it.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        child = os.fork()
    except OSError as error:
        raise MountError(limits.reached(error) or f"cannot start a process: {error.strerror}") from None
    if child == 0:
        _be_daemon(serve, writer, output, log_path, kept)
    os.close(writer)
    os.close(output)
    with _daemon_ends_first(child), open(reader, "rb") as file:  # noqa: PTH123  a descriptor
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        status, _, text = os.fsdecode(file.read()).partition("\n")
    if status == "0":
        return text
    os.waitpid(child, 0)
    see = f"; see {log_path}" if log_path else ""
    raise MountError(text or f"the server ended at once{see}", int(status or 1))


def _open_log(point: str) -> tuple[Path | None, int]:
    with contextlib.suppress(OSError):
        path = log_file(point)
        if path is not None:
            return path, open_log(path)
    return None, os.open(os.devnull, os.O_WRONLY)


@contextlib.contextmanager
def _daemon_ends_first(daemon: int) -> Iterator[None]:
    """When a signal is to end this process meanwhile, end the daemon, then this process."""
    came: list[int] = []

    def end_daemon(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        os.kill(daemon, signal.SIGTERM)

    before = {
        number: signal.signal(number, end_daemon)
        for number in _ENDING
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        os.waitpid(daemon, 0)
        signal.signal(came[0], signal.SIG_DFL)
        os.kill(os.getpid(), came[0])


def _be_daemon(serve: Serve, writer: int, output: int, log_path: Path | None, kept: Collection[int]) -> NoReturn:
    status = 1
    waiting = True

    def tell(number: int, text: str) -> None:
        nonlocal waiting
        if waiting:
            waiting = False
            try:
                os.write(writer, os.fsencode(f"{number}\n{text}"))
            except BrokenPipeError:  # the command was killed: its user does not expect a mount
                os.kill(os.getpid(), signal.SIGTERM)
            os.close(writer)

    try:
        _leave_the_caller(writer, output, kept)
        log_to_standard_error()
        try:
            serve(lambda text: tell(0, text))
            status = 0
        except MountError as error:
            status = error.status
            tell(status, str(error))
        except MemoryError as error:
            tell(status, str(limits.reached(error)))
    except BaseException as error:  # noqa: BLE001  nothing may get out of the fork
        log.critical("the server ends: %s", traceback.format_exc())
        tell(status, f"bug: {error!r}" + (f"; more is in {log_path}" if log_path else ""))
    finally:
        os._exit(status)


def _leave_the_caller(writer: int, output: int, kept: Collection[int]) -> None:
    """Keep nothing of the caller's.

    Not the terminal, the directory or the signal mask, and no file but those in `kept`: it may hold a lock, or be a
    pipe whose reader waits for the end.
    """
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, standard in ((null, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, standard)
    close_all_but({writer, *kept})
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
