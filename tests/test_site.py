"""docs/ becomes a site: mkdocs builds it without a warning, and a page loads nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "scripts" / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = _hooks()


@pytest.mark.parametrize(
    ("page", "link", "in_site"),
    [
        ("docs/ci.md", "commands.md#environment", "commands.md#environment"),
        ("docs/ci.md", "../examples/race/README.md", "repository/examples/race/README.md"),
        ("docs/how-to/containers.md", "../../examples/ci/Containerfile", "../repository/examples/ci/Containerfile"),
        ("examples/race/README.md", "../../docs/testing.md", "../../../testing.md"),
        ("CONTRIBUTING.md", "docs/KERNEL.md#profiles", "../KERNEL.md#profiles"),
        ("docs/ci.md", "https://example.org/a.md", "https://example.org/a.md"),
        ("docs/ci.md", "#where", "#where"),
    ],
)
def test_links_out_of_docs_lead_to_copies(page: str, link: str, in_site: str) -> None:
    assert HOOKS.relinked(f"a [word]({link}) b", page) == f"a [word]({in_site}) b"


def test_code_is_left_alone() -> None:
    page = "[a](../LICENSE)\n\n```text\n[a](../LICENSE)\n```\n"
    assert HOOKS.relinked(page, "docs/ci.md") == page.replace("(..", "(repository", 1)


def test_a_pipe_in_the_code_of_a_table_has_no_backslash() -> None:
    page = "| `a\\|b` | c\\|d |\n\n`e\\|f`\n"
    assert HOOKS.piped(page) == "| `a|b` | c\\|d |\n\n`e\\|f`\n"


def test_the_picture_has_every_package_once_and_arrows_go_down() -> None:
    edges = HOOKS.edges_of("a --> b\n b --> c\n a --> c\n d --> c\n")
    rows = HOOKS.rows_of(edges)
    assert all(rows[origin] > rows[target] for origin, targets in edges.items() for target in targets)
    drawn = HOOKS.svg(edges)
    assert sorted(re.findall(r"<text[^>]*>(\w+)</text>", drawn)) == sorted(edges)
    assert drawn.count('class="arrow"') == 4


# The site itself -----------------------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """What a page names: anchors, links, and what a browser loads by itself."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.anchors |= {named[name] for name in ("id", "name") if name in named}
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        elif tag == "link" and named.get("rel") not in {"canonical", "next", "prev"} and "href" in named:
            self.loaded.append(named["href"])
        elif tag in {"img", "script", "source", "iframe", "audio", "video"} and "src" in named:
            self.loaded.append(named["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Continuous integration must be able to build it."""
    if importlib.util.find_spec("mkdocs") is None:
        why = "mkdocs is not installed: .venv/bin/python -m pip install --editable '.[docs]'"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    where = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", where],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return where


@pytest.mark.ci
def test_links_and_anchors_of_the_site(site: Path) -> None:
    """In HTML, so that what plugins and hooks write counts too."""
    pages = {path.resolve(): _Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 20
    wrong = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                wrong.append(f"{path.relative_to(site)}: {link}")
            elif (
                parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors | {"__top"}
            ):
                wrong.append(f"{path.relative_to(site)}: no anchor {link}")
    assert not wrong


@pytest.mark.ci
def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    """No fonts, scripts, styles, icons or pictures."""
    for path in site.rglob("*.html"):
        assert [url for url in _Page(path).loaded if urlsplit(url).netloc] == [], path
    for path in site.rglob("*.css"):
        named = re.findall(r"url\(['\"]?(\w+://[^)'\"]+)", path.read_text(encoding="utf-8"))
        assert named == [], path


@pytest.mark.ci
def test_the_site_has_the_python_api(site: Path) -> None:
    """Each exported name, with its docstring."""
    from fakesysfs import testing  # noqa: PLC0415  not for the tests above

    page = (site / "python-api.html").read_text(encoding="utf-8")
    for name in testing.__all__:
        assert f'id="fakesysfs.testing.{name}"' in page, name
    assert "Run a command to its end." in page
