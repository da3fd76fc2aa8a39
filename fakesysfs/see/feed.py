"""What happens on a fake, for `fakesysfs watch`: a process that reads its control/ and tells what it sees.

It waits in reads of control/calls_new, uevents_new and kmsg_follow, a thread for each. So nothing is polled, and it
works with a pyfuse3 that does not hear of poll(2). When one of them returns it looks at the whole machine, which takes
some milliseconds, and writes a `Scene` as a JSON line into a pipe.

A process of its own: it may join the namespaces of a run, a server that does not answer stops it and not the screen,
and its end closes its files, so that a mount can go. `fuse.mount.unmount` knows it by its name.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, NoReturn

from fakesysfs.fuse.users import WATCHER
from fakesysfs.sandbox import linux
from fakesysfs.see import memory
from fakesysfs.see.fakes import Place
from fakesysfs.see.memory import BlockRun, Device, MemoryMap

KEPT = 200
"""Entries of each list that are told."""
_TAIL_BYTES = 64 << 10
"""Of control/uevents.jsonl. A whole range of devices may have sent an event each: only the last ones are read."""
_READ_BYTES = 64 << 10


class Scene(NamedTuple):
    """What a machine looks like at a moment."""

    map: MemoryMap
    calls: list[dict[str, Any]]
    """Lines of control/calls_new, one for each call, the last ones."""
    uevents: list[dict[str, Any]]
    """Lines of control/uevents.jsonl, the last ones."""
    log: list[str]
    """Lines of control/kmsg, the last ones."""
    resets: int
    """How often the machine was reset meanwhile."""


def encoded(scene: Scene) -> bytes:
    """A scene as a line."""
    return json.dumps(scene).encode() + b"\n"


def decoded(line: bytes) -> Scene:
    """A scene from its line."""
    (block_size, runs, nodes, devices), *rest = json.loads(line)
    read = MemoryMap(
        block_size,
        tuple(BlockRun(first, last, tuple(of), state, zone) for first, last, of, state, zone in runs),
        tuple(nodes),
        tuple(
            Device(name, driver, node, tuple(map(tuple, blocks)), readable=readable)
            for name, driver, node, blocks, readable in devices
        ),
    )
    return Scene(read, *rest)


class Feed(NamedTuple):
    """The started process: its number, and the pipe on which it writes scenes. The pipe ends with it."""

    pid: int
    pipe: int

    def stop(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.pipe)


def start(place: Place) -> Feed:
    """Start it; this process must have one thread."""
    reader, writer = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        _be_feed(place, writer, parent)
    os.close(writer)
    os.set_blocking(reader, False)
    return Feed(pid, reader)


def _be_feed(place: Place, writer: int, parent: int) -> NoReturn:
    try:
        os.setsid()  # the terminal's signals are for the screen
        linux.unblock_signals()
        linux.set_process_name(WATCHER)
        place.enter()
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
        assert place.control is not None
        _Source(memory.FilesBelow(place.root, place.control), place.control).tell(writer)
    except OSError:
        pass  # the machine or the screen is gone
    except BaseException:  # noqa: BLE001  nothing may get out of the fork
        sys.stderr.write(traceback.format_exc())
    finally:
        os._exit(0)


class _Stream:
    """A file of control/ that a thread reads from."""

    def __init__(self, path: str, heard: SimpleQueue[tuple[_Stream, bytes | None]], *, only_the_end: bool) -> None:
        self._path = path
        self._heard = heard
        self._only_the_end = only_the_end
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        """Tell what comes; at the end of the machine the reason (an errno)."""
        try:
            while data := os.read(self._file, _READ_BYTES):
                if self._only_the_end:
                    # Half a million events may follow. A new reader begins behind them.
                    os.close(self._file)
                    self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                self._heard.put((self, data))
        except OSError:
            pass
        self._heard.put((self, None))

    def close(self) -> None:
        """Its thread has ended."""
        with contextlib.suppress(OSError):
            os.close(self._file)


class _Source:
    """The files of one fake."""

    def __init__(self, files: memory.Files, control: str) -> None:
        self._files = files
        self._control = control
        self._calls: dict[int, dict[str, Any]] = {}
        self._rest = b""
        self._log: deque[str] = deque(maxlen=KEPT)
        self._rest_of_log = b""
        self._resets = 0

    def tell(self, writer: int) -> None:
        """Write scenes until the machine is gone. Raises OSError."""
        while True:
            for scene in self._until_reset():
                _write(writer, encoded(scene))
            self._resets += 1
            self._rest = self._rest_of_log = b""
            self._log.clear()

    def _until_reset(self) -> Iterator[Scene]:
        """Scenes of one boot. Raises OSError when the machine is gone."""
        heard: SimpleQueue[tuple[_Stream, bytes | None]] = SimpleQueue()
        take: dict[_Stream, Callable[[bytes], None]] = {}
        for name, only_the_end, taker in (
            ("uevents_new", True, lambda _data: None),
            ("calls_new", False, self._take_calls),
            ("kmsg_follow", False, self._take_log),
        ):
            take[_Stream(f"{self._control}/{name}", heard, only_the_end=only_the_end)] = taker
        yield self._scene()
        ended = 0
        while not ended:
            arrived = [heard.get()]
            with contextlib.suppress(Empty):
                while True:
                    arrived.append(heard.get_nowait())
            for stream, data in arrived:
                if data is None:
                    ended += 1
                else:
                    take[stream](data)
            if not ended:
                try:
                    scene = self._scene()
                except OSError as error:
                    if error.errno != errno.ENODEV:  # else it was reset meanwhile
                        raise
                else:
                    yield scene
        while ended < len(take):
            ended += heard.get()[1] is None
        for stream in take:
            stream.close()

    def _take_calls(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            call = json.loads(line)
            self._calls[call["seq"]] = call
        while len(self._calls) > KEPT:
            del self._calls[next(iter(self._calls))]

    def _take_log(self, data: bytes) -> None:
        *lines, self._rest_of_log = (self._rest_of_log + data).split(b"\n")
        self._log.extend(line.decode("utf-8", "surrogateescape") for line in lines)

    def _scene(self) -> Scene:
        calls = [self._calls[number] for number in sorted(self._calls)]
        return Scene(memory.read(self._files), calls, self._uevents(), list(self._log), self._resets)

    def _uevents(self) -> list[dict[str, Any]]:
        file = os.open(f"{self._control}/uevents.jsonl", os.O_RDONLY | os.O_CLOEXEC)
        try:
            place = max(os.fstat(file).st_size - _TAIL_BYTES, 0)
            parts = []
            while data := os.pread(file, _READ_BYTES, place):
                parts.append(data)
                place += len(data)
        finally:
            os.close(file)
        found = []
        for line in b"".join(parts).split(b"\n"):
            with contextlib.suppress(ValueError):  # the first one may be cut
                event = json.loads(line)
                found.append({name: event[name] for name in ("seq", "action", "devpath")})
        return found[-KEPT:]


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
