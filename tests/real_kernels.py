"""Real kernels for tests that boot one. They fetch nothing: `tests/lab fetch` does."""

from __future__ import annotations

import pytest

from fakesysfs.lab import images
from fakesysfs.lab.archive import LabError
from fakesysfs.lab.images import KernelImage


def unpacked_kernel(series: str) -> KernelImage:
    """The kernel of a series in the cache folder; skips the test where it is missing or the lab cannot work."""
    if not images.unpacked_kernels(series):
        pytest.skip(f"because no kernel {series} is in the cache folder: run `tests/lab fetch {series}`")
    try:
        found = images.kernel_image(series)
        images.qemu()
        images.guest_tools()
    except LabError as error:
        pytest.skip(f"because {error}")
    return found
