"""The search over interleavings: can these programs break each other, in any order of their steps?

- order.py: what a step is, what an order is, and the guide that decides who takes the next step.
- search.py: every order, depth first, each exactly once.
- minimise.py: a failing order with as few switches between programs as possible.
- report.py: the progress line and the report.
- programs.py, messages.py, controller.py, workers.py: real programs, each order in a run with a mount
  that holds them.
- arguments.py, cli.py: `fakesysfs explore`.

The search does not know what runs the programs. `fakesysfs.testing.explore` runs coroutines on a
machine in process, `fakesysfs explore` real programs on a mount.
"""
