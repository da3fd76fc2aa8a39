#!/usr/bin/env python3
"""Fill the table of docs/explore.md: which protocols break each other on which kernel.

Each row is a scenario file of examples/explore/table, each column a kernel that it names. A cell is
two runs of `fakesysfs explore`: over all orders, and over all but for steps that commute. Where the
first one does not end in time, the cell is that of the second one, and says so. The results go to
docs/data/explore-table.json, cell by cell; scripts/generate_docs.py writes the table from there.

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
    """Fill one cell; `seconds` ends each of its searches."""
    found = _search(row, kernel, seconds, "--no-reduction")
    few = _search(row, kernel, seconds)
    if _is_cut_short(found):
        return _cell(few, few)
    return _cell(found, few)


def reduced(row: ScenarioFile, kernel: str, seconds: float, cell: Cell | None) -> Cell:
    """The cell with a new search with the reduction; of a search over all orders what is known of it is kept.

    It is not, if it was within another bound.
    """
    few = _search(row, kernel, seconds)
    if cell is None or cell.get("reduction") or cell["preemptions"] != few["preemptions"]:
        return _cell(few, few)
    return cell | {"reduced": _counts(few)}


def _cell(found: dict[str, Any], few: dict[str, Any]) -> Cell:
    cell = _counts(found)
    cell |= {"preemptions": found["preemptions"], "date": dt.datetime.now(dt.UTC).date().isoformat()}
    cell["reduction"] = found["reduction"]
    cell["orders"] = [_in_short(failure) for failure in _of_each_kind(found["failures"])]
    cell["reduced"] = _counts(few)
    return cell


def _is_cut_short(found: dict[str, Any]) -> bool:
    return str(found["covered"]).startswith("A limit")


def _search(row: ScenarioFile, kernel: str, seconds: float, *options: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as where:
        file = Path(where) / "result.json"
        command = [sys.executable, "-m", "fakesysfs", "explore", "--kernel", kernel, *options]
        command += ["--seconds", str(seconds), "--json", str(file), row.path]
        done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
        if not file.exists():
            raise SystemExit(done.stderr)
        found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


def _counts(found: dict[str, Any]) -> Cell:
    counts = {key: found[key] for key in ("explored", "failed", "cut", "complete", "seconds", "covered")}
    return counts | {"kinds": len({failure["kind"] for failure in found["failures"]})}


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
    parser.add_argument("--seconds", type=float, default=170, help="for each search; default: %(default)s")
    parser.add_argument("--reduced-only", action="store_true", help="run no search over all orders")
    options = parser.parse_args()
    for row in rows():
        for kernel in row.kernels:
            if row.name in (options.row or [row.name]) and kernel in (options.kernel or [kernel]):
                if options.reduced_only:
                    cell = reduced(row, kernel, options.seconds, _known().get(row.name, {}).get(kernel))
                else:
                    cell = explore(row, kernel, options.seconds)
                few = cell["reduced"]
                said = f"{row.name} on {kernel}: {cell['failed']} of {cell['explored']} fail. {cell['covered']}. "
                said += f"Reduced: {few['failed']} of {few['explored']} fail. {few['covered']}."
                print(said, flush=True)  # noqa: T201  it is a command
                _keep(row.name, kernel, cell)


def _known() -> dict[str, dict[str, Cell]]:
    known: dict[str, dict[str, Cell]] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    return known


def _keep(row: str, kernel: str, cell: Cell) -> None:
    known = _known()
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
