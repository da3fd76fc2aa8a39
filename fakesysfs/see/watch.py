"""`fakesysfs watch`: the screen that follows a fake until q.

It waits for the keyboard, signals, scenes of the feed, and changes of the table of mounts (poll(2) on
/proc/self/mountinfo): it sees a fake go, and one come at the same mountpoint.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn, Self

from rich.console import Console
from rich.text import Text

from fakesysfs.fuse.mount_table import mounted_at
from fakesysfs.see import feed, terminal
from fakesysfs.see.fakes import Place
from fakesysfs.see.feed import Feed, Scene
from fakesysfs.see.scene import draw

_ENTER = "\x1b[?1049h\x1b[?25l"
"""The terminal's other screen, without a cursor (xterm, and all that are like it)."""
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_READ_BYTES = 64 << 10
_MOUNTINFO = "/proc/self/mountinfo"


class NoTerminalError(Exception):
    """Standard input or output is no terminal."""


def watch(place: Place) -> int:
    """Follow the machine at `place` until q; returns the exit status. A signal ends it as usual.

    Raises NoTerminalError, and OSError.
    """
    if not (os.isatty(0) and os.isatty(1)):
        raise NoTerminalError("watch needs a terminal; `fakesysfs map` prints the map once")
    screen = _Screen(place)
    try:
        with _signals() as wakeup, _Terminal() as terminal_taken:
            ended_by = screen.follow(wakeup, terminal_taken)
    finally:
        screen.close()
    if ended_by:
        _end_by(ended_by)
    return 0


class _Screen:
    def __init__(self, place: Place) -> None:
        self._place = place
        self._console = Console(file=sys.stdout, highlight=False)
        self._squares = terminal.has_squares(self._console)
        self._feed: Feed | None = None
        self._rest = b""
        self._scene: Scene | None = None
        self._state = ""
        self._mounts = os.open(_MOUNTINFO, os.O_RDONLY | os.O_CLOEXEC)
        self._device = ""

    def close(self) -> None:
        """End the feed."""
        self._end_feed()
        os.close(self._mounts)

    # What happens -------------------------------------------------------------------------------------------------

    def follow(self, wakeup: int, taken: _Terminal) -> int:
        """Until q, or a signal that ends a program: returns its number."""
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(wakeup, select.POLLIN)
        poll.register(self._mounts, select.POLLPRI)
        self._start_feed(poll)
        self._draw()
        while True:
            changed = False
            for descriptor, _ in poll.poll():
                if descriptor == self._mounts:
                    # Most changes are of other mounts.
                    changed |= self._look_for_mount(poll)
                    continue
                changed = True
                if descriptor == 0:
                    if self._quits():
                        return 0
                elif descriptor == wakeup:
                    for number in os.read(wakeup, _READ_BYTES):
                        if number in _ENDING:
                            return number
                        if number == signal.SIGTSTP:
                            taken.give_back()
                            os.kill(os.getpid(), signal.SIGSTOP)
                            taken.take()
                elif self._feed is not None and descriptor == self._feed.pipe and not self._hear():
                    poll.unregister(descriptor)
                    self._end_feed()
                    self._state = self._why_ended()
            if changed:
                self._draw()

    def _quits(self) -> bool:
        """Whether q was typed, or the terminal is gone."""
        typed = os.read(0, _READ_BYTES)
        return not typed or b"q" in typed or b"Q" in typed

    def _hear(self) -> bool:
        """Take the last of the scenes that came; False at the end."""
        assert self._feed is not None
        while True:
            try:
                data = os.read(self._feed.pipe, _READ_BYTES)
            except BlockingIOError:
                break
            if not data:
                return False
            self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        if lines:
            self._scene = feed.decoded(lines[-1])
            resets = self._scene.resets
            self._state = f"booted again {resets} time{'' if resets == 1 else 's'}" if resets else ""
        return True

    # The feed -----------------------------------------------------------------------------------------------------

    def _start_feed(self, poll: select.poll) -> None:
        self._device = self._mounted()
        self._feed = feed.start(self._place)
        self._rest = b""
        self._state = "reading"
        poll.register(self._feed.pipe, select.POLLIN)

    def _end_feed(self) -> None:
        if self._feed is not None:
            ended, self._feed = self._feed, None
            ended.stop()

    def _mounted(self) -> str:
        """The device of the fake at the mountpoint; "" if there is none, and for a run, which has none."""
        mount = None if self._place.init else mounted_at(self._place.root)
        return mount.device if mount is not None else ""

    def _look_for_mount(self, poll: select.poll) -> bool:
        """The table of mounts has changed; returns whether the mount that is shown has."""
        if self._place.init or self._mounted() == self._device:
            return False
        if self._feed is not None:
            poll.unregister(self._feed.pipe)
            self._end_feed()
        if self._mounted():
            self._start_feed(poll)
        else:
            self._device = ""
            self._state = self._why_ended()
        return True

    def _why_ended(self) -> str:
        if self._place.init:
            return "the run has ended"
        return "unmounted; this goes on when a fake is mounted here again"

    # What is shown ------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        width, height = shutil.get_terminal_size()
        status = f"q: quit  {self._state}"
        if self._scene is None:
            lines = [Text(self._place.name), Text(status)]
        else:
            lines = draw(self._scene, width, height, squares=self._squares, heading=self._place.name, status=status)
        with self._console.capture() as capture:
            for line in lines:
                self._console.print(line, end="\0", no_wrap=True, overflow="crop", crop=False, soft_wrap=True)
        shown = f"{_END_OF_LINE}\r\n".join(capture.get().split("\0")[:-1])
        _write(f"{_HOME}{shown}{_END_OF_LINE}{_END_OF_SCREEN}")


def _write(text: str) -> None:
    data = text.encode("utf-8", "replace")
    with contextlib.suppress(OSError):  # the terminal is gone: its end is heard elsewhere
        while data:
            data = data[os.write(1, data) :]


# The terminal -----------------------------------------------------------------------------------------------------


class _Terminal:
    """Standard input and output as this needs them: keys come one by one and are not shown, the other screen is on."""

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(0)
        self.take()
        return self

    def __exit__(self, *_error: object) -> None:
        self.give_back()

    def take(self) -> None:
        """Change it."""
        tty.setcbreak(0)
        _write(_ENTER)

    def give_back(self) -> None:
        """Make it what it was."""
        _write(_LEAVE)
        with contextlib.suppress(termios.error):  # it is gone
            termios.tcsetattr(0, termios.TCSADRAIN, self._before)


@contextlib.contextmanager
def _signals() -> Iterator[int]:
    """Signals as bytes on a descriptor, each the number of a signal."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    numbers = (*_ENDING, signal.SIGWINCH, signal.SIGTSTP)
    before = {number: signal.signal(number, _ignore) for number in numbers}
    old = signal.set_wakeup_fd(writer)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """The number is on the descriptor."""


def _end_by(number: int) -> NoReturn:
    """End as a program does that does not handle the signal."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)
