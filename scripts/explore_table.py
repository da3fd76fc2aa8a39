#!/usr/bin/env python3
"""Fill the table of docs/explore.md: which protocols break each other on which kernel.

Each row is a scenario file of examples/explore/table, each column a kernel that it names. A cell is
one run of `fakesysfs explore`. The results go to docs/data/explore-table.json, cell by cell;
scripts/generate_docs.py writes the table from there.

    .venv/bin/python scripts/explore_table.py                             all cells, about half an hour
    .venv/bin/python scripts/explore_table.py --row 03-daxctl-and-rule --kernel 7.2
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fakesysfs.explore import report
from fakesysfs.explore.messages import step_of
from fakesysfs.explore.scenario import ScenarioFile

ROOT = Path(__file__).resolve().parent.parent
ROWS = ROOT / "examples" / "explore" / "table"
RESULTS = ROOT / "docs" / "data" / "explore-table.json"
KERNELS = ("7.2", "hotplug-v3-as-posted", "hotplug-v3", "7.3")
"""The columns."""

Cell = dict[str, Any]


def rows() -> Iterator[ScenarioFile]:
    """The scenarios of the table. Files with machines lie beside them."""
    for path in sorted(ROWS.glob("[0-9]*.toml")):
        yield ScenarioFile(str(path))


def explore(row: ScenarioFile, kernel: str, seconds: float) -> Cell:
    """Fill one cell; `seconds` ends its search."""
    with tempfile.TemporaryDirectory() as where:
        file = Path(where) / "result.json"
        command = [sys.executable, "-m", "fakesysfs", "explore", "--kernel", kernel, "--seconds", str(seconds)]
        done = subprocess.run(
            [*command, "--json", file, row.path], cwd=where, capture_output=True, text=True, check=False
        )
        if not file.exists():
            raise SystemExit(done.stderr)
        found = json.loads(file.read_text("utf-8"))
    cell: Cell = {key: found[key] for key in ("explored", "failed", "cut", "complete", "preemptions", "seconds")}
    cell |= {"covered": found["covered"], "date": dt.datetime.now(dt.UTC).date().isoformat()}
    cell["orders"] = [_in_short(failure) for failure in _of_each_kind(found["failures"])]
    return cell


def _of_each_kind(failures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first order of each kind: the shortest."""
    kinds = {}
    for failure in failures:
        kinds.setdefault(failure["kind"], failure)
    return list(kinds.values())


def _in_short(failure: dict[str, Any]) -> dict[str, Any]:
    steps = [step_of(step) for step in failure["steps"]]
    schedule = report.schedule_in_short([step.process for step in steps])
    return {"why": failure["why"], "schedule": schedule, "steps": list(report.table(steps))}


def main() -> None:
    """Fill the cells that the options name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="append", help="the name of a scenario file, without .toml; default: all")
    parser.add_argument("--kernel", action="append", choices=KERNELS, help="default: all")
    parser.add_argument("--seconds", type=float, default=170, help="for each cell; default: %(default)s")
    options = parser.parse_args()
    for row in rows():
        for kernel in row.kernels:
            if row.name in (options.row or [row.name]) and kernel in (options.kernel or [kernel]):
                cell = explore(row, kernel, options.seconds)
                said = f"{row.name} on {kernel}: {cell['failed']} of {cell['explored']} fail. {cell['covered']}."
                print(said, flush=True)  # noqa: T201  it is a command
                _keep(row.name, kernel, cell)


def _keep(row: str, kernel: str, cell: Cell) -> None:
    known: dict[str, dict[str, Cell]] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    known.setdefault(row, {})[kernel] = cell
    RESULTS.write_text(json.dumps(_sorted(known), indent=1, ensure_ascii=False) + "\n", "utf-8")


def _sorted(known: dict[str, dict[str, Cell]]) -> dict[str, dict[str, Cell]]:
    """Rows and cells in the order of the table; rows whose scenario is gone are left out."""
    return {
        row.name: {kernel: known[row.name][kernel] for kernel in KERNELS if kernel in known[row.name]}
        for row in rows()
        if row.name in known
    }


if __name__ == "__main__":
    main()
