"""Whether the insides of pyfuse3 may be used.

The event loop (`loop.py`) uses names of pyfuse3 that its documentation does not have. We use them in the versions that
we tested. With other versions, and with FAKESYSFS_PYFUSE3=documented in the environment, everything behaves the same
and is slower.
"""

from __future__ import annotations

import os

import pyfuse3

KNOWN = ("3.4.", "3.5.")
"""Beginnings of the versions of pyfuse3 whose insides are known."""


def use_internals() -> bool:
    """Whether the insides of pyfuse3 are known, and are to be used."""
    return os.environ.get("FAKESYSFS_PYFUSE3") != "documented" and pyfuse3.__version__.startswith(KNOWN)
