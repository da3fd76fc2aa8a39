"""A device whose memory nobody can take away any more is wedged until the next reboot.

When the programs have ended, the memory is taken away as an administrator would (fakesysfs/sysfs/takedown.py). What is
left is wedged, unless it cannot be taken away after the setup either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

Left = Mapping[int, str]
"""Memory blocks that cannot be taken away, by number, and why not."""


class WedgedLook:
    """Says whether an order has wedged a device.

    `after_setup` boots the machine again, runs the setup and takes the memory away. It is called once, and only if
    something is left after an order.
    """

    def __init__(self, after_setup: Callable[[], Left]) -> None:
        self._after_setup = after_setup
        self._never: frozenset[int] | None = None
        """Blocks that cannot be taken away after the setup."""

    def why(self, left: Left) -> str | None:
        """Why the order fails, in words; None if nothing is wedged."""
        if not left:
            return None
        if self._never is None:
            self._never = frozenset(self._after_setup())
        wedged = {block: why for block, why in left.items() if block not in self._never}
        if not wedged:
            return None
        return f"the device is wedged: {' and '.join(_in_runs(sorted(wedged)))} cannot be taken away any more: " + (
            ", ".join(dict.fromkeys(wedged.values()))
        )


def _in_runs(blocks: list[int]) -> Iterator[str]:
    first = last = blocks[0]
    for block in [*blocks[1:], -1]:
        if block == last + 1:
            last = block
            continue
        yield f"memory{first}" if first == last else f"memory{first} to {last}"
        first = last = block
