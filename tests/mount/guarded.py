"""Runs a server as a child, with the guardian of `fakesysfs run --mount` as its parent.

python -m tests.mount.guarded COMMAND... MOUNTPOINT
"""

from __future__ import annotations

import os
import signal
import sys

from fakesysfs.sandbox.server import guard

if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    server = os.fork()
    if server == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606  no shell is wanted
    sys.exit(guard(server, sys.argv[-1]))
