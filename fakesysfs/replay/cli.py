"""`fakesysfs replay`: play recorded sessions, one line for each and a total."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import select
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fakesysfs.fuse.mount import MountError
from fakesysfs.replay import (
    bash,
    daxctl_versions,
    isolated,
    model_target,
    mount_target,
    player,
    served_model,
    snapshots,
)
from fakesysfs.replay.recipes import recipe
from fakesysfs.replay.recording import (
    INFORMATIVE,
    RecordingError,
    Session,
    Snapshot,
    default_places,
    find,
    load,
    machine_facts,
)
from fakesysfs.replay.report import Kind, Report, Verdict, by_kernel, groups, not_compared, total
from fakesysfs.replay.target import NotSupportedError, Target

_WRONG_USE = 2
_PIPE_SIZE = 65536


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 if every operation was reproduced, 1 if not, 2 for a wrong use."""
    arguments = _parser().parse_args(argv)
    places = arguments.place or default_places(Path.cwd()) or default_places(Path(__file__).resolve())
    if not places:
        return _wrong_use(
            "no recordings here (neither tests/sessions nor tests/recordings): name a directory or a file"
        )
    try:
        recordings = [load(path) for path in find(places)]
        for path in {recording.path.parent: recording.path for recording in recordings}.values():
            machine_facts(path)  # while a wrong one can still be reported as wrong use
    except RecordingError as error:
        return _wrong_use(str(error))
    if arguments.kernel:
        recordings = [recording for recording in recordings if recording.header["profile"] in arguments.kernel]
    reports = []
    began = time.monotonic()
    for report in _replay_all(recordings, arguments.on, arguments.jobs):
        reports.append(report)
        print(report.summary(), flush=True)  # noqa: T201  what a command does
        if arguments.verbose:
            for line in report.details():
                print(line)  # noqa: T201  see above
    if arguments.verbose:
        for line in [*groups(reports), *by_kernel(reports), f"  in {time.monotonic() - began:.0f} seconds"]:
            print(line)  # noqa: T201  see above
    for line in [*not_compared(reports), total(reports)]:
        print(line)  # noqa: T201  see above
    return 0 if reports and all(report.count(Kind.MISMATCH) == 0 for report in reports) else 1


def _wrong_use(text: str) -> int:
    print(f"fakesysfs replay: {text}", file=sys.stderr)  # noqa: T201  see main
    return _WRONG_USE


def replay(recording: Session | Snapshot, on: str = "model") -> Report:
    """Play one session or snapshot on a machine of its own.

    A session that runs commands has a mount also on the model, where one can be had: the real bash and the real tools
    act on the model that the session is played on. Elsewhere the little shell does what it can.
    """
    way = recipe(recording.header) if isinstance(recording, Snapshot) else None
    variant = recording.header["variant"] if isinstance(recording, Session) else way.variant if way else "default"
    profile = recording.header["profile"]

    def play(target: Target) -> Report:
        try:
            if isinstance(recording, Snapshot):
                return snapshots.play(recording, way, target)
            return player.play(recording, target, machine_facts(recording.path))
        finally:
            target.end()

    try:
        if on == "mount":
            as_root = os.geteuid() == 0
            return _with_log(
                *isolated.in_namespaces(lambda: mount_target.play_on(profile, variant, play, as_root=as_root))
            )
        if isinstance(recording, Session) and bash.is_needed(recording.operations) and isolated.why_not() is None:
            return _with_log(*isolated.in_namespaces(lambda: served_model.play_on(profile, variant, play)))
        return play(model_target.ModelTarget(model_target.boot(profile, variant)))
    except (NotSupportedError, MountError, isolated.PlayError) as error:
        return _nothing(recording, str(error))
    except Exception as error:  # noqa: BLE001  a bug of the model is a finding, not the end of the report
        return _nothing(recording, f"the machine does not boot: {type(error).__name__}: {error}")


_LOGGED = re.compile(r"errno \d+ exists on no host: answered EIO$")
"""What the server says of the operations that are known not to be reachable."""


def _with_log(report: Report, entries: list[str]) -> Report:
    """What the server logs is a bug of the server."""
    for entry in entries:
        first, *rest = entry.splitlines()
        if not _LOGGED.search(first):
            report.add("log", first, Verdict(Kind.MISMATCH, "the server logged this", tuple(rest)))
    return report


def _replay_all(recordings: Sequence[Session | Snapshot], on: str, jobs: int) -> Iterator[Report]:
    """The reports in the order of the recordings; `jobs` of them are made at once, each in a process of its own."""
    if jobs == 1:
        yield from (replay(recording, on) for recording in recordings)
        return
    _import_for_all(on)
    waiting = list(enumerate(recordings))
    at_work: dict[int, tuple[int, int, bytearray]] = {}
    reports: dict[int, Report] = {}
    shown = 0
    while shown < len(recordings):
        while waiting and len(at_work) < jobs:
            number, recording = waiting.pop(0)
            child, reader = isolated.in_process(lambda recording=recording: replay(recording, on))  # type: ignore[misc]
            at_work[reader] = number, child, bytearray()
        for reader in select.select(list(at_work), [], [])[0]:
            number, child, answer = at_work[reader]
            if part := os.read(reader, _PIPE_SIZE):
                answer += part
                continue
            os.close(reader)
            os.waitpid(child, 0)
            del at_work[reader]
            reports[number] = _report(recordings[number], bytes(answer))
        while shown in reports:
            yield reports.pop(shown)
            shown += 1


def _report(recording: Session | Snapshot, answer: bytes) -> Report:
    try:
        report = isolated.result_of(answer)
    except isolated.PlayError as error:
        return _nothing(recording, str(error))
    assert isinstance(report, Report)
    return report


def _import_for_all(on: str) -> None:
    """What all children need is imported, looked up and tried once, before the first of them is forked."""
    daxctl_versions.installed()
    if on == "mount" or isolated.why_not() is None:
        importlib.import_module("fakesysfs.fuse.session")


def _nothing(recording: Session | Snapshot, reason: str) -> Report:
    """A report in which every operation failed for one reason."""
    report = Report(recording.name)
    for place, what in counted(recording):
        report.add(place, what, Verdict(Kind.MISMATCH, reason))
    return report


def counted(recording: Session | Snapshot) -> Iterator[tuple[str, str]]:
    """All operations of a session, or paths of a snapshot, that can count: the place and what it is."""
    if isinstance(recording, Snapshot):
        for path, entry in recording.entries.items():
            if snapshots.is_compared(path):
                yield path, entry.get("type", "absent")
    else:
        for number, operation in enumerate(recording.operations, 1):
            if operation["op"] not in INFORMATIVE:
                yield f"i={number}", player.describe(operation)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fakesysfs replay",
        description="Replay recorded sessions of real kernels and compare every answer.",
        epilog="example: fakesysfs replay -v --kernel 7.2 tests/recordings",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="list every operation that was not reproduced")
    parser.add_argument("--on", choices=("model", "mount"), default="model", help="what to replay on (default: model)")
    parser.add_argument(
        "-j",
        "--jobs",
        type=int,
        metavar="N",
        default=2 * (os.cpu_count() or 1),
        help="sessions at once; they wait a lot (default: %(default)s)",
    )
    parser.add_argument(
        "--kernel", action="append", metavar="PROFILE", help="only recordings of this kernel; may be repeated"
    )
    parser.add_argument(
        "place", nargs="*", type=Path, metavar="DIR_OR_FILE", help="default: tests/sessions and tests/recordings"
    )
    return parser
