"""What happened on a machine, event by event: to JSON lines, to Perfetto, to a page.

`events` is the schema, `recorder` listens to a machine, `files` and `perfetto` write, `timeline` makes
the page. docs/trace.md says what the events mean.
"""

from fakesysfs.trace.files import CannotTraceError, Target, attach, open_target
from fakesysfs.trace.recorder import Recorder

__all__ = ["CannotTraceError", "Recorder", "Target", "attach", "open_target"]
