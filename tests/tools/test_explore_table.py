"""The table of docs/explore.md: what it says is found again."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fakesysfs.explore.scenario import ScenarioFile
from tests.tools.conftest import ROOT, Runner, need
from tests.tools.test_explore import run

TABLE = ROOT / "examples/explore/table"
KNOWN: dict[str, dict[str, dict[str, Any]]] = json.loads((ROOT / "docs/data/explore-table.json").read_text("utf-8"))
FAST = {("01-blocks-and-onliner", "7.2"), ("04-write-and-onliner", "7.3")}
SECONDS = 10
"""A cell that took longer is filled by scripts/explore_table.py only."""
ONE_WRITE = ("04-write-and-onliner", "05-write-and-rule", "06-ranges-and-onliner", "07-two-removers")


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("explore_table", ROOT / "scripts/explore_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells() -> list[Any]:
    """The cells whose search was complete and short, those that take long with marker `ci`."""
    return [
        pytest.param(row, kernel, marks=[] if (row, kernel) in FAST else [pytest.mark.ci], id=f"{row} on {kernel}")
        for row, its in KNOWN.items()
        for kernel, cell in its.items()
        if cell["reduced"]["complete"] and cell["reduced"]["seconds"] < SECONDS
    ]


@pytest.mark.parametrize(("row", "kernel"), cells())
def test_a_cell_is_found_again(explore: Runner, tmp_path: Path, row: str, kernel: str) -> None:
    file = TABLE / f"{row}.toml"
    if "udev = true" in file.read_text():
        need("udevadm")
    run(explore, tmp_path, str(file), "--kernel", kernel, "--json", "result.json")
    found = json.loads((tmp_path / "result.json").read_text())
    known = KNOWN[row][kernel]["reduced"]
    counts = ("explored", "failed", "complete")
    assert {key: found[key] for key in counts} == {key: known[key] for key in counts}


def test_the_reduction_misses_no_failure() -> None:
    """Where both searches went through all orders, or all within the bound."""
    for row, its in KNOWN.items():
        for kernel, cell in its.items():
            few = cell["reduced"]
            if not (cell["covered"].startswith("A limit") or few["covered"].startswith("A limit")):
                assert few["kinds"] == len(cell["orders"]), (row, kernel)
                assert few["explored"] <= cell["explored"], (row, kernel)


def test_the_table_has_all_cells() -> None:
    rows: list[ScenarioFile] = list(script().rows())
    assert {row.name: set(row.kernels) for row in rows} == {row: set(its) for row, its in KNOWN.items()}


@pytest.mark.parametrize("kernel", ["hotplug-v3", "7.3"])
@pytest.mark.parametrize("row", ONE_WRITE)
def test_one_write_is_whole(row: str, kernel: str) -> None:
    """The series' claim."""
    cell = KNOWN[row][kernel]
    assert (cell["failed"], cell["complete"]) == (0, True)
