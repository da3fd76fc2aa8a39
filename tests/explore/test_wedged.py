"""What counts as wedged: what was not so after the setup."""

from __future__ import annotations

from fakesysfs.explore.wedged import Left, WedgedLook


def test_wedged_blocks_are_named_with_the_reasons() -> None:
    look = WedgedLook(dict)
    assert look.why({}) is None
    why = look.why({32: "no driver has it", 33: "no driver has it", 40: "pinned"})
    assert why == (
        "the device is wedged: memory32 to 33 and memory40 cannot be taken away any more: no driver has it, pinned"
    )


def test_what_stays_after_the_setup_is_looked_up_once_and_does_not_count() -> None:
    looked = []

    def after_setup() -> Left:
        looked.append("looked")
        return {32: "it is pinned"}

    look = WedgedLook(after_setup)
    assert look.why({32: "it is pinned"}) is None
    assert look.why({32: "it is pinned", 33: "other"}) == (
        "the device is wedged: memory33 cannot be taken away any more: other"
    )
    assert looked == ["looked"]
