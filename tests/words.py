"""What is written to files where tests draw their writes: words for each attribute, and bytes that fit nowhere."""

from __future__ import annotations

import re

NAMES = ["dax0.0", "dax0.1", "dax0.2", "dax1.0", "dax9.9"]
MODULES = ["kmem", "device_dax", "dax_cxl", "dax_hmem", "memory_notifier_error_inject", "none"]
SIZES = ["0", "0x8000000", "0x10000000", "0x40000000", "0x7f00000", "1073741824", "0x100000000", "0x200000000"]
ADDRESSES = ["0x0", "0x200000000", "0x2f8000000", "0x2f8001000", "0x300000000", "0x7ffffffffffff000"]

WORDS: dict[str, list[str]] = {
    "state": ["offline", "online", "online_kernel", "online_movable", "unplug", "unplugged"],
    "hotplug": ["unplug", "unplugged", "online", "online_movable", "online_kernel", "offline"],
    "online": ["0", "1", "y", "n", "2"],
    "size": SIZES,
    "align": ["0x200000", "2097152", "0x1000", "0x40000000", "0x8000000", "3"],
    "mapping": ["200000000-207ffffff", "300000000-30fffffff", "2f8000000-2ffffffff", "208000000-200000000"],
    "create": ["1", "0", "2"],
    "delete": NAMES,
    "bind": NAMES,
    "unbind": NAMES,
    "new_id": NAMES,
    "remove_id": NAMES,
    "drivers_probe": NAMES,
    "drivers_autoprobe": ["0", "1"],
    "auto_online_blocks": ["offline", "online", "online_kernel", "online_movable"],
    "online_policy": ["contig-zones", "auto-movable"],
    "auto_movable_ratio": ["0", "301", "100000"],
    "auto_movable_numa_aware": ["Y", "N"],
    "memmap_on_memory": ["0", "1"],
    "demotion_enabled": ["true", "false"],
    "uevent": ["add", "change", "online", "add fe4d7c9d-b8c6-4a70-9ef1-3d8a58d18eed A=1", "none"],
    "control": ["on", "auto"],
    "async": ["enabled", "disabled"],
    "hard_offline_page": ADDRESSES,
    "soft_offline_page": ADDRESSES,
    "nr_hugepages": ["0", "1", "3"],
    "load": MODULES,
    "unload": MODULES,
    "kernel_allocations": ["0 1", "1 1", "2 1", "2 0"],
    "devdax": ["1"],
    "unmovable": ["0", "1"],
}
CORPUS = [
    *(
        b"\n",
        b"\0",
        b" ",
        b"-1",
        b"0",
        b"1\n",
        b"1\0",
        b"online\0",
        b"on\0line",
        b"offline\n\n",
        b" offline",
        b"OFFLINE",
    ),
    *(b"18446744073709551616", b"0x", b"\xff\xfe", b"a" * 63, b"a" * 64, b"a" * 4095, b"a" * 4096, b"1 " * 3000),
]


def kind_of(path: str) -> str:
    """What files of many devices have in common."""
    return re.sub(r"\d+", "N", path)
