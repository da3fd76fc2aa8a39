"""Every command in the documentation does what the page says it does.

tests/blocks.py says how blocks of code are read. A page that takes longer than ten seconds is run with marker `ci`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import blocks
from tests.tools.conftest import PATIENCE_SECONDS, ROOT, need

PAGES = sorted((ROOT / "docs").rglob("*.md"))
RUN = [page for page in PAGES if any(step.line for step in blocks.steps_of(page))]

SLOW = {"first-test.md", "udev-race.md"}
"""Pages that take longer than ten seconds: .ci/run runs them."""

TOOLS = ("bash", "daxctl", "jq", "lsmem", "udevadm")
"""What pages use beside coreutils; `need` says where they are missing."""


def _tools(page: Path) -> list[str]:
    text = "\n".join(step.command for step in blocks.steps_of(page))
    return [tool for tool in TOOLS if re.search(rf"\b{tool}\b", text)]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.ci] if page.name in SLOW else []) for page in RUN],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_commands_of_a_page(page: Path, tmp_path: Path) -> None:
    need(*_tools(page))
    differences = blocks.run(blocks.steps_of(page), tmp_path, 2 * PATIENCE_SECONDS)
    assert not differences, "\n\n".join(differences)
