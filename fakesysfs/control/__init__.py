"""control/: what is not part of any real machine.

The log, the events, what was refused and why, and hands on the model.
"""
