"""Whether what pyfuse3 does not document may be used.

The event loop (`loop.py`) and long listings (`direntplus.py`) are faster with what can be found inside pyfuse3. That is
done with the versions it was tested with only; with others, and when FAKESYSFS_PYFUSE3=documented says so, the
documented interface is used alone, and everything behaves the same.
"""

from __future__ import annotations

import os

import pyfuse3

KNOWN = ("3.4.", "3.5.")
"""Beginnings of the versions of pyfuse3 whose insides are known."""


def use_internals() -> bool:
    """Whether the insides of pyfuse3 are known, and are to be used."""
    return os.environ.get("FAKESYSFS_PYFUSE3") != "documented" and pyfuse3.__version__.startswith(KNOWN)
