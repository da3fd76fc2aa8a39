"""The pages tell the truth: generated ones are up to date, names in docs/series.md exist."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
SERIES = (ROOT / "docs" / "series.md").read_text(encoding="utf-8")


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "scripts" / "generate_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["abi.md", "kernels.md", "machines.md", "../fakesysfs/evidence.json"])
def test_generated_pages_are_up_to_date(name: str) -> None:
    """Run scripts/generate_docs.py after a change of the tables."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == _generator().PAGES[name]()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(fakesysfs\.[\w.]+:[\w.]+)`", SERIES))))
def test_functions_named_in_the_series_page_exist(name: str) -> None:
    """`module:Class.function`."""
    module, _, path = name.partition(":")
    found: object = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", SERIES))))
def test_tests_named_in_the_series_page_exist(name: str) -> None:
    """`file::test`."""
    file, _, test = name.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_row_of_the_series_page_is_proven() -> None:
    """A row without a test is one that says that nothing shows."""
    rows = [
        line
        for line in SERIES.splitlines()
        if line.startswith("| ") and not re.match(r"\| (patch|claim|point) \|", line)
    ]
    assert len(rows) > 20
    assert [row for row in rows if "tests/" not in row and "nothing that shows" not in row] == []
