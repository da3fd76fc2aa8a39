"""Makes handlers of methods: how an answer, or an error, gets to the host."""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from pyfuse3 import FUSEError

from fakesysfs.fuse.memory import Reserve
from fakesysfs.kernfs import KernelError
from fakesysfs.ops.errors import NAMES

log = logging.getLogger(__name__)


class Handlers(Protocol):
    """Whose methods they are."""

    active_handlers: int
    """Handlers that have not returned."""


P = ParamSpec("P")
T = TypeVar("T")
H = TypeVar("H", bound=Handlers)

_ERRNO_LIMIT = 512
_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What a system call says when a limit of this process or of the host is met."""

RESERVE = Reserve()
"""One for the process, which serves one mount."""


def answer_errno(number: int) -> int:
    """An errno that the host accepts and its callers know: EIO for all others, which are logged."""
    if 0 < number < _ERRNO_LIMIT and number in NAMES:
        return number
    log.error("errno %d exists on no host: answered EIO", number)
    return errno.EIO


def _refusal(handler: str, error: Exception, arguments: tuple[Any, ...]) -> FUSEError:
    """What the host is told of an error. Nothing but FUSEError may get out of a handler: others are bugs of ours."""
    if isinstance(error, FUSEError):
        return error
    if isinstance(error, KernelError):
        return FUSEError(answer_errno(error.errno))
    if isinstance(error, MemoryError):
        RESERVE.release()
        log.warning("out of memory: %s answered ENOMEM", handler)
        return FUSEError(errno.ENOMEM)
    if isinstance(error, OSError) and error.errno in _LIMITS:
        log.warning("%s: %s refused", error, handler)
        return FUSEError(error.errno)
    log.error("bug: %s%r answered EIO", handler, arguments, exc_info=error)
    return FUSEError(errno.EIO)


def handler(method: Callable[Concatenate[H, P], T]) -> Callable[Concatenate[H, P], Coroutine[Any, Any, T]]:
    """Make a handler of a method that never waits."""

    @functools.wraps(method)
    async def answer(self: H, /, *args: Any) -> T:  # pyfuse3 names no argument
        try:
            return method(self, *args)  # type: ignore[call-arg]  # the same
        except Exception as error:  # noqa: BLE001  it is answered
            refusal = _refusal(method.__name__, error, args)
        raise refusal

    return answer  # type: ignore[return-value]


def waiting_handler(
    method: Callable[Concatenate[H, P], T | Coroutine[Any, Any, T]],
) -> Callable[Concatenate[H, P], Coroutine[Any, Any, T]]:
    """Make a handler of a method that returns its answer, or a coroutine if it has to wait."""

    @functools.wraps(method)
    async def answer(self: H, /, *args: Any) -> T:
        try:
            result = method(self, *args)  # type: ignore[call-arg]  # the same
            if not isinstance(result, CoroutineType):
                return result  # type: ignore[return-value]
            self.active_handlers += 1
            try:
                return await result  # type: ignore[no-any-return]
            finally:
                self.active_handlers -= 1
        except Exception as error:  # noqa: BLE001  it is answered
            refusal = _refusal(method.__name__, error, args)
        raise refusal

    return answer  # type: ignore[return-value]
