"""Look at a machine from outside: `fakesysfs map`, `watch` and `ps`.

memory.py reads the memory map of a fake or of a real machine, rows.py makes rows of squares of it, terminal.py and
svg.py draw these. fakes.py finds the fakes that run. Nothing here knows the model: all of it is read from files.
"""
