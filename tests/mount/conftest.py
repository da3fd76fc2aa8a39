"""One mount of the toy per module and event loop."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.served import AS_NOBODY, ROOT, Served, as_nobody, served


@pytest.fixture(scope="module", params=["fast", "stock"])
def mount(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A mounted toy, for the whole module."""
    with served(tmp_path_factory.mktemp("mount"), loop=request.param) as mount:
        yield mount


@pytest.fixture
def fresh(tmp_path: pytest.TempPathFactory) -> Iterator[Served]:
    """A mounted toy of one's own."""
    with served(tmp_path) as mount:  # type: ignore[arg-type]
        yield mount


@pytest.fixture
def nobodys(public_path: Path) -> Path:
    """A directory that another user can reach, where that user can run the fake."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    imports = [*AS_NOBODY, sys.executable, "-c", "import fakesysfs.fuse.session"]
    if subprocess.run(imports, cwd=ROOT, check=False, capture_output=True).returncode:
        pytest.skip("the checkout or its Python is closed to other users")
    for needs, why in (
        ("command -v fusermount3", "fusermount3 is not installed"),
        (": <>/dev/fuse", "/dev/fuse is closed to other users"),
    ):
        if as_nobody(needs).returncode:
            pytest.skip(why)
    return public_path
