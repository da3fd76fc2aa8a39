"""`fakesysfs replay`: replay recordings and print one line for each, and a total."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

from fakesysfs.fuse.mount import MountError, check_library
from fakesysfs.kernel.profile import Profile
from fakesysfs.lab.archive import LabError
from fakesysfs.machine import MachineError, builtin
from fakesysfs.machine import load as load_machine
from fakesysfs.replay import (
    bash,
    daxctl_versions,
    isolated,
    kernel_target,
    model_target,
    mount_target,
    player,
    served_model,
    snapshots,
)
from fakesysfs.replay.model_target import MachineAndKernel
from fakesysfs.replay.recipes import Recipe, recipe_of, session_with
from fakesysfs.replay.recording import (
    MEMDEVS,
    Operation,
    RecordingError,
    Session,
    Snapshot,
    default_places,
    find,
    load,
    machine_facts,
)
from fakesysfs.replay.report import Kind, Report, Verdict, by_kernel, groups, not_compared, totals
from fakesysfs.replay.target import NotSupportedError, Target

_WRONG_USE = 2
_NOT_POSSIBLE = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 if every operation was reproduced, 1 if not, 2 for wrong use."""
    arguments = make_parser().parse_args(argv)
    try:
        recordings = _recordings(arguments.place, arguments.kernel)
        machine = _machine_of(arguments)
    except (RecordingError, MachineError) as error:
        return _wrong_use(str(error))
    place = Place(arguments.on, arguments.kernel_image, machine)
    if arguments.note is not None and arguments.on != "kernel":
        return _wrong_use("--note is for --on kernel: it names the build of a real kernel")
    if arguments.kernel_image is not None and arguments.on != "kernel":
        return _wrong_use("--kernel-image needs --on kernel")
    if arguments.on == "mount":
        try:
            check_library()
        except MountError as error:
            _complain(str(error))
            return error.status
    if arguments.on == "mount" and (why := isolated.why_not()) is not None:
        return _wrong_use(f"--on mount needs a mount: {why}")
    reports: list[Report] = []
    began = time.monotonic()
    if arguments.on == "kernel":
        try:
            recordings = _for_kernels(recordings, arguments.kernel_image)
        except (LabError, NotSupportedError) as error:
            return _wrong_use(str(error), _NOT_POSSIBLE)
    jobs = arguments.jobs or (1 if arguments.on == "kernel" else 2 * (os.cpu_count() or 1))
    with (
        contextlib.closing(replay_all(recordings, place, jobs)) as replayed,
        _Progress(len(recordings)) as progress,
    ):
        progress.show(0)
        for report in replayed:
            reports.append(report)
            progress.clear()
            _print([report.summary()])
            if arguments.verbose:
                _print(report.details())
            progress.show(len(reports))
    if arguments.verbose:
        _print([*groups(reports), *by_kernel(reports), f"  in {time.monotonic() - began:.0f} seconds"])
    _print([*not_compared(reports), *totals(reports)])
    if arguments.note is not None:
        _note(arguments.note, reports, arguments.kernel_image)
    return 1 if any(report.count(Kind.MISMATCH) for report in reports) else 0


def _note(path: Path, reports: list[Report], image: str | None) -> None:
    """Write which build of a real kernel agreed, and when. Replaces what the file says of the same build."""
    rows: list[dict[str, object]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    kernels: dict[str, list[Report]] = {}
    for report in reports:
        kernels.setdefault(report.kernel, []).append(report)
    for kernel, its in kernels.items():
        build = str(kernel_target.image_of(kernel, image))
        row: dict[str, object] = {
            "kernel": kernel.removesuffix("-distribution"),
            "recordings": kernel,
            "build": build,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "reproduced": sum(report.reproduced for report in its),
            "counted": sum(report.counted for report in its),
        }
        rows = [other for other in rows if (other["recordings"], other["build"]) != (kernel, build)]
        rows.append(row)
    path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


class _Progress:
    """A line on the terminal, below what is printed: how many recordings are done. Elsewhere nothing."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._on = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.clear()

    def show(self, done: int) -> None:
        self._write(f"{done} of {self._total} recordings replayed")

    def clear(self) -> None:
        self._write("")

    def _write(self, text: str) -> None:
        if self._on:
            sys.stderr.write(f"\r{text}{_CLEAR_TO_END}")
            sys.stderr.flush()


_CLEAR_TO_END = "\x1b[K"
"""Control sequence EL: to the end of the line."""


def _machine_of(arguments: argparse.Namespace) -> str | None:
    """The machine that replaces the recorded one, or None. Raises MachineError."""
    if arguments.machine is None:
        return None
    if arguments.on == "kernel":
        raise MachineError("--machine describes a fake: it cannot be used with --on kernel")
    load_machine(arguments.machine)
    path = Path(arguments.machine)
    return str(arguments.machine) if arguments.machine in builtin() else str(path.resolve())


def _for_kernels(recordings: list[Session | Snapshot], image: str | None) -> list[Session | Snapshot]:
    """The recordings that can be replayed on a packaged kernel, which are then there. Says what is left out.

    Raises LabError.
    """
    kept = [recording for recording in recordings if image or recording.header["profile"] in kernel_target.SERIES]
    left_out = sorted({recording.header["profile"] for recording in recordings} - {r.header["profile"] for r in kept})
    if left_out:
        _print([f"not run: no distribution packages the kernel {' or '.join(left_out)}"])
    if not kept:
        raise LabError("no recording is left to replay on a real kernel")
    for kernel in sorted({kernel_target.image_of(recording.header["profile"], image) for recording in kept}, key=str):
        _print([f"kernel: {kernel}"])
    return kept


def _print(lines: Iterator[str] | list[str]) -> None:
    for line in lines:
        print(line, flush=True)  # noqa: T201  what a command does


def _complain(text: str) -> None:
    print(f"fakesysfs replay: {text}", file=sys.stderr)  # noqa: T201  what a command does


def _wrong_use(text: str, status: int = _WRONG_USE) -> int:
    _complain(text)
    return status


def _recordings(places: list[Path], kernels: list[str] | None) -> list[Session | Snapshot]:
    """Read the recordings, those of `kernels` if given. Raises RecordingError."""
    places = places or default_places(Path.cwd()) or default_places(Path(__file__).resolve())
    if not places:
        raise RecordingError("found neither tests/sessions nor tests/recordings: name a directory or a file")
    recordings = [load(path) for path in find(places)]
    for path in {recording.path.parent: recording.path for recording in recordings}.values():
        machine_facts(path)  # a wrong machine.json is reported before anything is replayed
    known = sorted({recording.header["profile"] for recording in recordings})
    for kernel in kernels or ():
        if kernel not in known:
            raise RecordingError(f"no recording of kernel {kernel!r} (choose from {', '.join(known)})")
    return [recording for recording in recordings if not kernels or recording.header["profile"] in kernels]


class Place(NamedTuple):
    """Where recordings are replayed."""

    on: str = "model"
    """`model`, `mount` or `kernel`."""
    image: str | None = None
    """The real kernel that boots; None is the one of each recording."""
    machine: str | None = None
    """The name or the file of the fake's machine; None is the one of each recording."""
    kernel: Profile | None = None
    """The kernel of the fake on the model; None is the one of each recording."""


HERE = Place()
"""The model, with the machine and the kernel of each recording."""


def replay(recording: Session | Snapshot, place: Place = HERE) -> Report:
    """Replay one session or snapshot on a machine of its own.

    A session that needs a shell has a mount on the model too: bash and the tools act on the same
    model. Without FUSE the session ends where it needs the shell.
    """
    header = recording.header
    if isinstance(recording, Snapshot):
        found = session_with(recording)
        recipe = recipe_of(header) if found is None else Recipe(found.header["variant"], tuple(found.operations))
        if recipe is None:
            return _failed(recording, "no recipe and no session leads to this snapshot")
        variant, operations = recipe.variant, list(recipe.operations)
        header = header | ({} if found is None else found.header)
    else:
        variant, operations = header["variant"], recording.operations
    memdevs = header.get(MEMDEVS, {})
    with tempfile.TemporaryDirectory(prefix="fakesysfs-replay.") as folder:

        def with_numbers(fake: MachineAndKernel) -> MachineAndKernel:
            if not memdevs or place.machine is not None:
                return fake
            machine = model_target.with_memdevs(fake.machine, memdevs, operations, Path(folder))
            return fake._replace(machine=machine)

        return _replay(recording, place, variant, operations, with_numbers)


def _replay(
    recording: Session | Snapshot,
    place: Place,
    variant: str,
    operations: list[Operation],
    with_numbers: Callable[[MachineAndKernel], MachineAndKernel],
) -> Report:
    """Replay the operations on a machine of its own. `with_numbers` gives its CXL devices the recorded numbers."""
    profile = recording.header["profile"]

    def on_target(target: Target) -> Report:
        try:
            if isinstance(recording, Snapshot):
                return snapshots.replay(recording, operations, target)
            return player.replay(recording, target, machine_facts(recording.path))
        finally:
            target.end()

    try:
        if place.on == "kernel":
            return kernel_target.replay_on(profile, variant, on_target, place.image)
        fake = model_target.machine_and_kernel(profile, variant, place.machine)
        fake = with_numbers(fake)
        if place.kernel is not None:
            fake = fake._replace(kernel=place.kernel)
        if place.on == "mount":
            as_root = os.geteuid() == 0
            return _in_namespaces(partial(mount_target.replay_on, fake, on_target, as_root=as_root))
        no_mount = isolated.why_not() if bash.needs_shell(operations) else None
        if bash.needs_shell(operations) and no_mount is None:
            return _in_namespaces(partial(served_model.replay_on, fake, on_target))
        return on_target(model_target.ModelTarget(model_target.boot(fake), no_mount))
    except (NotSupportedError, MountError, LabError, isolated.ChildError) as error:
        return _failed(recording, str(error))
    except Exception as error:  # noqa: BLE001  a bug of the model is a finding, not the end of the report
        return _failed(recording, f"the machine does not boot: {type(error).__name__}: {error}")


_EXPECTED_LOG = re.compile(r"errno \d+ exists on no host: answered EIO$")
"""What the server logs for the operations that a mount cannot show (FORMAT.md)."""


def _in_namespaces(replay_on: Callable[[], tuple[Report, list[str]]]) -> Report:
    """Replay in namespaces. Every other entry in the server's log is a mismatch."""
    report, entries = isolated.in_namespaces(replay_on)
    for entry in entries:
        first, *rest = entry.splitlines()
        if not _EXPECTED_LOG.search(first):
            report.add("log", first, Verdict(Kind.MISMATCH, "the server logged this", tuple(rest)))
    return report


def replay_all(recordings: Sequence[Session | Snapshot], place: Place, jobs: int) -> Generator[Report, None, None]:
    """Replay `jobs` recordings at the same time, each in a child process.

    Yields reports in the given order.
    """
    _prepare_for_children(place.on)
    children = isolated.in_order((partial(replay, recording, place) for recording in recordings), jobs)
    for recording, child in zip(recordings, children, strict=True):
        try:
            yield child.result()
        except isolated.ChildError as error:
            yield _failed(recording, str(error))


def _prepare_for_children(on: str) -> None:
    """Import, look up and try once what every child would otherwise do again."""
    daxctl_versions.installed()
    if on == "mount" or isolated.why_not() is None:
        importlib.import_module("fakesysfs.fuse.session")


def _failed(recording: Session | Snapshot, reason: str) -> Report:
    """A report in which every operation is a mismatch for one reason."""
    report = Report(recording.name, "paths" if isinstance(recording, Snapshot) else "operations")
    for place, what in counted(recording):
        report.add(place, what, Verdict(Kind.MISMATCH, reason))
    return report


def counted(recording: Session | Snapshot) -> Iterator[tuple[str, str]]:
    """The operations of a session, or paths of a snapshot, that can count: place and description."""
    if isinstance(recording, Snapshot):
        for path, entry in recording.entries.items():
            if snapshots.is_compared(path):
                yield path, entry.get("type", "absent")
    else:
        for index, operation in player.compared_operations(recording.operations):
            yield f"i={index + 1}", player.describe(operation)


def _jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def make_parser() -> argparse.ArgumentParser:
    """The parser of `fakesysfs replay`."""
    parser = argparse.ArgumentParser(
        prog="fakesysfs replay",
        description="""Replays recordings of real kernels and compares every answer. Prints a line for each recording
        and the totals. The exit status is 0 if every compared operation was reproduced, 1 if not, 2 for wrong use.""",
        epilog="""Without FUSE a session ends at its first command that needs a shell: the rest is counted as `not run`.
        Example: fakesysfs replay -v --kernel 7.2 tests/recordings""",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print every operation that was not reproduced")
    parser.add_argument(
        "--on",
        choices=("model", "mount", "kernel"),
        default="model",
        help="""model: call the model directly (default); mount: make system calls on a FUSE mount; kernel: boot the
        real kernel in QEMU and make system calls there""",
    )
    parser.add_argument(
        "--kernel-image",
        metavar="SERIES|DIR",
        help="""with --on kernel: boot this kernel for all recordings, the newest of a series in Debian (7.3), or
        that of a folder /usr/lib/modules/RELEASE with its vmlinuz (default: the series of each recording)""",
    )
    parser.add_argument(
        "--note",
        type=Path,
        metavar="FILE",
        help="""with --on kernel: note in this JSON file which build reproduced how much, and when; docs/proof.md is
        written from docs/data/real-kernels.json""",
    )
    parser.add_argument(
        "--machine",
        metavar="NAME|FILE",
        help="""boot this machine for all recordings: a built-in one, or the one that a TOML file describes (default:
        the recorded guest of each recording)""",
    )
    parser.add_argument(
        "-j",
        "--jobs",
        type=_jobs,
        metavar="N",
        help="""replay N recordings at the same time (default: twice the CPUs, because sessions often wait; 1 with
        --on kernel)""",
    )
    parser.add_argument(
        "--kernel", action="append", metavar="PROFILE", help="replay only recordings of this kernel; may be repeated"
    )
    parser.add_argument(
        "place",
        nargs="*",
        type=Path,
        metavar="DIR_OR_FILE",
        help="recordings to replay (default: tests/sessions and tests/recordings)",
    )
    return parser
