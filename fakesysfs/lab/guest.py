"""Booting a guest, and going on from its state after boot.

The first boot of a guest with a kernel saves its state into the cache folder; later ones restore it.
The state depends on the kernel, on QEMU and on the guest's description: all of them are in its name.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from fakesysfs.lab import agent, images, initramfs
from fakesysfs.lab.agent import Agent, SilentError
from fakesysfs.lab.archive import LabError, cache_folder, say
from fakesysfs.lab.images import KernelImage
from fakesysfs.lab.machines import MIB, Guest, Node
from fakesysfs.lab.qemu import DEVICES, Qemu

ATTEMPTS = 3
"""Under TCG about one boot of seven dies early, in a race with code that is being patched."""

BOOT_SECONDS = 120
KVM_SECONDS = 15
"""A guest that does not boot with KVM within so long is booted without."""

_KERNEL_ARGUMENTS = (
    "console=ttyS0", "panic=-1", "quiet", "log_buf_len=4M", "printk.devkmsg=on", "tsc=reliable", "nokaslr"
)  # fmt: skip
"""Without KASLR the same blocks are unmovable in each boot. The clock jumps when a state is restored."""
_KVM = Path("/dev/kvm")


@dataclass(slots=True)
class Booted:
    """A guest that runs."""

    guest: Guest
    image: KernelImage
    accelerator: str
    """`tcg` or `kvm`."""
    seconds: float
    """How long its start took."""
    restored: bool
    """Whether it went on from a saved state."""
    _qemu: Qemu
    _console: IO[bytes]

    @property
    def agent(self) -> Agent:
        """The agent in it."""
        return self._qemu.agent

    @property
    def console(self) -> str:
        """All that it wrote to its console."""
        self._console.flush()
        return Path(self._console.name).read_text(encoding="utf-8", errors="replace")

    def end(self) -> None:
        """End it."""
        self._qemu.end()
        self._console.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def command_line(guest: Guest) -> str:
    """The command line of a guest's kernel."""
    return " ".join((*_KERNEL_ARGUMENTS, *guest.kernel_arguments))


def boot(guest: Guest, image: KernelImage) -> Booted:
    """Start a guest: from its saved state, or by a boot whose state is saved. Raises LabError."""
    if not guest.restorable:
        return boot_afresh(guest, image)
    chosen = accelerator(image)
    state = _states() / f"{_identity(guest, image, chosen)}.state"
    if not state.is_file():
        _boot_and_save(guest, image, chosen, state)
    return _start(guest, image, chosen, lambda qemu: qemu.restore(state), ("-incoming", "defer"), restored=True)


def boot_afresh(guest: Guest, image: KernelImage) -> Booted:
    """Start a guest by a boot. Raises LabError."""
    return _boot(guest, image, accelerator(image))


def _states() -> Path:
    folder = cache_folder() / "states"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _boot_and_save(guest: Guest, image: KernelImage, kind: str, state: Path) -> None:
    say(f"booting {image} as guest {guest.name} ({kind})")
    with _boot(guest, image, kind) as booted:
        say(f"it answers after {booted.seconds:.1f} seconds; its state is kept in {state}")
        booted._qemu.save(state)  # noqa: SLF001  its own module
    for older in _older_states(state):
        older.unlink(missing_ok=True)


def _older_states(state: Path) -> list[Path]:
    """The states of the same guest and kernel from before its description, its tools or QEMU changed."""
    guest = state.name.rpartition("-")[0]
    return [path for path in state.parent.glob("*.state") if path != state and path.name.rpartition("-")[0] == guest]


def _boot(guest: Guest, image: KernelImage, kind: str) -> Booted:
    last: LabError | None = None
    for _ in range(ATTEMPTS):
        try:
            return _start(guest, image, kind, _as_it_is, (), restored=False)
        except LabError as error:
            last = error
    raise LabError(f"the guest {guest.name} does not boot (attempts: {ATTEMPTS}): {last}")


def _as_it_is(_qemu: Qemu) -> None:
    """A boot needs no preparation."""


def _start(
    guest: Guest,
    image: KernelImage,
    kind: str,
    prepare: Callable[[Qemu], None],
    more: tuple[str, ...],
    *,
    restored: bool,
) -> Booted:
    began = time.monotonic()
    console = tempfile.NamedTemporaryFile(prefix="fakesysfs-lab.", suffix=".console")  # noqa: SIM115  Booted has it
    arguments = [
        *guest.qemu_arguments(), "-accel", kind,
        "-kernel", str(image.vmlinuz), "-initrd", str(_initramfs(guest, image)), "-append", command_line(guest), *more,
    ]  # fmt: skip
    qemu = None
    try:
        qemu = Qemu(images.qemu(), arguments, console)
        prepare(qemu)
        _wait_for_agent(qemu, KVM_SECONDS if kind == "kvm" else BOOT_SECONDS)
    except BaseException as error:
        if qemu is not None:
            qemu.end()
        if isinstance(error, SilentError):
            raise LabError(f"{error}; its console: {_last_lines(console)}") from None
        console.close()
        raise
    return Booted(guest, image, kind, time.monotonic() - began, restored, qemu, console)


def _wait_for_agent(qemu: Qemu, seconds: float) -> None:
    """The first answer. A guest that has died ends its QEMU, and so the port."""
    qemu.agent.run([agent.call("access", "/", 0)], patience=1, seconds=seconds)


def _last_lines(console: IO[bytes]) -> str:
    """What a guest that has died said: why, or else its last lines."""
    lines = Path(console.name).read_text(encoding="utf-8", errors="replace").strip().split("\n")
    console.close()
    return " | ".join([line.strip() for line in lines if _REASON.search(line)][:3] or lines[-5:])


_REASON = re.compile(r"Kernel panic|Oops|BUG:")


def _initramfs(guest: Guest, image: KernelImage) -> Path:
    program = agent.program(cache_folder())
    parts = [*_build(image), *guest.modules, images.guest_tools().name]
    key = hashlib.sha256("\0".join(parts).encode() + program).hexdigest()[:16]
    path = _states() / f"initramfs-{image.version}-{key}.cpio"
    if not path.is_file():
        data = initramfs.build(image, guest.modules, program, images.guest_tools())
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as part:
            part.write(data)
        Path(part.name).replace(path)
    return path


def _build(image: KernelImage) -> tuple[str, ...]:
    """What differs between two builds of a kernel in one folder."""
    status = image.vmlinuz.stat()
    return str(image.vmlinuz), str(status.st_size), str(status.st_mtime_ns)


def _identity(guest: Guest, image: KernelImage, kind: str) -> str:
    """A name for the state of a guest after boot."""
    parts = [
        *images.qemu().words, *DEVICES, *guest.qemu_arguments(), kind, command_line(guest),
        str(_initramfs(guest, image)), *_build(image),
    ]  # fmt: skip
    return f"{image.version}-{guest.name}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"


_PROBE = Guest("probe", (Node(512 * MIB, "0-0"),), modules=())


@functools.cache
def accelerator(image: KernelImage) -> str:
    """`kvm` where a guest answers within seconds with it, else `tcg`. $FAKESYSFS_LAB_ACCELERATOR decides if it is set.

    It is tried once for each start of the host.
    """
    chosen = os.environ.get("FAKESYSFS_LAB_ACCELERATOR")
    if chosen or not os.access(_KVM, os.R_OK | os.W_OK):
        return chosen or "tcg"
    note = _states() / f"accelerator-{Path('/proc/sys/kernel/random/boot_id').read_text(encoding='ascii').strip()}"
    if not note.is_file():
        try:
            with _start(_PROBE, image, "kvm", _as_it_is, (), restored=False):
                note.write_text("kvm", encoding="ascii")
        except LabError as error:
            say(f"guests run without KVM: with it none answers within {KVM_SECONDS} seconds ({error})")
            note.write_text("tcg", encoding="ascii")
    return note.read_text(encoding="ascii")
