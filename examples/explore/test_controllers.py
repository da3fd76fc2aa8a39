"""Can these controllers break each other? Every order of their steps is tried."""

from pathlib import Path

from controllers import keep_online, keep_online_mended, not_stuck, remove_blocks, remove_device

from fakesysfs.testing import explore

MACHINE = Path(__file__).with_name("two-blocks.toml")


def test_block_by_block_can_leave_the_device_stuck() -> None:
    found = explore([remove_blocks, keep_online_mended], machine=MACHINE, kernel="7.2", check=not_stuck)
    assert found.complete
    assert {failure.why for failure in found.failures} == {"not_stuck returned False"}


def test_one_write_cannot() -> None:
    """Not even where the other controller comes in between two blocks (inside=True)."""
    found = explore([remove_device, keep_online_mended], machine=MACHINE, check=not_stuck, inside=True)
    assert found.complete
    found.assert_ok()


def test_the_one_that_checks_first_fails_now_and_then() -> None:
    found = explore([remove_device, keep_online], machine=MACHINE, inside=True)
    assert found.complete
    assert 0 < found.failed < found.explored
