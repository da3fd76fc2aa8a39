"""What programs did through the files: refused system calls, and the trace of writes.

Both are bounded lists of `Call`s. The trace is off until a program writes 1 to control/writes. It
needs the name of the writer's command at each write, and to look that up costs more than most
stores.
"""

from __future__ import annotations

import codecs
import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from fakesysfs.control.transcript import SingleLine, Transcript
from fakesysfs.kernfs.file import CallingProcess
from fakesysfs.kernfs.log import Log
from fakesysfs.ops.errors import KernelError
from fakesysfs.ops.sched import WaitQueue

T = TypeVar("T")

REFUSED_CALLS = 1024
"""Refused calls kept; older ones are dropped and counted."""

TRACED_WRITES = 16384
"""Traced writes kept; older ones are dropped and counted."""

FOLLOWED_LINES = 4096
"""Lines kept for readers of control/calls_new. One who reads slower misses lines."""

DATA_KEPT = 1024
"""Bytes of a write that a call keeps."""

SHOWN_BYTES = 64

codecs.lookup("unicode_escape")  # now: to load it takes a descriptor, and later there may be none


def quoted(data: bytes) -> str:
    """Written bytes on one line, the first SHOWN_BYTES of them; dots stand for the rest."""
    shown = data[:SHOWN_BYTES].decode("latin-1").encode("unicode_escape").decode("ascii")
    return f'"{shown}..."' if len(data) > SHOWN_BYTES else f'"{shown}"'


@dataclass(slots=True)
class Call:
    """One system call on a file. `data` is what a write hands to the store, the first DATA_KEPT bytes; b"" for an open.

    `duration` (seconds) is None until a traced write has ended; then `taken` (bytes) or `error` is
    set.
    """

    seq: int
    time: float
    """Seconds since boot at which a write began or a call was refused."""
    pid: int
    command: str
    uid: int
    op: str
    """`open` or `write`."""
    path: str
    data: bytes
    error: KernelError | None = None
    duration: float | None = None
    taken: int | None = None
    followed: int = -1
    """Its number in control/calls_new; -1 without a reader."""

    def refusal_line(self) -> str:
        """A line of control/refused."""
        return f"{self.pid} {self.command} {self.path} {quoted(self.data)} {self.error}\n"

    def write_line(self) -> str:
        """A line of control/writes; `-` stands for what is not known before the write has ended."""
        took = "-" if self.duration is None else f"{self.duration:.6f}"
        result = "-" if self.taken is None else str(self.taken)
        if self.error is not None:
            result = self.error.name
        return f"{self.time:.6f} {took} {self.pid} {self.command} {self.path} {quoted(self.data)} {result}\n"

    def refusal_json_line(self) -> str:
        """A line of control/refused.jsonl."""
        return json.dumps({**self._request(), **self._refusal()}) + "\n"

    def write_json_line(self) -> str:
        """A line of control/writes.jsonl."""
        return self._json_line(self.seq)

    def followed_json_line(self) -> str:
        """A line of control/calls_new."""
        return self._json_line(self.followed)

    def _json_line(self, seq: int) -> str:
        duration = None if self.duration is None else round(self.duration, 6)
        return (
            json.dumps({**self._request(), "seq": seq, "duration": duration, "result": self.taken, **self._refusal()})
            + "\n"
        )

    def _request(self) -> dict[str, int | float | str]:
        return {
            "seq": self.seq,
            "time": round(self.time, 6),
            "pid": self.pid,
            "comm": self.command,
            "uid": self.uid,
            "op": self.op,
            "path": self.path,
            "data": self.data.decode("utf-8", "surrogateescape"),
        }

    def _refusal(self) -> dict[str, str | None]:
        error = self.error
        if error is None:
            return {"errno": None, "reason": None, "func": None}
        return {"errno": error.name, "reason": error.why, "func": error.where}


class History(Generic[T]):
    """The last entries of a list, and how many there were in all."""

    def __init__(self, capacity: int) -> None:
        self._kept: deque[T] = deque(maxlen=capacity)
        self.count = 0
        """How many there were: the number of the next one. The first has number 0."""

    def add(self, entry: T) -> None:
        """Add one; the oldest goes when the list is full."""
        self._kept.append(entry)
        self.count += 1

    @property
    def dropped(self) -> int:
        """How many are no longer kept: the number of the oldest that is."""
        return self.count - len(self._kept)

    def since(self, number: int) -> Iterator[T]:
        """Those kept with this number or a later one."""
        dropped = self.dropped
        for position in range(max(number - dropped, 0), len(self._kept)):
            yield self._kept[position]


def _without_frames(error: KernelError) -> KernelError:
    """A copy without traceback: its frames would keep the whole request in memory."""
    return KernelError(error.errno, error.why, error.where, error.block)


class CallJournal:
    """The journal of one machine (see `kernfs.Journal`). `seconds` gives the seconds since boot."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._lists_writes = False
        self.readers = 0
        """How many have control/calls_new open."""
        self.followed: History[str] = History(FOLLOWED_LINES)
        """The lines of control/calls_new."""
        self.arrived = WaitQueue()
        """Woken when there is another one."""
        self._followed_calls = 0
        self.refused: History[Call] = History(REFUSED_CALLS)
        self.writes: History[Call] = History(TRACED_WRITES)

    @property
    def traces_writes(self) -> bool:
        """Whether writes are noted: in control/writes, for readers of control/calls_new."""
        return self._lists_writes or self.readers > 0

    @traces_writes.setter
    def traces_writes(self, on: bool) -> None:
        self._lists_writes = on

    def clear(self) -> None:
        """Begin new lists. A log that was made before keeps the old one. The trace goes on."""
        self.refused = History(REFUSED_CALLS)
        self.clear_writes()

    def clear_writes(self) -> None:
        """Begin a new trace."""
        self.writes = History(TRACED_WRITES)

    def refuse(self, caller: CallingProcess, op: str, path: str, data: bytes, error: KernelError) -> None:
        """See Journal."""
        call = self._call(self.refused, caller, op, path, data, error)
        self.refused.add(call)
        if op != "write" and self.readers:
            call.duration = 0.0
            self._follow(call)

    def begin_write(self, caller: CallingProcess, path: str, data: bytes) -> Call:
        """See Journal."""
        call = self._call(self.writes, caller, "write", path, data)
        if self._lists_writes:
            self.writes.add(call)
        if self.readers:
            self._follow(call)
        return call

    def end_write(self, call: Call, outcome: int | KernelError) -> None:
        """See Journal."""
        if isinstance(outcome, KernelError):
            call.error = _without_frames(outcome)
        else:
            call.taken = outcome
        call.duration = max(self._seconds() - call.time, 0.0)
        if call.followed >= 0:
            self._follow(call)

    def _follow(self, call: Call) -> None:
        """A call that begins, or ends, for the readers of control/calls_new."""
        if call.followed < 0:
            call.followed = self._followed_calls
            self._followed_calls += 1
        self.followed.add(call.followed_json_line())
        self.arrived.wake_all()

    def _call(
        self,
        history: History[Call],
        caller: CallingProcess,
        op: str,
        path: str,
        data: bytes,
        error: KernelError | None = None,
    ) -> Call:
        seconds, kept = self._seconds(), data[:DATA_KEPT]
        error = None if error is None else _without_frames(error)
        return Call(history.count, seconds, caller.pid, caller.command, caller.uid, op, path, kept, error)

    def refused_log(self) -> Log:
        """control/refused: pid, command, path, bytes, errno, reason, function. It ends at `clear`."""
        return _log(self.refused, Call.refusal_line, _notice)

    def refused_json(self) -> Log:
        """control/refused.jsonl. It ends at `clear`."""
        return _log(self.refused, Call.refusal_json_line)

    def writes_text(self) -> str:
        """control/writes: seconds since boot, seconds taken, pid, command, path, bytes, result."""
        return _notice(self.writes) + "".join(map(Call.write_line, self.writes.since(0)))

    def writes_json(self) -> str:
        """control/writes.jsonl."""
        return "".join(map(Call.write_json_line, self.writes.since(0)))


def _notice(history: History[Call]) -> str:
    return f"({history.dropped} earlier ones dropped)\n" if history.dropped else ""


def _log(
    history: History[Call], line: Callable[[Call], str], notice: Callable[[History[Call]], str] = lambda _history: ""
) -> Log:
    return Transcript(
        lambda: (history.dropped, history.count),
        lambda number: (SingleLine.of(call.seq, line(call)) for call in history.since(number)),
        lambda: notice(history),
    )
