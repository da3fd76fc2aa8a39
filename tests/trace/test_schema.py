"""docs/trace.md has the schema that the code writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from fakesysfs.trace import events

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "trace.md").read_text(encoding="utf-8")
TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean", "dict": "object", "list": "array"}


def documented(kind: str) -> list[tuple[str, str]]:
    """Names and types of the fields in the table of an event."""
    section = PAGE.partition(f"\n### {kind}\n")[2].partition("\n### ")[0]
    return re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", section, re.MULTILINE)


def in_words(annotation: str) -> str:
    """A type as the page names it."""
    kinds = [TYPES.get(part.partition("[")[0].strip(), "null") for part in annotation.split(" | ")]
    return " or ".join(kinds)


@pytest.mark.parametrize("event", get_args(events.Event), ids=lambda event: event.__name__)
def test_the_page_has_each_field_in_its_order(event: type[msgspec.Struct]) -> None:
    declared = [(name, in_words(str(event.__annotations__[name]))) for name in event.__struct_fields__]
    assert documented(event.__struct_config__.tag) == declared  # type: ignore[arg-type]


def test_the_page_has_no_other_event() -> None:
    sections = re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)
    assert sections == [event.__struct_config__.tag for event in get_args(events.Event)]
