"""The differential: random operations on the model and on a real kernel. Exit status 1 for any difference.

It has a generator and a shrinker of its own, not Hypothesis's: each attempt takes seconds, because it restores a guest,
and a run goes on after a difference, which it counts but does not shrink a second time.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fakesysfs.lab import images
from fakesysfs.lab.archive import LabError, say
from fakesysfs.lab.images import KernelImage
from fakesysfs.lab.machines import GUESTS
from fakesysfs.replay import record
from fakesysfs.replay.isolated import Child
from tests.differential import compare, draw_cxl
from tests.differential.compare import Compared, DeadError, acts
from tests.differential.draw import Drawer, Step, script
from tests.differential.draw_cxl import CxlDrawer

STEPS = 150
"""Operations of one sequence, at least. Each starts from the state after boot."""
CXL_STEPS = 500
"""The same of a guest with CXL devices, which boots each time."""
ATTEMPTS = 40
"""How often a difference is tried again to find its shortest sequence."""


@dataclass(slots=True)
class Tally:
    """What a run compared."""

    operations: int = 0
    agreed: int = 0
    """Operations of the sequences without a difference."""
    answers: int = 0
    sequences: int = 0
    differing: Counter[str] = field(default_factory=Counter)
    """Signature of a difference -> sequences that had it."""
    dead: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run until the number of operations is reached, or the time is up."""
    arguments = _parser().parse_args(argv)
    try:
        image = images.kernel_image(arguments.kernel)
        tally = differential(arguments, image)
    except LabError as error:
        say(str(error))
        return 1
    return 1 if tally.differing or tally.dead else 0


def differential(arguments: argparse.Namespace, image: KernelImage) -> Tally:
    """The run, with a line for each difference. Raises LabError.

    While a sequence runs on the kernel, other processes draw the next one and compare the last one.
    """
    began = time.monotonic()
    tally = Tally()
    seed = arguments.seed
    say(f"{image}, guest {arguments.machine}, first seed {seed}")
    operations = 0
    drawing = _drawing(seed, arguments, image)
    comparing: tuple[int, Child[Compared]] | None = None
    while operations < arguments.operations and time.monotonic() - began < arguments.minutes * 60:
        steps = drawing.result()
        drawing = _drawing(seed + 1, arguments, image)
        try:
            answers = compare.answers(steps, f"seed-{seed}", arguments.machine, image)
        except DeadError as error:
            tally.dead += 1
            _keep(arguments.output, f"{image.series}-seed-{seed}-dead.script", script(steps))
            say(f"seed {seed}: {error}")
        else:
            operations += acts(steps)
            if comparing is not None:
                _count(*comparing, arguments, image, tally)
            comparing = seed, Child(partial(compare.compared, steps, answers))
        seed += 1
    drawing.kill()
    if comparing is not None:
        _count(*comparing, arguments, image, tally)
    seconds = time.monotonic() - began
    say(
        f"{image}, guest {arguments.machine}, seeds {arguments.seed} to {seed - 1}: {tally.operations} operations, "
        f"{tally.answers} answers compared, {sum(tally.differing.values())} sequences with a difference, "
        f"{tally.dead} guests died; {seconds:.0f} seconds"
    )
    for text, number in tally.differing.most_common():
        say(f"  {number} x {text}")
    if arguments.note is not None:
        note(arguments.note, image, arguments.machine, (arguments.seed, seed - 1), tally)
    return tally


def note(path: Path, image: KernelImage, guest: str, seeds: tuple[int, int], tally: Tally) -> None:
    """Add what a run compared to a JSON file, from which docs/proof.md is written."""
    runs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    run = {
        "kernel": image.series,
        "build": str(image),
        "guest": guest,
        "seeds": seeds,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "operations": tally.operations,
        "agreed": tally.agreed,
        "answers": tally.answers,
        "sequences": tally.sequences,
        "differing": sum(tally.differing.values()),
        "without_answer": tally.dead,
    }
    path.write_text(json.dumps([*runs, run], indent=2) + "\n", encoding="utf-8")


def _drawing(seed: int, arguments: argparse.Namespace, image: KernelImage) -> Child[list[Step]]:
    """A process that draws the sequence of a seed."""
    return Child(partial(drawn, seed, record.profile(GUESTS[arguments.machine], image), arguments.machine))


def drawn(seed: int, profile: str, guest: str) -> list[Step]:
    """The sequence of a seed."""
    chance = random.Random(seed)  # noqa: S311  the seed is printed: a run can be repeated
    if guest in draw_cxl.GUESTS:
        return list(CxlDrawer(chance, profile, guest).steps(CXL_STEPS))
    return list(Drawer(chance, profile, guest).steps(STEPS))


def _count(
    seed: int, comparing: Child[Compared], arguments: argparse.Namespace, image: KernelImage, tally: Tally
) -> None:
    """Count a sequence that has been compared. Its difference is shrunk if it is the first of its kind."""
    name = f"seed-{seed}"
    found = comparing.result()
    tally.operations += found.acts
    tally.answers += found.report.counted
    tally.sequences += 1
    first = found.first
    if first is None:
        tally.agreed += found.acts
        return
    mark = compare.signature(first)
    tally.differing[mark] += 1
    if tally.differing[mark] > 1:
        say(f"seed {seed}: again: {mark}")
        return
    say(f"seed {seed}: {first.place} {first.what}: {'; '.join(first.verdict.differences)}")
    for other in {compare.signature(other): other for other in reversed(found.others)}.values():
        say(f"  and then {other.place} {other.what}: {'; '.join(other.verdict.differences)}")
    if arguments.shrink:
        found = _shrunk(found, name, arguments.machine, image)
    text = script(found.until_first)
    say(f"its shortest sequence ({len(found.until_first)} operations) as a script for `fakesysfs record`:\n{text}")
    stem = f"{image.series}-{arguments.machine}-{name}"
    _keep(arguments.output, f"{stem}.script", text)
    _keep(arguments.output, f"{stem}.jsonl", "".join(json.dumps(line) + "\n" for line in found.lines))


def _shrunk(found: Compared, name: str, variant: str, image: KernelImage) -> Compared:
    """The shortest sequence with the same difference."""
    assert found.first is not None
    wanted = compare.signature(found.first)
    best = found

    def differs(steps: Sequence[Step]) -> bool:
        nonlocal best
        try:
            tried = compare.run(steps, name, variant, image)
        except DeadError:
            return False
        if tried.first is None or compare.signature(tried.first) != wanted:
            return False
        best = tried
        return True

    if differs(found.until_first):
        compare.shortest(found.until_first, differs, ATTEMPTS)
    else:
        say(f"{name}: the difference does not come again: it depends on time")
    return best


def _keep(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tests/lab differential", description="Does random operations on the model and on a real kernel."
    )
    parser.add_argument("--kernel", metavar="SERIES|DIR", default=images.SERIES[-1], help="default: %(default)s")
    parser.add_argument(
        "--machine", choices=sorted(GUESTS), default="distribution", help="the guest (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the first sequence (default: %(default)s)")
    parser.add_argument("--operations", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=60, help="at most so long (default: %(default)s)")
    parser.add_argument(
        "--no-shrink", dest="shrink", action="store_false", help="do not look for the shortest sequence"
    )
    parser.add_argument(
        "--note", type=Path, metavar="FILE", help="add the figures to this JSON file (docs/data/differential.json)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("differential"), metavar="DIR", help="default: %(default)s, here"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
