"""`fakesysfs record`: act out a script on a real kernel, and write what it answers as a recording.

A script is text, a line for each operation (`parse`), or a recording, whose operations are done
again. The result is a session in the form of tests/recordings/FORMAT.md. Its header says which
kernel booted, how, and by which accelerator.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fakesysfs.lab import guest, images, machines
from fakesysfs.lab.archive import LabError
from fakesysfs.replay import kernel_target, probes
from fakesysfs.replay.changed_files import ChangedFiles
from fakesysfs.replay.normalise import Context, normalise
from fakesysfs.replay.player import MEMTOTAL
from fakesysfs.replay.recording import INFORMATIVE, MEMDEVS, Operation, RecordingError, Session, load
from fakesysfs.replay.target import (
    BlockedError,
    NotRunError,
    NotSupportedError,
    Outcome,
    Process,
    Target,
    errno_name,
)
from fakesysfs.testing.tasks import Signal

_WRONG_USE = 2
_FORMAT = 1
CXL_DEVICES = "/sys/bus/cxl/devices"


class ScriptError(Exception):
    """A script cannot be read; the text names the line and the reason."""


# Scripts ----------------------------------------------------------------------------------------------------------


def parse(text: str) -> Iterator[Operation]:
    r"""The operations of a script. Words are quoted as in a shell. Raises ScriptError.

    | line | operation |
    |---|---|
    | `# TEXT` | a note |
    | `write PATH TEXT` | write TEXT and a newline, as `echo` does |
    | `bytes PATH 'TEXT'` | write TEXT with escapes such as \0 and \n, and no newline; the quotes keep the backslash |
    | `read PATH`, `stat PATH`, `ls PATH` | the same |
    | `read PATH all` | read to the end, which takes several reads of a long file such as /proc/zoneinfo |
    | `blocks`, `iomem`, `memtotal`, `tiers`, `tainted` | the whole machine |
    | `changes` | stat, ls and read what changed below the CXL devices since the last `changes` |
    | `fixture WHAT [NODE]` | pin, unpin, kernel-allocations |
    | `start ID PATH TEXT` | write in the background |
    | `poll ID`, `signal ID`, `end ID` | look at it, kill it, wait for it |
    | `sh COMMAND` | the rest of the line, in bash |
    """
    started: set[int] = set()
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if line:
            try:
                operation = _parsed(line)
                _check_id(operation, started)
                yield operation
            except (ValueError, IndexError, KeyError) as error:
                raise ScriptError(f"line {number}: {line!r} is no operation ({error})") from None


def _parsed(line: str) -> Operation:
    if line.startswith("#"):
        return {"op": "note", "text": line.lstrip("# ")}
    kind, _, rest = line.partition(" ")
    if kind == "sh" and rest:
        return {"op": "sh", "cmd": rest.strip()}
    if kind == "bytes" and "\\" in _QUOTED.sub("", rest):
        raise ValueError("quote the TEXT: outside quotes a backslash is lost, as in a shell")
    words = shlex.split(rest)
    if len(words) not in _WORDS[kind]:
        raise ValueError(f"{kind} takes {' or '.join(map(str, _WORDS[kind]))} words")
    return _OPERATIONS[kind](*words)


_QUOTED = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*\"""")


def _check_id(operation: Operation, started: set[int]) -> None:
    """Raise ValueError for a background write that has not started, or has ended, or has started already."""
    kind, key = operation["op"], operation.get("id")
    if kind == "async_start":
        if key in started:
            raise ValueError(f"the write {key} has started already: end it first, or take another number")
        started.add(operation["id"])
    elif key is not None and key not in started:
        raise ValueError(f"no write {key} has started: `start {key} PATH TEXT`")
    elif kind == "async_end":
        started.remove(operation["id"])


def written(path: str, data: bytes) -> Operation:
    """A write, as recordings have it."""
    text = data.decode("latin-1")
    return {"op": "write", "path": path, "data": text, "len": len(data), "flags": os.O_WRONLY, "off": None}


def _amount(how: str | None) -> Operation:
    """How much a read reads. Raises ValueError."""
    if how not in {None, "all"}:
        raise ValueError("the second word of read is `all`, or is left out")
    return {"n": None} if how else {}


def _unescaped(text: str) -> bytes:
    """Raises ValueError for an escape of more than a byte."""
    return text.encode().decode("unicode_escape").encode("latin-1")


_OPERATIONS: dict[str, Callable[..., Operation]] = {
    "write": lambda path, text: written(path, f"{text}\n".encode()),
    "bytes": lambda path, text: written(path, _unescaped(text)),
    "read": lambda path, how=None: {"op": "read", "path": path, "off": None} | _amount(how),
    "stat": lambda path: {"op": "stat", "path": path},
    "ls": lambda path: {"op": "ls", "path": path},
    "blocks": lambda: {"op": "blocks", "full": False},
    "iomem": lambda: {"op": "iomem"},
    "memtotal": lambda: {"op": "memtotal"},
    "tiers": lambda: {"op": "tiers"},
    "tainted": lambda: {"op": "tainted"},
    "collect": lambda: {"op": "collect", "text": ""},
    "changes": lambda: {"op": "changes"},
    "fixture": lambda what, node=None: {"op": "fixture", "what": what, "node": None if node is None else int(node)},
    "start": lambda key, path, text: {
        "op": "async_start", "id": int(key), "path": path, "data": repr(written(path, f"{text}\n".encode())["data"]),
        "alarm_s": 0,
    },
    "poll": lambda key: {"op": "async_poll", "id": int(key)},
    "signal": lambda key: {"op": "async_signal", "id": int(key), "sig": "SIGKILL"},
    "end": lambda key: {"op": "async_end", "id": int(key)},
}  # fmt: skip

_WORDS: dict[str, tuple[int, ...]] = {
    "write": (2,), "bytes": (2,), "read": (1, 2), "stat": (1,), "ls": (1,), "fixture": (1, 2), "start": (3,),
    "poll": (1,), "signal": (1,), "end": (1,),
    **dict.fromkeys(("blocks", "iomem", "memtotal", "tiers", "tainted", "collect", "changes"), (0,)),
}  # fmt: skip


# Recording --------------------------------------------------------------------------------------------------------


class Recorder:
    """Acts out operations on a target, and notes the answers."""

    def __init__(self, target: Target, fixed: Collection[str] = ()) -> None:
        """`fixed`: names of files that `changes` leaves out, because they never change."""
        self.target = target
        self._blocks: probes.BlockTable = {}
        self._changes = ChangedFiles(target, fixed)
        self._processes: dict[int, Process] = {}
        self._acts: dict[str, Callable[[Operation], dict[str, Any]]] = {
            "write": self._write, "read": self._read, "stat": self._stat,
            "ls": self._sorted_names,
            "readdir-raw-order": lambda operation: {"names": target.listed(operation["path"])},
            "sh": self._sh, "blocks": self._table,
            "iomem": lambda _: {"lines": normalise("iomem", probes.iomem(target), Context())},
            "memtotal": lambda _: {"kB": probes.memtotal(target)},
            "tiers": lambda _: probes.tiers(target), "tainted": lambda _: {"v": probes.tainted(target)},
            "collect": self._collect, "fixture": self._fixture,
            "async_start": self._start, "async_poll": self._poll, "async_signal": self._signal, "async_end": self._end,
        }  # fmt: skip

    def record(self, operations: Iterable[Operation]) -> Iterator[Operation]:
        """Each operation with its answers, numbered. It is taken once the one before has its answer.

        Raises NotSupportedError for one that cannot be recorded.
        """
        self.target.drain()
        for number, operation in enumerate(self._expanded(operations), 1):
            kind = operation["op"]
            asked = {key: value for key, value in operation.items() if key in _ASKED}
            if kind in INFORMATIVE:
                yield {"op": kind, "i": number, **{key: value for key, value in operation.items() if key != "i"}}
                continue
            act = self._acts.get(kind)
            if act is None:
                raise NotSupportedError(f"operation {number}: {kind} cannot be recorded")
            yield {"op": kind, "i": number, **asked, **act(operation)}

    def _expanded(self, operations: Iterable[Operation]) -> Iterator[Operation]:
        for operation in operations:
            if operation["op"] == "changes":
                yield from self._changes.operations()
            else:
                yield operation

    def _collect(self, _operation: Operation) -> dict[str, Any]:
        self.target.await_quiet()
        return self._drained()

    def _drained(self) -> dict[str, Any]:
        messages = self.target.drain()
        return {
            "dmesg": _without_repetitions(messages.dmesg),
            "uevents": normalise("uevents", messages.uevents, Context()),
        }

    def _write(self, operation: Operation) -> dict[str, Any]:
        data = operation["data"].encode("latin-1")
        outcome = self.target.write_file(operation["path"], data, operation["flags"], operation["off"])
        return _outcome(outcome) | self._drained()

    def _read(self, operation: Operation) -> dict[str, Any]:
        kind, got = self.target.read_result(operation["path"], operation.get("n", 65536), operation["off"])
        return {kind: got.decode("latin-1") if isinstance(got, bytes) else got}

    def _stat(self, operation: Operation) -> dict[str, Any]:
        path = operation["path"]
        try:
            status = self.target.stat(path)
            found: dict[str, Any] = {
                "mode": oct(status.mode), "size": status.size, "uid": status.uid, "gid": status.gid,
                "nlink": status.nlink,
            }  # fmt: skip
            if status.mode & 0o170000 == 0o120000:  # noqa: PLR2004  S_IFLNK
                found["target"] = self.target.readlink(path)
        except OSError as error:
            return {"errno": errno_name(error.errno)}
        return found

    def _sorted_names(self, operation: Operation) -> dict[str, Any]:
        names = self.target.listed(operation["path"])
        return {"names": names and sorted(names)}

    def _sh(self, operation: Operation) -> dict[str, Any]:
        result = self.target.sh(operation["cmd"], operation.get("tool"))
        return {"rc": result.rc, "stdout": result.stdout, "stderr": result.stderr} | self._drained()

    def _table(self, operation: Operation) -> dict[str, Any]:
        found = probes.blocks(self.target)
        full = operation.get("full", False) or not self._blocks
        changed: dict[str, list[str] | None] = {
            number: values for number, values in found.items() if full or self._blocks.get(number) != values
        }
        if not full:
            changed |= dict.fromkeys(self._blocks.keys() - found.keys())
        self._blocks = found
        return {"full": full, "blocks": dict(sorted(changed.items(), key=lambda item: int(item[0])))}

    def _fixture(self, operation: Operation) -> dict[str, Any]:
        self.target.fixture(operation["what"], operation.get("node"))
        return {}

    def _start(self, operation: Operation) -> dict[str, Any]:
        data = ast.literal_eval(operation["data"])
        data = data if isinstance(data, bytes) else data.encode("latin-1")
        self._processes[operation["id"]] = self.target.spawn(operation["path"], data, operation.get("alarm_s", 0))
        return {}

    def _poll(self, operation: Operation) -> dict[str, Any]:
        return {"task": self._processes[operation["id"]].letter}

    def _signal(self, operation: Operation) -> dict[str, Any]:
        self.target.signal(self._processes[operation["id"]], Signal.SIGKILL)
        return {}

    def _end(self, operation: Operation) -> dict[str, Any]:
        process = self._processes[operation["id"]]
        if not self.target.wait(process):
            raise BlockedError(f"the write {operation['id']} does not end: send it a signal first")
        outcome = process.outcome()
        return (_outcome(outcome) | {"exit": -9 if outcome.killed else 0}) | self._drained()


_REPEATED = re.compile(r"<\d>(?:page dumped because: |migrating pfn |do_migrate_range: )")


def _without_repetitions(lines: list[str]) -> list[str]:
    """Log lines as recordings have them: reports of one kind of page once, without its number."""
    kept: list[str] = []
    for line in lines:
        plain = re.sub(r"migrating pfn \w+", "migrating pfn <pfn>", line)
        plain = re.sub(r"do_migrate_range: \d+", "do_migrate_range: <n>", plain)
        if not (_REPEATED.match(plain) and plain in kept):
            kept.append(plain)
    return kept


_ASKED = frozenset(
    {"path", "data", "len", "flags", "off", "n", "cmd", "tool", "full", "what", "node", "id", "alarm_s", "sig", "text"}
)
"""The fields of an operation that say what is done. The others are answers."""


def _outcome(outcome: Outcome) -> dict[str, Any]:
    if outcome.open_errno is not None:
        return {"open_errno": errno_name(outcome.open_errno)}
    if outcome.errno is not None:
        return {"errno": errno_name(outcome.errno)}
    return {} if outcome.killed else {"ret": outcome.ret}


# The command ------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 if all is recorded, 1 if the lab cannot do it, 2 for wrong use."""
    arguments = make_parser().parse_args(argv)
    try:
        operations = _operations(arguments.script)
    except (OSError, ScriptError, RecordingError) as error:
        return _failed(f"{arguments.script}: {error}", _WRONG_USE)
    out: Path = arguments.output or Path(arguments.script.stem + ".recorded.jsonl")
    try:
        _check_writable(out)
    except OSError as error:
        return _failed(f"{out}: {error.strerror}: name another file with -o", _WRONG_USE)
    try:
        image = images.kernel_image(arguments.kernel_image)
        with guest.boot(machines.GUESTS[arguments.machine], image) as booted:
            target = kernel_target.KernelTarget(booted.agent)
            first = header(arguments.script.stem, booted, target)
            lines = [first, *Recorder(target).record(operations)]
            first |= memdevs(target)
    except (LabError, NotSupportedError, NotRunError, BlockedError) as error:
        return _failed(str(error), 1)
    out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    print(f"{out}: {len(lines) - 1} operations on {image}")  # noqa: T201  what a command does
    return 0


def _check_writable(path: Path) -> None:
    """Open a file as it will be written, before a boot that takes minutes. Changes nothing. Raises OSError."""
    new = not path.exists()
    path.open("a").close()
    if new:
        path.unlink()


def header(name: str, booted: guest.Booted, target: Target) -> Operation:
    """The first line of a recording: what booted, how, and with how much memory. `target` is the booted guest."""
    return {
        "op": "header", "format": _FORMAT, "profile": profile(booted.guest, booted.image), "name": name,
        "variant": booted.guest.name, "title": name, "kernel": str(booted.image),
        "cmdline": guest.command_line(booted.guest), "accelerator": booted.accelerator,
        MEMTOTAL: probes.memtotal(target),
    }  # fmt: skip


def memdevs(target: Target) -> dict[str, Any]:
    """Which PCI device became which CXL memory device, for a header: the kernel probes them in any order."""
    names = [name for name in target.listed(CXL_DEVICES) or () if re.fullmatch(r"mem\d+", name)]
    links = {name: target.readlink(f"{CXL_DEVICES}/{name}") for name in names}
    return {MEMDEVS: {name: f"/sys/{link.removeprefix('../../../')}" for name, link in links.items()}} if links else {}


def profile(booted: machines.Guest, image: images.KernelImage) -> str:
    """The name of the kernel in a recording: `7.3-distribution` where nothing is like the small configuration."""
    if booted in machines.CXL_GUESTS:
        return f"{image.series}-cxl"
    return f"{image.series}-distribution" if booted.distribution else image.series


def _operations(script: Path) -> list[Operation]:
    """Raises OSError, ScriptError, RecordingError."""
    if script.suffix == ".jsonl":
        session = load(script)
        if not isinstance(session, Session):
            raise RecordingError("it is a snapshot: name a session or a script")
        return session.operations
    try:
        text = script.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ScriptError(
            "the script is not UTF-8 text: save it as UTF-8, and write other bytes with `bytes`"
        ) from None
    return list(parse(text))


def _failed(text: str, status: int) -> int:
    print(f"fakesysfs record: {text}", file=sys.stderr)  # noqa: T201  what a command does
    return status


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of its arguments."""
    parser = argparse.ArgumentParser(
        prog="fakesysfs record",
        description="""Boots a real kernel in QEMU, acts out a script there, and writes the answers as a recording that
        `fakesysfs replay` compares with the model.""",
        epilog="""A script has a line for each operation: `write PATH TEXT`, `read PATH`, `sh COMMAND`, `blocks`;
        docs/lab.md has them all. Example: fakesysfs record --kernel-image 7.3 unplug.script""",
    )
    parser.add_argument(
        "--kernel-image",
        metavar="SERIES|DIR",
        default=images.SERIES[-1],
        help="the newest kernel of a series in Debian, or a folder /usr/lib/modules/RELEASE (default: %(default)s)",
    )
    parser.add_argument(
        "--machine", choices=sorted(machines.GUESTS), default="distribution", help="the guest (default: %(default)s)"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: SCRIPT.recorded.jsonl, here")
    parser.add_argument("script", type=Path, metavar="SCRIPT", help="a script, or a recording (*.jsonl) to do again")
    return parser
