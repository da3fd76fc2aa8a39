"""The lab: real kernels, booted in QEMU, that answer the operations the model answers.

A distribution's kernel needs no build, no root and no KVM here. `archive` fetches Debian packages
into a cache folder, `images` finds kernels, QEMU and tools in them, `machines` describes guests,
`guest` boots one and talks to the agent inside it (`agent.c`).
"""
