"""Replaying recordings of real kernels: the proof of the model (tests/recordings/FORMAT.md).

`recording` reads the files. `player` replays a session line by line on a `target`; `snapshots`
compares whole trees. `normalise` lists what may differ; `report` counts. `isolated` gives each
recording a process of its own. `main` is the command `fakesysfs replay`.
"""

from fakesysfs.replay.cli import main, replay

__all__ = ["main", "replay"]
