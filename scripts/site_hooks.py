"""What mkdocs does with the pages of docs/ beside its own work (`hooks` in mkdocs.yml).

The pages are read on a checkout, too, where a link may lead out of docs/: to an example, a recording's format. The site
takes along what is linked so, under repository/. Pages are rendered, other files are copied.

The picture of the packages is a Mermaid block, which browsers show with a script from elsewhere. The site loads nothing
from elsewhere: the block becomes an SVG.
"""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = "repository"
"""The folder of the site for files that are outside of docs/."""

_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
_ROW = re.compile(r"^\|.*$", re.MULTILINE)
_FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_MERMAID = re.compile(r"^```mermaid\nflowchart TD\n(.*?)^```$", re.MULTILINE | re.DOTALL)


# Links that lead out of docs/ ----------------------------------------------------------------------------------------


def in_repository(site_path: str) -> str:
    """Path in the repository of a source file of the site: "docs/ci.md" for "ci.md"."""
    return site_path.removeprefix(f"{OUTSIDE}/") if site_path.startswith(f"{OUTSIDE}/") else f"docs/{site_path}"


def in_site(repository_path: str) -> str:
    """The inverse of `in_repository`."""
    path = repository_path.removeprefix("docs/")
    return path if path != repository_path else f"{OUTSIDE}/{repository_path}"


def linked(markdown: str, path: str) -> Iterator[str]:
    """Files that a page links to, as paths in the repository. `path` is that of the page."""
    for match in _LINK.finditer(_FENCED.sub("", markdown)):
        if "://" not in match[2] and not match[2].startswith(("mailto:", "/")):
            yield posixpath.normpath(posixpath.join(posixpath.dirname(path), match[2]))


def relinked(markdown: str, path: str) -> str:
    """The page with links as they are in the site. `path` is that of the page in the repository."""
    here = posixpath.dirname(in_site(path)) or "."

    def link(match: re.Match[str]) -> str:
        (target,) = linked(match[0], path) if list(linked(match[0], path)) else ("",)
        return f"{match[1]}{posixpath.relpath(in_site(target), here)}{match[3]}" if target else match[0]

    return _outside_of_code(markdown, lambda prose: _LINK.sub(link, prose))


def piped(markdown: str) -> str:
    """The page with `|` in the code of tables: GitHub wants a backslash before it, mkdocs shows that."""
    return _outside_of_code(markdown, lambda prose: _ROW.sub(_with_pipes, prose))


def _with_pipes(row: re.Match[str]) -> str:
    return re.sub("`[^`]*`", lambda code: code[0].replace(r"\|", "|"), row[0])


def _outside_of_code(markdown: str, change: Callable[[str], str]) -> str:
    parts, end = [], 0
    for block in _FENCED.finditer(markdown):
        parts += [change(markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(markdown[end:])])


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add what pages link to outside of docs/, and what those pages link to."""
    from mkdocs.structure.files import File  # noqa: PLC0415  the functions above are tested without mkdocs

    ahead = [in_repository(file.src_uri) for file in files if file.src_uri.endswith(".md")]
    seen = set(ahead)
    while ahead:
        path = ahead.pop()
        for target in linked((ROOT / path).read_text(encoding="utf-8"), path):
            if target in seen or target.startswith(("docs/", "../")) or not (ROOT / target).is_file():
                continue
            seen.add(target)
            files.append(File.generated(config, in_site(target), abs_src_path=str(ROOT / target)))
            if target.endswith(".md"):
                ahead.append(target)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Give links and pictures the form that the site needs."""
    text = piped(relinked(markdown, in_repository(page.file.src_uri)))
    return _MERMAID.sub(lambda block: svg(edges_of(block[1])), text)


# The picture of the packages -----------------------------------------------------------------------------------------

_ROW_HEIGHT, _BOX_HEIGHT, _GAP, _LETTER, _PADDING = 72, 30, 26, 8.2, 22
_SWEEPS = 12

Node = tuple[str, int]
"""A package, or a bend of an arrow: "from>to" and the row where the bend is."""


def edges_of(mermaid: str) -> dict[str, list[str]]:
    """The arrows `a --> b` of a flowchart, by their origin."""
    found: dict[str, list[str]] = {}
    for origin, target in re.findall(r"(\w+) --> (\w+)", mermaid):
        found.setdefault(origin, []).append(target)
        found.setdefault(target, [])
    return found


def rows_of(edges: Mapping[str, list[str]]) -> dict[str, int]:
    """Each package's row, from the bottom: one more than the highest that it has an arrow to."""
    rows: dict[str, int] = {}

    def row(package: str) -> int:
        if package not in rows:
            rows[package] = 1 + max(map(row, edges[package]), default=-1)
        return rows[package]

    for package in edges:
        row(package)
    return rows


def svg(edges: Mapping[str, list[str]]) -> str:
    """A drawing of a graph without circles: rows of boxes, arrows down."""
    rows = rows_of(edges)
    paths: list[list[Node]] = []
    for origin, targets in edges.items():
        for target in targets:
            bends = [(f"{origin}>{target}", row) for row in range(rows[origin] - 1, rows[target], -1)]
            paths.append([(origin, rows[origin]), *bends, (target, rows[target])])
    places = _placed(rows, paths)
    width = max(x + _width(node) / 2 for node, x in places.items())
    height = _ROW_HEIGHT * (max(rows.values()) + 1)

    def y(node: Node) -> float:
        return height - _ROW_HEIGHT * (node[1] + 0.5)

    size = f'viewBox="0 0 {width:.0f} {height}" style="max-width: {width:.0f}px"'
    parts = [
        f'<svg class="packages" role="img" aria-label="packages and their imports" {size}>',
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">',
        '<path d="M0 0L8 4L0 8z"/></marker></defs>',
    ]
    for path in paths:
        way = f"M{places[path[0]]:.0f} {y(path[0]) + _BOX_HEIGHT / 2:.0f}"
        for upper, lower in pairwise(path):
            top = y(upper) + (_BOX_HEIGHT / 2 if upper == path[0] else 0)
            bottom = y(lower) - (_BOX_HEIGHT / 2 if lower == path[-1] else 0)
            middle = (top + bottom) / 2
            way += (
                f"C{places[upper]:.0f} {middle:.0f} {places[lower]:.0f} {middle:.0f} {places[lower]:.0f} {bottom:.0f}"
            )
        parts.append(f'<path class="arrow" marker-end="url(#arrow)" d="{way}"/>')
    for package, row in rows.items():
        node = (package, row)
        left, top = places[node] - _width(node) / 2, y(node) - _BOX_HEIGHT / 2
        parts.append(f'<rect x="{left:.0f}" y="{top:.0f}" width="{_width(node):.0f}" height="{_BOX_HEIGHT}" rx="4"/>')
        parts.append(f'<text x="{places[node]:.0f}" y="{y(node) + 5:.0f}">{html.escape(package)}</text>')
    return "".join([*parts, "</svg>"])


def _width(node: Node) -> float:
    return _LETTER if ">" in node[0] else len(node[0]) * _LETTER + _PADDING


def _placed(rows: Mapping[str, int], paths: list[list[Node]]) -> dict[Node, float]:
    """Where each box and bend is, left to right: near what its arrows connect it to."""
    neighbours: dict[Node, list[Node]] = {(package, row): [] for package, row in rows.items()}
    for path in paths:
        for one, other in pairwise(path):
            neighbours.setdefault(one, []).append(other)
            neighbours.setdefault(other, []).append(one)
    lines: dict[int, list[Node]] = {}
    for node in sorted(neighbours):
        lines.setdefault(node[1], []).append(node)
    places: dict[Node, float] = {}

    def settle(row: int) -> None:
        total = sum(_width(node) + _GAP for node in lines[row])
        x = widest / 2 - total / 2
        for node in lines[row]:
            places[node] = x + (_width(node) + _GAP) / 2
            x += _width(node) + _GAP

    widest = max(sum(_width(node) + _GAP for node in line) for line in lines.values())
    for row in lines:
        settle(row)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for row in sorted(lines, reverse=down):
            beside = row + 1 if down else row - 1

            def centre(node: Node, beside: int = beside) -> float:
                near = [places[other] for other in neighbours[node] if other[1] == beside]
                return sum(near) / len(near) if near else places[node]

            lines[row].sort(key=centre)
            settle(row)
    return places
