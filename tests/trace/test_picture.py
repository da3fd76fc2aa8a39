"""The picture of a timeline in docs/trace.md shows the page that this version makes, of a run as it still is."""

from __future__ import annotations

import struct
import zlib

import pytest

from tests.test_docs import ROOT, _script

draw_timeline = _script("draw_timeline")


def test_the_picture_is_of_this_page() -> None:
    """Run scripts/draw_timeline.py after a change of the page."""
    picture = draw_timeline.PICTURE.read_bytes()
    assert draw_timeline.signature(picture) == draw_timeline.digest()
    assert "](timeline.png)" in (ROOT / "docs" / "trace.md").read_text(encoding="utf-8")


def test_a_signature_stays_in_a_picture_that_is_whole() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    picture = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    assert draw_timeline.signature(picture) == ""
    signed = draw_timeline.signed(picture, "abc")
    assert draw_timeline.signature(signed) == "abc"
    assert signed.startswith(picture[:-12])
    assert signed.endswith(chunk(b"IEND", b""))


@pytest.mark.mount
@pytest.mark.tools
def test_the_race_still_goes_as_in_the_picture() -> None:
    happened = draw_timeline.race()
    assert sorted(draw_timeline.controllers(happened)) == [
        ("onliner", "online\n", "ENODEV"),
        ("remover", "unplug\n", None),
    ]
    place = draw_timeline.middle(happened)
    assert happened[place].state == "offline"
    waits = [event for event in happened if getattr(event, "lock", None) == "device_hotplug_lock"]
    assert {type(event).__name__ for event in waits} == {"Wait", "Lock"}
