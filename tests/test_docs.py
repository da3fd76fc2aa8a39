"""The pages tell the truth: generated parts are up to date, what they name exists, links lead somewhere."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from fakesysfs.kernel.profile import PROFILES
from tests import blocks

ROOT = Path(__file__).resolve().parent.parent
SERIES = (ROOT / "docs" / "series.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
KERNEL = (ROOT / "docs" / "KERNEL.md").read_text(encoding="utf-8")

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/*.md")])
PROSE_WIDTH = 100
CELL_WIDTH = 200
"""Of a cell of a table, code apart: it is no paragraph."""

BREAKABLE = 2
"""A line of so few words, the mark of a list item included, may have to be longer."""


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _names(file: Path) -> set[str]:
    """The functions, classes, methods (Class.method) and tables of a module."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.ClassDef):
            found.add(node.name)
            found |= {
                f"{node.name}.{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return found


def _prose(page: Path) -> Iterator[tuple[int, str]]:
    """Number and text of the lines outside of code."""
    fenced = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, line


def _anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    headings = [line.lstrip("#").strip() for _, line in _prose(page) if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "name", ["abi.md", "cli.md", "kernels.md", "machines.md", "proof.md", "../fakesysfs/evidence.json"]
)
def test_generated_pages_are_up_to_date(name: str) -> None:
    """Run scripts/generate_docs.py after a change of the tables."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == _script("generate_docs").PAGES[name]()


def test_the_readme_counts_what_is_compared() -> None:
    """The table below "How it is known to be right"."""
    counts: dict[str, dict[str, int]] = json.loads((ROOT / "fakesysfs/evidence.json").read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = {
        "recorded operations": r"^\| ([\d,]+) operations in sessions \| real kernels",
        "recorded paths": r"^\| ([\d,]+) paths in ",
        "specified operations": r"^\| ([\d,]+) operations in sessions of `hotplug-v3`",
    }
    for kind, pattern in found.items():
        (number,) = re.findall(pattern, readme, re.MULTILINE)
        assert number == f"{sum(its.get(kind, 0) for its in counts.values()):,}", kind


def test_the_readme_has_all_kernels() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("| `--kernel` |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([^`]+)`", table, re.MULTILINE) == list(PROFILES)


def test_the_picture_of_the_packages_is_up_to_date() -> None:
    """Run scripts/draw_architecture.py after a change of imports between packages."""
    assert _script("draw_architecture").drawn(ARCHITECTURE) == ARCHITECTURE


def test_the_architecture_page_says_what_each_package_holds() -> None:
    table = ARCHITECTURE.partition("| package | what it holds |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(_script("draw_architecture").graph())


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w/]+\.py:[\w.]+)`", ARCHITECTURE))))
def test_functions_named_in_the_architecture_page_exist(name: str) -> None:
    """`file:Class.function`, below fakesysfs/."""
    file, _, path = name.partition(":")
    assert path in _names(ROOT / "fakesysfs" / file)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(fakesysfs/[\w/]+\.py:[\w.]+)`", CONTRIBUTING))))
def test_functions_named_in_the_recipes_exist(name: str) -> None:
    """`file:Class.function`."""
    file, _, path = name.partition(":")
    assert path in _names(ROOT / file)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`?\b((?:tests|scripts|fakesysfs)/[\w./-]+\w)", CONTRIBUTING))))
def test_files_named_in_the_recipes_exist(name: str) -> None:
    """Files and folders of the checkout."""
    assert (ROOT / name).exists()


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
    assert test in _names(ROOT / file)


def test_every_row_of_the_series_page_is_proven() -> None:
    """A row without a test is one that says that nothing shows."""
    rows = [
        line
        for line in SERIES.splitlines()
        if line.startswith("| ") and not re.match(r"\| (patch|claim|point) \|", line)
    ]
    assert len(rows) > 20
    assert [row for row in rows if "tests/" not in row and "nothing that shows" not in row] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """To files of the repository, and to headings of pages."""
    text = "\n".join(line for _, line in _prose(page))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+://", target):
            continue
        file, _, anchor = target.partition("#")
        other = (page.parent / file).resolve() if file else page
        assert other.exists(), target
        if anchor:
            assert anchor in _anchors(other), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_is_wrapped(page: Path) -> None:
    """Lines of prose are short, and so are the cells of tables. Code in a line is not broken."""
    for number, line in _prose(page):
        text = re.sub("`[^`]*`", "`...`", line)
        if line.startswith("|"):
            assert [cell for cell in text.split(" | ") if len(cell) > CELL_WIDTH] == [], f"line {number}"
        elif not line.startswith(("#", "    ")) and len(text.split()) > BREAKABLE:
            assert len(line) <= PROSE_WIDTH, f"line {number}"


def test_references_to_the_rules_lead_to_sections() -> None:
    """Code, tests and sessions name sections of docs/KERNEL.md by number, rows of its table of profiles by words."""
    sections = set(re.findall(r"^## ([\d.-]*\d)\. ", KERNEL, re.MULTILINE))
    assert {"1", "9", "7.3-1", "7.3-10"} <= sections
    bugs = {f"7.{number}" for number in range(1, 11)}
    table = KERNEL.partition("\n## Profiles\n")[2].partition("\n## ")[0]
    rows = {row.replace("`", "") for row in re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)}
    seen = 0
    for folder, pattern in (("fakesysfs", "*.py"), ("tests", "*.py"), ("tests/sessions", "*.jsonl")):
        for path in (ROOT / folder).rglob(pattern):
            text = path.read_text(encoding="utf-8")
            for number in re.findall(r"KERNEL\.md(?: section|, section)? (\d+(?:\.\d+(?:-\d+)?)?)", text):
                assert number in sections | bugs, f"{path}: KERNEL.md {number}"
                seen += 1
            for row in re.findall(r"KERNEL\.md row '([^']+)'", text):
                assert row in rows, f"{path}: row {row!r}"
                seen += 1
    assert seen > 100


# Blocks of code ------------------------------------------------------------------------------------------------------

LANGUAGES = {"", "console", "mermaid", "python", "sh", "text", "toml"}
"""A command has one of the languages that are run (tests/blocks.py), whatever shell it is for."""

DOCS = sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_run_or_say_why_not(page: Path) -> None:
    """By tests/tools/test_documented_commands.py, or by the test that the page names."""
    found = list(blocks.blocks_of(page))
    assert {block.language for block in found} <= LANGUAGES
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"^(?![-*\d ]).*\n\n {4}\S", text, re.MULTILINE), "fence commands: indented ones are not seen"
    not_run = [block for block in found if block.not_run is not None]
    assert all(block.is_command for block in not_run), "only commands are run"
    assert [block.line for block in not_run if len((block.not_run or "").split()) < LEAST_WORDS] == []
    assert len(not_run) == text.count("<!-- not run"), "a mark that stands before no block"
    for block in found:
        assert block.run_by is None or (ROOT / block.run_by).is_file()


LEAST_WORDS = 4
"""Of a reason."""


def test_most_commands_are_run() -> None:
    commands = [block for page in DOCS for block in blocks.blocks_of(page) if block.is_command]
    run = [block for block in commands if block.not_run is None]
    assert len(run) >= 30
    assert len(run) > 3 * (len(commands) - len(run))
