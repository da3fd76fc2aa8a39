"""Replaying recordings of real kernels: the proof of the model (recordings/FORMAT.md).

`recording` reads the files; `player` plays a session on a `target`, line by line; `normalise` is the one list of what
may differ; `snapshots` compares whole trees; `report` counts. `main` is the command `fakesysfs replay`.
"""

from fakesysfs.replay.cli import main, replay

__all__ = ["main", "replay"]
