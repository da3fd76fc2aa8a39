"""What makes a method a handler: how its answer, or its error, gets to the host."""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from types import CoroutineType
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from pyfuse3 import FUSEError

from fakesysfs.fuse.fast.completed import completed
from fakesysfs.fuse.memory import Reserve
from fakesysfs.kernfs import KernelError

log = logging.getLogger(__name__)


class Handlers(Protocol):
    """Whose methods they are."""

    active_handlers: int
    """Handlers that have not returned."""
    maybe_busy: bool
    """Something happened that others may have to do something kobj."""


P = ParamSpec("P")
T = TypeVar("T")
H = TypeVar("H", bound=Handlers)

_ERRNO_LIMIT = 512
_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What a system call says when a limit of this process or of the host is met."""

RESERVE = Reserve()
"""One for the process, which serves one mount."""

_ANSWER = StopIteration()
_GIVEN = completed(_ANSWER)
"""The answer of each handler that need not wait; it is good until the next is given, and is awaited before."""


def answer_errno(number: int) -> int:
    """An errno that the host accepts and its callers know: EIO for all others, which are logged."""
    if 0 < number < _ERRNO_LIMIT and number in errno.errorcode:
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


def at_once(
    method: Callable[Concatenate[H, P], T],
) -> Callable[Concatenate[H, P], Coroutine[Any, Any, T]]:
    """A handler that never waits: a plain function, which is cheaper."""

    @functools.wraps(method)
    def handler(self: H, /, *args: Any) -> Awaitable[T]:
        try:
            _ANSWER.value = method(self, *args)  # type: ignore[call-arg]  # the same
            return _GIVEN  # noqa: TRY300  it is made within
        except Exception as error:  # noqa: BLE001  it is answered
            refusal = _refusal(method.__name__, error, args)
        raise refusal

    return handler  # type: ignore[return-value]  # pyfuse3 names no argument, and awaits what it gets


def maybe_waiting(
    method: Callable[Concatenate[H, P], T | Coroutine[Any, Any, T]],
) -> Callable[Concatenate[H, P], Coroutine[Any, Any, T]]:
    """A handler that may have to wait: it gives its answer, or a coroutine for it."""

    @functools.wraps(method)
    def handler(self: H, /, *args: Any) -> Awaitable[T]:
        try:
            answer = method(self, *args)  # type: ignore[call-arg]  # the same
            if isinstance(answer, CoroutineType):
                return wait_for(self, answer, args)
            _ANSWER.value = answer
            return _GIVEN  # noqa: TRY300  it is made within
        except Exception as error:  # noqa: BLE001  it is answered
            refusal = _refusal(method.__name__, error, args)
        raise refusal

    async def wait_for(self: H, answer: Coroutine[Any, Any, T], args: tuple[Any, ...]) -> T:
        self.active_handlers += 1
        self.maybe_busy = True
        try:
            return await answer
        except Exception as error:  # noqa: BLE001  it is answered
            refusal = _refusal(method.__name__, error, args)
        finally:
            self.active_handlers -= 1
        raise refusal

    return handler  # type: ignore[return-value]  # pyfuse3 names no argument, and awaits what it gets
