"""Clients that keep a fake busy until somebody ends them.

    python -m tests.soaking.busy ROOT

Three processes: one plugs and unplugs, one lists and reads, one follows the log. They ignore every
error, because the server may go away at any moment.
"""

from __future__ import annotations

import os
import signal
import sys
import time

MEMORY = "sys/devices/system/memory"


def _plug(root: str) -> None:
    for word in (b"unplug", b"online_movable"):
        descriptor = os.open(f"{root}/sys/bus/dax/devices/dax0.0/hotplug", os.O_WRONLY)
        try:
            os.write(descriptor, word)
        finally:
            os.close(descriptor)


def _look(root: str) -> None:
    for name in os.listdir(f"{root}/{MEMORY}"):
        if name.startswith("memory"):
            with open(f"{root}/{MEMORY}/{name}/state", "rb") as file:
                file.read()


def _follow(root: str) -> None:
    control = os.environ.get("FAKESYSFS_CONTROL") or f"{root}/control"
    with open(f"{control}/kmsg_follow", "rb", buffering=0) as file:
        while file.read(4096):
            pass


def main(root: str) -> None:
    """Never returns."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    role = _follow
    if not os.fork():
        role = _look
    elif not os.fork():
        role = _plug
    while True:
        try:
            role(root)
        except OSError:
            time.sleep(0.002)


if __name__ == "__main__":
    main(sys.argv[1])
