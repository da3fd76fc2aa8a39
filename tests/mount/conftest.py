"""One mount of the toy per module and event loop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mount.served import Served, served


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
