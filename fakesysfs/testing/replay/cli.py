"""`fakesysfs replay`: play recorded sessions, one line for each and a total."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from fakesysfs.testing.replay import player, snapshots
from fakesysfs.testing.replay.recipes import recipe
from fakesysfs.testing.replay.recording import (
    INFORMATIVE,
    RecordingError,
    Session,
    Snapshot,
    default_places,
    find,
    load,
    machine_facts,
)
from fakesysfs.testing.replay.report import Kind, Report, Verdict, groups, total
from fakesysfs.testing.replay.target import NotSupportedError, Target

_WRONG_USE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 if every operation was reproduced, 1 if not, 2 for a wrong use."""
    arguments = _parser().parse_args(argv)
    places = arguments.place or default_places(Path.cwd()) or default_places(Path(__file__).resolve())
    if not places:
        return _wrong_use(
            "no recordings here (neither tests/sessions nor tests/recordings): name a directory or a file"
        )
    reports = []
    try:
        for path in find(places):
            recording = load(path)
            if arguments.kernel and recording.header["profile"] not in arguments.kernel:
                continue
            reports.append(replay(recording, arguments.on))
            print(reports[-1].summary(), flush=True)  # noqa: T201  what a command does
            if arguments.verbose:
                for line in reports[-1].details():
                    print(line)  # noqa: T201  see above
    except RecordingError as error:
        return _wrong_use(str(error))
    if arguments.verbose:
        for line in groups(reports):
            print(line)  # noqa: T201  see above
    print(total(reports))  # noqa: T201  see above
    return 0 if reports and all(report.count(Kind.MISMATCH) == 0 for report in reports) else 1


def _wrong_use(text: str) -> int:
    print(f"fakesysfs replay: {text}", file=sys.stderr)  # noqa: T201  see main
    return _WRONG_USE


def replay(recording: Session | Snapshot, on: str = "model") -> Report:
    """Play one session or snapshot on a machine of its own."""
    way = recipe(recording.header) if isinstance(recording, Snapshot) else None
    variant = recording.header["variant"] if isinstance(recording, Session) else way.variant if way else "default"
    try:
        target = _boot(on, recording.header["profile"], variant)
    except NotSupportedError as error:
        return _nothing(recording, error.reason)
    except Exception as error:  # noqa: BLE001  a bug of the model is a finding, not the end of the report
        return _nothing(recording, f"the machine does not boot: {type(error).__name__}: {error}")
    try:
        if isinstance(recording, Snapshot):
            return snapshots.play(recording, way, target)
        return player.play(recording, target, machine_facts(recording.path))
    finally:
        target.end()


def _boot(on: str, profile: str, variant: str) -> Target:
    if on != "model":
        raise NotSupportedError("replaying on a mount is not built yet")
    from fakesysfs.testing.replay import model_target  # noqa: PLC0415  only then is the whole model needed

    return model_target.boot(profile, variant)


def _nothing(recording: Session | Snapshot, reason: str) -> Report:
    """A report in which every operation failed for one reason."""
    report = Report(recording.name)
    for place, what in _counted(recording):
        report.add(place, what, Verdict(Kind.MISMATCH, reason))
    return report


def _counted(recording: Session | Snapshot) -> Iterator[tuple[str, str]]:
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
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="list every operation that was not reproduced")
    parser.add_argument("--on", choices=("model", "mount"), default="model", help="what to replay on (default: model)")
    parser.add_argument(
        "--kernel", action="append", metavar="PROFILE", help="only recordings of this kernel; may be repeated"
    )
    parser.add_argument(
        "place", nargs="*", type=Path, metavar="DIR_OR_FILE", help="default: tests/sessions and tests/recordings"
    )
    return parser
