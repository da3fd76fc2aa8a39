"""Check that the proof notices each behaviour: change one, and a recording or a test must fail.

    .venv/bin/python scripts/mutation_check.py            # the recordings and tests that tests/mutations.json names
    .venv/bin/python scripts/mutation_check.py --find     # look for one where the file names none, and write the file

What is changed: each field of each kernel's profile, one value at a time. Each normalisation of the
replayer, and each entry of the envelope of a distribution's kernel, is left out. The exit status is
0 if something fails for each of them.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import enum
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fakesysfs.kernel import profile as profiles
from fakesysfs.kernel.profile import (
    DAX_KMEM_UNPLUGGED,
    PROFILES,
    Mmop,
    PolicyCaptured,
    Profile,
    RangeFailure,
    Reservation,
    Reserving,
    Unbind,
)
from fakesysfs.replay import bash, cli, model_target, normalise
from fakesysfs.replay.normalise import ENVELOPE, NORMALISATIONS, Context, Normalisation
from fakesysfs.replay.recording import Session, Snapshot, find, load
from fakesysfs.replay.report import Kind

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "tests" / "mutations.json"
DESCRIPTIVE = frozenset({"name", "title", "evidence"})
"""Fields that no behaviour depends on."""

NORMALISATION = "normalisation"
"""Stands in the table where the kernel's name stands."""

IN_ENVELOPE = "envelope"
"""The same for what may differ on a distribution's kernel. No recording notices it without a guest."""

FIRST_TRIED = 4
"""So many recordings are tried before the tests."""

TESTS = (
    "tests/kernel/test_kmem.py",
    "tests/kernel/test_kmem_attribute.py",
    "tests/kernel/test_memory_tiers.py",
    "tests/kernel/test_memory_failure.py",
    "tests/test_replayer.py",
)
"""The tests of what a profile names, and of the normalisations."""

TESTS_OF_ENVELOPE = ("tests/guests/test_envelope.py::test_an_entry_holds_on_a_distribution_only",)

NOT_A_WORD = "moved"
"""No kernel's attribute reads it."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One changed behaviour. Exactly one of `changed` and `left_out` is set."""

    of: str
    """The kernel, or NORMALISATION."""
    what: str
    changed: Profile | None = None
    left_out: Normalisation | None = None


# The mutations ----------------------------------------------------------------------------------------------------


def mutations() -> Iterator[Mutation]:
    """All mutations, in the order of the table."""
    for name, profile in PROFILES.items():
        for field in Profile.__dataclass_fields__:
            if field in DESCRIPTIVE:
                continue
            for what, value in _other_values(field, getattr(profile, field)):
                if not without_effect(profile, what):
                    yield Mutation(name, what, changed=replace(profile, **{field: value}))
    for entry in NORMALISATIONS:
        yield Mutation(NORMALISATION, f"{entry.name} ({entry.stream})", left_out=entry)
    for entry in ENVELOPE:
        yield Mutation(IN_ENVELOPE, f"{entry.name} ({entry.stream})", left_out=entry)


def _unplugs_at_once(profile: Profile) -> bool:
    return profile.unplug_all_ranges_at_once and profile.reservation is not Reservation.WHILE_PLUGGED


WITHOUT_EFFECT: tuple[tuple[str, Callable[[Profile], bool], str], ...] = (
    ("unplug_", lambda profile: profile.attribute is None, "without the attribute nothing unplugs"),
    (
        "reservation",
        lambda profile: profile.attribute is None,
        "without the attribute memory stays plugged while bound",
    ),
    ("unplug_counts_skipped_ranges", lambda profile: profile.unplug_all_ranges_at_once, "no range is counted"),
    ("reservation: UNTIL", _unplugs_at_once, "what unplugs all ranges at once releases none of them"),
    ("reservation: PROBE", _unplugs_at_once, "what unplugs all ranges at once releases none of them"),
    ("created_offline", lambda profile: profile.policy_captured is not PolicyCaptured.AT_CREATION, "not asked then"),
    (
        "reserving: ALL_FIRST",
        lambda profile: (
            profile.range_failure is RangeFailure.UNDO_ALL and profile.reserving is not Reserving.EACH_BEFORE_ITS_ADD
        ),
        "a range that is not reserved fails the plug",
    ),
    ("leak_", lambda profile: profile.unbind is not Unbind.WARN_UNLESS_OFFLINE, "unbind leaks each range by itself"),
)
"""How the name of a mutation begins, on which kernels it changes nothing, and why."""


def without_effect(profile: Profile, what: str) -> str | None:
    """Why a mutation changes nothing on a kernel, or None."""
    return next((why for begin, holds, why in WITHOUT_EFFECT if what.startswith(begin) and holds(profile)), None)


def _other_values(field: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values that a field could have instead, each with a name."""
    if isinstance(value, bool):
        yield f"{field}: {'no' if value else 'yes'}", not value
    elif isinstance(value, enum.Enum):
        for other in type(value):
            if other is not value:
                yield f"{field}: {other.name}", other
    elif isinstance(value, frozenset):
        for online_type in Mmop:
            without = "without " if online_type in value else "with "
            yield f"{field}: {without}{online_type.name.lower()}", value ^ {online_type}
    elif field == "words_read":
        for state, word in value.items():
            yield f"{field}: {word} of state {state} reads otherwise", MappingProxyType({**value, state: NOT_A_WORD})
    elif isinstance(value, Mapping):
        for word in value:
            yield f"{field}: without {word}", MappingProxyType({w: s for w, s in value.items() if w != word})
        for word, state in ALL_WORDS.items():
            if word not in value and value:
                yield f"{field}: with {word}", MappingProxyType({**value, word: state})
    else:
        for other in ("hotplug", "state", None):
            if other != value:
                yield f"{field}: {other}", other


ALL_WORDS: Mapping[str, int] = {
    "unplug": DAX_KMEM_UNPLUGGED, "unplugged": DAX_KMEM_UNPLUGGED, "offline": Mmop.OFFLINE, "online": Mmop.ONLINE,
    "online_kernel": Mmop.ONLINE_KERNEL, "online_movable": Mmop.ONLINE_MOVABLE,
}  # fmt: skip
"""The words that any kernel's attribute takes or refuses."""


# The check --------------------------------------------------------------------------------------------------------


def recordings() -> list[Session | Snapshot]:
    """All recordings. First those that need no mount, and of these the short ones: their replay takes least."""
    found = [load(path) for path in find([ROOT / "tests" / "sessions", ROOT / "tests" / "recordings"])]
    return sorted(found, key=lambda recording: (_mounts(recording), len(list(cli.counted(recording)))))


def _mounts(recording: Session | Snapshot) -> bool:
    return isinstance(recording, Session) and bash.needs_shell(recording.operations)


def those_of(mutation: Mutation, of_all: list[Session | Snapshot]) -> list[Session | Snapshot]:
    """The recordings that may notice a mutation.

    For a normalisation those whose text it changes, and a few for what only the model's text has. For the envelope
    none of them: it holds where a real kernel answers.
    """
    if mutation.of == IN_ENVELOPE:
        return []
    entry = mutation.left_out
    if entry is not None:
        changed = [recording for recording in of_all if _changes(entry, recording)]
        return [*changed, *(recording for recording in of_all[:FIRST_TRIED] if recording not in changed)]
    return [
        recording
        for recording in of_all
        if model_target.machine_and_kernel(recording.header["profile"], "default").kernel.name == mutation.of
    ]


_WHERE = {
    "dmesg": ("dmesg",), "uevents": ("uevents",), "iomem": ("lines",), "text": ("stdout", "data"), "stderr": ("stderr",)
}  # fmt: skip
"""Stream of a normalisation -> the keys of operations that have it."""


def _changes(entry: Normalisation, recording: Session | Snapshot) -> bool:
    if isinstance(recording, Snapshot):
        return False
    everything = Context(names_freed=True, module_command=True, counters=True, other_build=True)
    values = [operation[key] for operation in recording.operations for key in _WHERE[entry.stream] if key in operation]
    return any(entry.apply(value, everything) != value for value in values)


def first_failing(mutation: Mutation, candidates: list[Session | Snapshot], jobs: int) -> str | None:
    """The name of a recording that a mutated replay does not reproduce, or None."""
    place = cli.Place(kernel=mutation.changed)
    with _left_out(mutation.left_out), contextlib.closing(cli.replay_all(candidates, place, jobs)) as replayed:
        for report in replayed:
            if report.count(Kind.MISMATCH):
                return report.name
    return None


@contextlib.contextmanager
def _left_out(entry: Normalisation | None) -> Iterator[None]:
    """Replay without a normalisation, or an entry of the envelope. Children inherit it."""
    normalise.NORMALISATIONS = tuple(kept for kept in NORMALISATIONS if kept is not entry)
    normalise.ENVELOPE = tuple(kept for kept in ENVELOPE if kept is not entry)
    try:
        yield
    finally:
        normalise.NORMALISATIONS, normalise.ENVELOPE = NORMALISATIONS, ENVELOPE


def failing_test(mutation: Mutation, *tests: str) -> str | None:
    """The first of these tests that fails with the mutation. They run in a process of their own."""
    arguments = ["--mutate", mutation.of, mutation.what, *tests]
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    failed = re.search(r"^FAILED (\S+?::\w+)", done.stdout, re.MULTILINE)
    return failed[1] if failed is not None else None


def run_mutated(of: str, what: str, *tests: str) -> int:
    """Run tests with a mutation in this process. The modules that tests import are not loaded yet."""
    import pytest  # noqa: PLC0415  after the arguments are read

    (mutation,) = [one for one in mutations() if (one.of, one.what) == (of, what)]
    if mutation.changed is not None:
        profiles.PROFILES = MappingProxyType({**PROFILES, of: mutation.changed})
    with _left_out(mutation.left_out):
        imported = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"  # the plugin of this package
        return int(pytest.main(["-q", "-x", "-rf", "-W", imported, "-p", "no:cacheprovider", *tests]))


def check(mutation: Mutation, noticed_by: str, of_all: list[Session | Snapshot]) -> bool:
    """Whether what the table names fails."""
    if noticed_by.startswith("tests/"):
        return failing_test(mutation, noticed_by) is not None
    named = [recording for recording in of_all if recording.name == noticed_by]
    return first_failing(mutation, named, 1) is not None


def search(mutation: Mutation, candidates: list[Session | Snapshot], jobs: int) -> str | None:
    """What notices a mutation: one of the first recordings, a test, or another recording. None if nothing does."""
    if mutation.of == IN_ENVELOPE:
        return failing_test(mutation, *TESTS_OF_ENVELOPE)
    return (
        first_failing(mutation, candidates[:FIRST_TRIED], jobs)
        or failing_test(mutation, *TESTS)
        or first_failing(mutation, candidates[FIRST_TRIED:], jobs)
    )


def table() -> dict[str, dict[str, str | None]]:
    """tests/mutations.json: kernel or NORMALISATION -> mutation -> what fails. null: searched, nothing does."""
    loaded: dict[str, dict[str, str | None]] = json.loads(TABLE.read_text("utf-8")) if TABLE.exists() else {}
    return loaded


def _lines(jobs: int, only: str, *, find_new: bool, trusted: bool) -> Iterator[tuple[Mutation, str | None]]:
    """Each mutation and what fails, None where nothing does."""
    of_all, known = recordings(), table()
    found = collections.Counter(name for rows in known.values() for name in rows.values())
    for mutation in mutations():
        if only not in f"{mutation.of} {mutation.what}":
            continue
        rows = known.get(mutation.of, {})
        noticed_by = rows.get(mutation.what)
        if noticed_by is not None and (trusted or check(mutation, noticed_by, of_all)):
            yield mutation, noticed_by
        elif mutation.what in rows and noticed_by is None:
            yield mutation, None
        else:
            # what noticed other mutations comes first
            candidates = sorted(those_of(mutation, of_all), key=lambda recording: -found[recording.name])
            noticed_by = search(mutation, candidates, jobs) if find_new else None
            found[noticed_by] += 1
            yield mutation, noticed_by


def main() -> int:
    """Run the check. Returns 0 if each mutation is noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--find", action="store_true", help="search all recordings where the table's row does not fail")
    parser.add_argument("--new", action="store_true", help="with --find: trust the rows that the table has")
    parser.add_argument("--only", default="", metavar="TEXT", help="only mutations whose name contains this")
    parser.add_argument("-j", "--jobs", type=int, default=2, metavar="N", help="recordings at the same time")
    parser.add_argument("--mutate", nargs="+", metavar="OF WHAT TEST", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mutate:
        return run_mutated(*options.mutate)
    known, missed = table(), 0
    seen: set[tuple[str, str]] = set()
    for mutation, noticed_by in _lines(options.jobs, options.only, find_new=options.find, trusted=options.new):
        missed += noticed_by is None
        print(f"{mutation.of}: {mutation.what}: {noticed_by or 'NOTHING FAILS'}", flush=True)  # noqa: T201  what a command does
        seen.add((mutation.of, mutation.what))
        if options.find:
            known.setdefault(mutation.of, {})[mutation.what] = noticed_by
            TABLE.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    if not seen:
        parser.error(f"no mutation's name contains {options.only!r}")
    if options.find and not options.only:
        kept = {of: {what: by for what, by in rows.items() if (of, what) in seen} for of, rows in known.items()}
        TABLE.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    last = f"{missed} mutations that nothing notices" if missed else "each mutation is noticed"
    print(last)  # noqa: T201  what a command does
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
