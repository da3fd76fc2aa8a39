#!/usr/bin/env python3
"""Draw the packages of fakesysfs and their imports into docs/architecture.md.

The picture is a Mermaid block between two markers. An arrow means "imports". Imports for type
checkers count too. An arrow is left out where a longer way says the same.

    .venv/bin/python scripts/draw_architecture.py
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fakesysfs"
PAGE = ROOT / "docs" / "architecture.md"

BEGIN = "<!-- picture: scripts/draw_architecture.py -->\n"
END = "<!-- end of picture -->\n"

Graph = Mapping[str, set[str]]


def part_of(module: str) -> str:
    """The package or top-level module that `module` ("kernel.dax.bus") belongs to."""
    return module.partition(".")[0]


def modules() -> Iterator[tuple[str, Path]]:
    """Every module's dotted name below fakesysfs, and its file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name not in {"__init__", "__main__"}:
            yield name, path


def imported(path: Path) -> Iterator[str]:
    """The modules of fakesysfs that a file imports, without "fakesysfs."."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("fakesysfs.") and not name.startswith("fakesysfs.__"):
                yield name.removeprefix("fakesysfs.")


def graph() -> Graph:
    """Part -> the other parts that it imports."""
    found: dict[str, set[str]] = {}
    for name, path in modules():
        own = found.setdefault(part_of(name), set())
        own |= {part_of(other) for other in imported(path)} - {part_of(name)}
    return found


def _reachable(edges: Graph, start: str, without: tuple[str, str]) -> set[str]:
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        part = ahead.pop()
        new = {other for other in edges[part] if (part, other) != without} - seen
        seen |= new
        ahead += new
    return seen


def reduced(edges: Graph) -> Graph:
    """The same graph without the arrows that a longer way implies. Raises ValueError if imports go in a circle."""
    for part in edges:
        if part in _reachable(edges, part, ("", "")):
            message = f"the imports of {part} go in a circle"
            raise ValueError(message)
    return {
        part: {other for other in others if other not in _reachable(edges, part, (part, other))}
        for part, others in edges.items()
    }


def picture() -> str:
    """The Mermaid block, with its markers."""
    edges = reduced(graph())
    lines = [f"    {part} --> {other}" for part in sorted(edges) for other in sorted(edges[part])]
    return "\n".join([BEGIN, "```mermaid", "flowchart TD", *lines, "```", "", END])


def drawn(page: str) -> str:
    """The page with the present picture."""
    return re.sub(re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: picture(), page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
