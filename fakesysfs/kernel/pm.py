"""What `power/` of a device remembers (struct dev_pm_info; drivers/base/power/)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class DevPmInfo:
    """The settings of one device. Runtime PM is disabled for all modelled devices."""

    runtime_auto: bool = True
    """False: a user forbade runtime PM ("on" in `control`), which holds one usage count."""
    async_suspend: bool = False

    @property
    def usage_count(self) -> int:
        """How many hold the device active."""
        return 0 if self.runtime_auto else 1


class PowerManagement:
    """The settings of the devices that a user changed; all other devices have the defaults.

    A device is named by the serial and index of its object, and by `place` where one object has
    several devices.
    """

    def __init__(self) -> None:
        self._changed: dict[int, dict[tuple[int, str], DevPmInfo]] = {}

    def of(self, serial: int, index: int, place: str) -> DevPmInfo:
        """The settings of a device, to read."""
        return self._changed.get(serial, {}).get((index, place)) or DevPmInfo()

    def change(self, serial: int, index: int, place: str) -> DevPmInfo:
        """The settings of a device, to change them."""
        return self._changed.setdefault(serial, {}).setdefault((index, place), DevPmInfo())

    def forget(self, serial: int) -> None:
        """An object was unregistered: its settings go with it."""
        self._changed.pop(serial, None)
