"""device_dax and fsdev_dax: dax devices as character devices (drivers/dax/device.c).

Differs knowingly: the character device cannot be opened, so binding reserves the ranges and no more. fsdev_dax binds
and lists.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from fakesysfs.kernel.dax.bus import DaxDriver, DevDax
from fakesysfs.kernel.printk import WARNING
from fakesysfs.ops.errors import KernelError

if TYPE_CHECKING:
    from fakesysfs.kernel.resource import Resource


class DeviceDax(DaxDriver):
    """The driver device_dax."""

    name = "device_dax"

    async def probe_dax(self, dev_dax: DevDax) -> None:
        """Reserve every range (dev_dax_probe).

        Raises KernelError: EINVAL for a page map left over by a failure, EBUSY.
        """
        kernel = self.kernel
        if not dev_dax.region.static:
            if dev_dax.pgmap:
                kernel.printk(WARNING, f"{self.name} {dev_dax.name}: dynamic-dax with pre-populated page map")
                raise KernelError(errno.EINVAL, "an earlier failed probe left its page map", "dev_dax_probe")
            dev_dax.pgmap = True
        held: list[Resource] = []

        async def release() -> None:
            for resource in held:
                kernel.iomem.release(resource)

        dev_dax.release_actions.append(release)
        for number, mapping in enumerate(dev_dax.mappings):
            span = mapping.range
            resource = kernel.iomem.request_region(span.start, span.end, dev_dax.name)
            if resource is None:
                what = f"mapping{number}: {span.start:#x}-{span.end:#x}"
                kernel.printk(WARNING, f"{self.name} {dev_dax.name}: {what} could not reserve range")
                raise KernelError(errno.EBUSY, "another resource is in the range", "dev_dax_probe")
            held.append(resource)

    async def remove(self, device: object) -> None:
        """The page map of a bound device goes with it."""
        assert isinstance(device, DevDax)
        device.pgmap = False


class FsdevDax(DeviceDax):
    """The driver fsdev_dax: only devices that were named to it."""

    name = "fsdev_dax"

    def matches_kind(self, dev_dax: DevDax) -> bool:
        """Never by kind."""
        del dev_dax
        return False
