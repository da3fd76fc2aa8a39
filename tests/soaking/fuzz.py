"""Fuzz: random bytes, offsets, lengths and machine files. No answer but the kernel's, no traceback."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from fakesysfs import cli, machine
from fakesysfs.ops.errors import NAMES
from tests.soaking.arena import Arena
from tests.soaking.fork import Attack, clients
from tests.soaking.report import Tally

WRITERS = 4
SLEEP_SECONDS = 0.3
"""After which a signal ends an operation that sleeps, as it would in the kernel: a block may be pinned."""
MEMORY_LIMIT = 4 << 30
PROCESS_EVERY = 100
"""Most machine files are checked without a process for each."""

NEVER = {
    *(number for number in errno.errorcode if number in {errno.EIO, errno.ENOSYS, errno.ENOTCONN}),
    *(errno.ECONNABORTED, errno.EACCES, errno.EPERM, errno.EBADF, errno.ETIMEDOUT),
}
"""Errnos that no attribute that its user may write answers."""
MAY_FAIL_WITH_EIO = ("autosuspend_delay_ms", "soft_offline_page")
"""As in the kernel: for a device without runtime PM (drivers/base/power/sysfs.c), for a page that is not online or that
the kernel uses (mm/memory-failure.c). Elsewhere EIO is what the host says for a bug of ours."""
ANSWERS = tuple(set(NAMES) - NEVER)

WAITING = ("_follow", "_new", "_announce", "dev_kmsg")
"""Files whose reader waits for more."""
SLOW = "control/latency"
"""Hours for each block may be asked for there."""
CONSTANT = ("control/machine.toml", "control/kernel", "proc/cmdline", "control/modules/known")

_WORDS = (
    *(b"online", b"offline", b"online_kernel", b"online_movable", b"unplug", b"unplugged", b"0"),
    *(b"1", b"-1", b"dax0.0", b"dax1.0", b"kmem", b"device_dax", b"18446744073709551616", b"0x"),
    *(b"2097152", b"0x400000000-0x40fffffff", b"add", b"memory130", b"\0", b"\n", b" ", b"%s"),
)


class _SleptError(OSError):
    pass


@contextlib.contextmanager
def _reset_is_no_failure() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def _whole(arena: Arena, path: str) -> bytes:
    """The whole file. A reset by the writers beside this, between open and read, kills the open file: read it again."""
    while True:
        try:
            return arena.read(path).encode()
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise


def _files(arena: Arena) -> Iterator[tuple[str, int]]:
    """The attributes of the machine: path, mode."""
    for base, _, names in os.walk(arena.point):
        for name in names:
            path = os.path.join(base, name)
            with contextlib.suppress(OSError):
                mode = os.lstat(path).st_mode
                if stat.S_ISREG(mode):
                    yield os.path.relpath(path, arena.point), mode


def _random_bytes(draw: random.Random) -> bytes:
    way = draw.random()
    if way < 0.5:
        return b"".join(draw.choice(_WORDS) for _ in range(draw.randint(1, 3)))
    if way < 0.7:
        return draw.choice(_WORDS) + b"\n"
    return draw.randbytes(draw.choice((1, 2, 7, 64, 4095, 4096, 4097, 20_000)))


def _interrupt(*_: object) -> None:
    raise _SleptError(errno.EINTR, "slept for long")


@contextlib.contextmanager
def _not_for_long() -> Iterator[None]:
    signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, SLEEP_SECONDS, SLEEP_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answers(path: str) -> tuple[int, ...]:
    return (*ANSWERS, errno.EIO) if path.endswith(MAY_FAIL_WITH_EIO) else ANSWERS


# Attributes -----------------------------------------------------------------------------------------------------------


def writer(paths: Sequence[str]) -> Attack:
    """Random bytes at random offsets, to everything that may be written."""

    def fuzz_writes(arena: Arena, draw: random.Random, until: float) -> list[Tally]:
        tally = Tally("fuzz: write")
        while time.monotonic() < until:
            path, data = draw.choice(paths), _random_bytes(draw)
            offset = draw.choice((0, 0, 0, 1, 4095, 4096, draw.getrandbits(40)))
            what = f"pwrite {data[:64]!r} ({len(data)} bytes) at {offset} to {path}"
            with tally.operation(what, *_answers(path)), _not_for_long():
                written = arena.write(path, data, offset)
                tally.expect(0 <= written <= len(data), f"{what}: {written} were taken")
        return [tally]

    return fuzz_writes


def reader(paths: Sequence[str]) -> Attack:
    """Random offsets and lengths. Of a file that does not change, a piece is that piece of the whole."""

    def fuzz_reads(arena: Arena, draw: random.Random, until: float) -> list[Tally]:
        tally = Tally("fuzz: read")
        whole = {path: _whole(arena, path) for path in CONSTANT}
        while time.monotonic() < until:
            path = draw.choice(CONSTANT if draw.random() < 0.1 else paths)
            size = draw.choice((1, 2, draw.randint(1, 4096), 4096, draw.randint(1, 1 << 20)))
            offset = draw.choice((0, draw.randint(0, 4096), draw.randint(0, 4096), draw.getrandbits(62)))
            what = f"pread of {size} bytes at {offset} of {path}"
            with tally.operation(what, *_answers(path)), _not_for_long():
                data = arena.read_at(path, size, offset)
                tally.expect(len(data) <= size, f"{what}: {len(data)} bytes")
                piece = whole[path][offset : offset + size] if path in whole else data
                tally.expect(data == piece, f"{what}: {data!r}, expected {piece!r}")
        return [tally]

    return fuzz_reads


# Machine files --------------------------------------------------------------------------------------------------------


def _mutated(text: str, draw: random.Random) -> bytes:
    lines = text.splitlines()
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(lines))
        way = draw.randrange(7)
        line = lines[at]
        if way == 0:
            lines.pop(at)
            lines = lines or [""]
        elif way == 1:
            lines.insert(draw.randrange(len(lines)), line)
        elif way == 2:
            value = draw.choice(('"-1"', "-1", "0", "[]", "{}", '"9999P"', "1e400", "nan", "true", '"0"'))
            lines[at] = line.partition("=")[0] + "= " + value
        elif way == 3:
            lines[at] = "".join(draw.choice("0123456789GMTP") if c.isdigit() else c for c in line)
        elif way == 4:
            lines[at], other = lines[draw.randrange(len(lines))], line
            lines[draw.randrange(len(lines))] = other
        elif way == 5:
            cut = draw.randrange(len(line) + 1)
            lines[at] = line[:cut]
        else:
            data = bytearray("\n".join([*lines, ""]).encode())
            for _ in range(draw.randint(1, 3)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            return bytes(data)
    return "\n".join(lines).encode()


def _check_here(path: Path) -> tuple[int, str]:
    """`fakesysfs check` in this process: status, and all that it says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = cli.main(["check", str(path)])
        except BaseException:  # noqa: BLE001  this is what is looked for
            return -1, traceback.format_exc()
    return status, said.getvalue()


def _check_process(path: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "fakesysfs", "check", path],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return done.returncode, done.stdout


def fuzz_machines(arena: Arena, draw: random.Random, until: float) -> list[Tally]:
    """Mutations of the built-in machines: valid, or refused in a sentence."""
    tally = Tally("fuzz: machine file")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    texts = [machine.load(name).text for name in machine.builtin()]
    path = arena.base / "mutated.toml"
    number = 0
    while time.monotonic() < until:
        data = _mutated(draw.choice(texts), draw)
        path.write_bytes(data)
        number += 1
        with tally.operation("check of a machine file"):
            status, said = (_check_here if number % PROCESS_EVERY else _check_process)(path)
        lines = said.count("\n")
        answered = status in {0, 2} and "Traceback" not in said and lines >= 1
        tally.expect(answered, f"check of {data!r}: status {status}, {said}")
    path.unlink(missing_ok=True)
    return [tally]


def fuzz(arena: Arena, draw: random.Random, until: float) -> list[Tally]:
    """All of it beside each other, and the machine boots again afterwards."""
    arena.write("control/reset", "1")
    files = list(_files(arena))
    write = writer([path for path, mode in files if mode & 0o200 and not path.startswith(SLOW)])
    read = reader([path for path, mode in files if mode & 0o400 and not path.endswith(WAITING)])
    attacks = [*[write] * WRITERS, read, read, fuzz_machines]

    def unpin() -> None:
        # A signal that came while a writer waited for a lock does not end its later wait for a pinned page.
        # A reset by a writer, between open and write, kills the open file, and takes the pins with it.
        with _reset_is_no_failure():
            arena.write("control/pages/unpin", "1")

    with clients(attacks, arena, draw, until, unpin) as tallies:
        pass
    arena.write("control/reset", "1")
    sound = Tally("fuzz: write")
    with sound.operation("read after a reset"):
        text = arena.read("sys/bus/dax/devices/dax0.0/hotplug")
        sound.expect(text == "online_movable\n", f"hotplug reads {text!r} after a reset")
    kinds = {tally.kind for tally in tallies}
    return [*tallies, sound, *(Tally(kind, rounds=1) for kind in kinds)]
