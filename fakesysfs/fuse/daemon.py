"""Into the background: the command returns when its daemon answers, or says why it does not.

The fork comes before trio and pyfuse3 start: neither survives one.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from fakesysfs.fuse.mount import MountError

log = logging.getLogger(__name__)

_LAST_STANDARD_DESCRIPTOR = 2

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_to_standard_error() -> None:
    """Log warnings and worse there."""
    logging.basicConfig(level=logging.WARNING, format=_FORMAT)


def log_file(point: str) -> Path:
    """Where the daemon of the mount at `point` writes warnings and worse; only its user can read it."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111  may fail there
    if not state.startswith("/"):
        return Path(os.devnull)
    return Path(state, "fakesysfs", f"{os.path.realpath(point).strip('/').replace('/', '-')[-200:]}.log")


def in_background(serve: Callable[[Callable[[str], None]], None], log_path: Path) -> str:
    """Run `serve` in a daemon; it calls what it is given with a text once it answers. Returns that text.

    Raises MountError: what `serve` raised, or that it ended.
    """
    _have_standard_descriptors()
    reader, writer = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    child = os.fork()
    if child == 0:
        _become_daemon(serve, reader, writer, log_path)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, "rb") as file:  # noqa: PTH123  a descriptor
        status, _, text = os.fsdecode(file.read()).partition("\n")
    if status == "0":
        return text
    raise MountError(text or f"the server ended at once; see {log_path}", int(status or 1))


def _become_daemon(
    serve: Callable[[Callable[[str], None]], None], reader: int, writer: int, log_path: Path
) -> NoReturn:
    status = 1
    waiting = True

    def tell(number: int, text: str) -> None:
        nonlocal waiting
        if waiting:
            waiting = False
            os.write(writer, os.fsencode(f"{number}\n{text}"))
            os.close(writer)

    try:
        os.close(reader)
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir("/")
        _redirect(log_path)
        log_to_standard_error()
        try:
            serve(lambda text: tell(0, text))
            status = 0
        except MountError as error:
            status = error.status
            tell(status, str(error))
    except BaseException as error:  # noqa: BLE001  nothing may get out of the fork
        log.critical("the server ends: %s", traceback.format_exc())
        tell(status, f"bug: {error!r}; more is in {log_path}")
    finally:
        os._exit(status)


def _have_standard_descriptors() -> None:
    """Whoever called us may have closed some: what is opened next would take their place, and be redirected."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD_DESCRIPTOR:
        pass
    os.close(number)


def _redirect(log_path: Path) -> None:
    """Standard input from nowhere; output and errors to the log, or nowhere where that cannot be written."""
    null = os.open(os.devnull, os.O_RDWR)
    try:
        log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        output = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    except OSError:
        output = null
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
