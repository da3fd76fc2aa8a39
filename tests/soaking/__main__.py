"""The soak: rounds of attacks until the time is up, then a table. Exit status 1 for any failure.

This process starts the rounds and touches no mount itself, so that it can say what hangs. All that a round starts ends
up below it (it is a subreaper): what is left of a round is found.
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import os
import resource
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fakesysfs.sandbox import linux
from fakesysfs.testing import CannotMountError, MountedMachine
from tests.soaking import arena as arenas
from tests.soaking import host
from tests.soaking.arena import Arena
from tests.soaking.clients import sixty_four_clients
from tests.soaking.fork import Attack, HangError, attacked
from tests.soaking.fuzz import fuzz
from tests.soaking.kills import kill_rounds
from tests.soaking.plugs import plug_cycles
from tests.soaking.report import Tally, added, failures, table

ATTACKS: dict[str, Attack] = {
    "kill": kill_rounds,
    "clients": sixty_four_clients,
    "plug": plug_cycles,
    "fuzz": fuzz,
}
CYCLES = 8
"""At least so many rounds of each kind."""
LONGEST_ROUND = 10.0
DEADLINE_SECONDS = 180.0


def main() -> int:
    """Attack; returns the exit status."""
    options = _options()
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    faulthandler.enable()
    base = Path(tempfile.mkdtemp(prefix=host.PREFIX))
    _use_only(base)
    _say(f"soak of {options.minutes:g} minutes; again with --seed {options.seed}")
    try:
        failed = _soak(base, options)
    except CannotMountError as error:
        _say(f"soak: {error}")
        failed = True
    finally:
        host.end_all(base)
        shutil.rmtree(base, ignore_errors=True)
    return int(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/soak", description=__doc__)
    parser.add_argument("minutes", nargs="?", type=float, default=3.0, metavar="MINUTES")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="what an earlier soak printed")
    names = ",".join(ATTACKS)
    parser.add_argument("--only", default=names, metavar="KIND,...", help=f"some of {names}")
    parser.add_argument(
        "--deadline",
        type=float,
        default=DEADLINE_SECONDS,
        metavar="SECONDS",
        help="after the end of a round, until the soak says what hangs and ends",
    )
    options = parser.parse_args()
    options.attacks = options.only.split(",")
    if unknown := set(options.attacks) - set(ATTACKS):
        parser.error(f"unknown kind {', '.join(sorted(unknown))}: choose from {names}")
    return options


def _use_only(base: Path) -> None:
    """Let all programs write their files below `base`, and their Python stacks when they are aborted."""
    for name, variable in (("tmp", "TMPDIR"), ("state", "XDG_STATE_HOME")):
        (base / name).mkdir()
        os.environ[variable] = str(base / name)
    os.environ["PYTHONFAULTHANDLER"] = "1"
    tempfile.tempdir = None
    (base / "machine.toml").write_text(arenas.MACHINE)


def _say(text: str) -> None:
    print(text, flush=True)


def _rounds(options: argparse.Namespace) -> Iterator[tuple[int, str, float]]:
    """Until the time is up, and each kind once at least: number of the cycle, kind, seconds."""
    end = time.monotonic() + options.minutes * 60
    share = min(options.minutes * 60 / CYCLES / len(options.attacks), LONGEST_ROUND)
    for cycle in itertools.count():
        for kind in options.attacks:
            left = end - time.monotonic()
            if left <= 0 and cycle:
                return
            yield cycle, kind, max(min(share, left), 0)


def _soak(base: Path, options: argparse.Namespace) -> bool:
    """All rounds, what they counted, and whether anything failed."""
    tallies: list[Tally] = []
    shared = MountedMachine(base / "shared", base / "machine.toml")
    said = ""
    try:
        with shared:
            arena = Arena(base, str(shared.path), int(shared.read("/control/pid")))
            said = _attack(arena, options, tallies)
    except HangError as error:
        tallies.append(_failed("error", str(error)))
    except RuntimeError as error:  # what the server has logged
        tallies.append(_failed("error", str(error)))
    except KeyboardInterrupt:
        _say("interrupted")
    sums = added(tallies)
    _say(f"\n{table(sums.values())}\n{said}")
    for tally in sums.values():
        for line in tally.said:
            _say(f"\n{line}")
    number = failures(sums.values())
    _say(f"\n{number} failures, seed {options.seed}" if number else "\nno failure")
    return number > 0


def _failed(failure: str, text: str) -> Tally:
    tally = Tally("soak")
    tally.fail(failure, text)
    return tally


def _attack(arena: Arena, options: argparse.Namespace, tallies: list[Tally]) -> str:
    """Round after round; returns what is to be said of the server."""
    flatness = arenas.Flatness(arena.server)
    log = arena.base / "shared" / "server.log"
    logged = 0
    for cycle, kind, duration in _rounds(options):
        seed = f"{options.seed}/{cycle}/{kind}"
        found = attacked(ATTACKS[kind], arena, seed, duration, options.deadline)
        if not Path(f"/proc/{arena.server}").exists():
            found.append(_failed("error", f"the server has ended in {seed}"))
        elif kind == options.attacks[-1]:
            found += [_failed("leak", f"after {seed}: {text}") for text in flatness.look(cycle)]
        if not host.wait_until(lambda: not host.remaining({arena.server})):
            left = "\n".join(map(host.describe, host.remaining({arena.server})))
            found.append(_failed("leak", f"processes after {seed}:\n{left}"))
        if log.stat().st_size > logged:
            found.append(_failed("error", f"the server's log after {seed}:\n{log.read_text()[logged:]}"))
            logged = log.stat().st_size
        tallies += found
        operations = sum(tally.operations for tally in found)
        _say(f"{seed}: {operations:,} operations, {failures(found)} failures; server {flatness.now()}")
        if failures(found) and not Path(f"/proc/{arena.server}").exists():
            break
    return flatness.summary()


if __name__ == "__main__":
    sys.exit(main())
