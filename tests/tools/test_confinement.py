"""A run's command reaches neither the host's sysfs, nor what changes the host in /proc, nor its devices."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.tools.conftest import NOBODY, PATIENCE_SECONDS, ROOT, Runner, need

PROBE = """
for root in "" /mnt "$@"; do
    for place in "$root" "$root/sys" "$root/bus" "$root/devices/system"; do
        test "$(stat -f -c %T "$place/." 2>&-)" != sysfs || echo "the host's sysfs is at $place"
        test "$(stat -f -c %T "$place/." 2>&-)" != cgroup2fs || echo "the host's cgroups are at $place"
    done
    for proc in "$root" "$root/proc"; do
        for file in sysrq-trigger sys/kernel/core_pattern sys/kernel/printk sys/vm/drop_caches \
                sys/kernel/hostname irq/default_smp_affinity sys/net/netfilter/nf_hooks_lwtunnel; do
            test ! -w "$proc/$file" || echo "$proc/$file can be written"
        done
    done
    for dev in "$root" "$root/dev"; do
        for name in vda sda nvme0n1 loop0 zram0 ram0 mem port kvm loop-control autofs btrfs-control vsock own-node; do
            # Opened, not asked for: only that tells what nodev and a user namespace keep away.
            ! dd "if=$dev/$name" count=0 iflag=nonblock 2>&- || echo "the device $dev/$name can be opened"
        done
        ! dd "if=$dev/kmsg" count=0 2>&- || test -f "$dev/kmsg" || echo "$dev/kmsg is the host's"
    done
done
echo probed
"""
"""Says what of the host can be reached at / and /mnt, and below the directories in its arguments."""

WAYS = {
    "nothing": "",
    "umount": "umount /sys; umount /dev; umount /proc",
    "umount -l": "umount -l /sys; umount -l /dev; umount -l /proc",
    "umount -R -l": "umount -R -l /sys; umount -R -l /dev; umount -R -l /proc",
    "umount of all layers": "for i in 1 2 3 4 5; do umount -l /sys; umount -l /dev; umount -l /proc/sys; done",
    "umount of our own directory": "umount /dev/.fakesysfs; umount -l /dev/.fakesysfs; umount -l /dev/.fakesysfs/root",
    "umount of parts of proc": "cd /proc; umount -l sysrq-trigger irq sys/kernel/tainted sys/net; umount -l sys; cd /",
    "umount of the root": "umount -l /",
    "mount of sysfs": "mount -t sysfs sysfs /mnt",
    "mount of sysfs at its place": "mount -t sysfs sysfs /sys",
    "ip netns exec": """
        mount -t tmpfs tmpfs /run && ip netns add other && ip netns exec other sh -c "$PROBE"
    """,
    "new mount and network namespaces": """
        unshare -mn sh -c 'umount -l /sys; umount -l /dev; mount -t sysfs sysfs /mnt; eval "$PROBE"'
    """,
    "a new user namespace": """
        unshare -Urmn sh -c 'umount -l /sys; umount -l /dev; mount -t sysfs sysfs /mnt; eval "$PROBE"'
    """,
    "a new PID namespace": """
        unshare -Urmnpf sh -c 'mount -t proc proc /mnt; eval "$PROBE"'; unshare -pf --mount-proc sh -c "$PROBE"
    """,
    "mount --bind of the root": "mount --bind / /mnt",
    "mount --rbind of the root": "mount --rbind / /mnt; umount -l /mnt/sys; umount -l /mnt/dev; umount -l /mnt/proc",
    "mount --bind of a hidden /dev": "mount --bind /dev/.fakesysfs/dev /mnt; set -- /dev/.fakesysfs/dev",
    "mount --move": "mount --move /sys /mnt; mount --move /dev /mnt; mount --move /proc /mnt",
    "overlayfs": "mount -t overlay -o lowerdir=/ overlay /mnt",
    "devtmpfs": "mount -t devtmpfs devtmpfs /mnt",
    "mknod": "mount -t tmpfs -o dev tmpfs /mnt; mknod /mnt/vda b 254 0; mknod /mnt/mem c 1 1; mknod /mnt/loop0 b 7 0",
    "cgroup": "mount -t cgroup2 cgroup2 /mnt",
    "a new cgroup namespace": """
        unshare -mC sh -c 'mount -t cgroup2 cgroup2 /mnt; eval "$PROBE"'
        unshare -UrmC sh -c 'mount -t cgroup2 cgroup2 /mnt; eval "$PROBE"'
    """,
    "mount of proc": "mount -t proc proc /mnt",
    "remount of proc": """
        for at in /proc /proc/sys /proc/sysrq-trigger /proc/irq; do
            mount -o remount,rw $at; mount -o remount,bind,rw $at
        done
    """,
    "the init's namespaces": 'nsenter -t 1 -m sh -c "$PROBE"; nsenter -t 1 -a sh -c "$PROBE"',
    "the namespaces of all processes": """
        for pid in $(ls /proc | grep '^[0-9]'); do nsenter --mount=/proc/$pid/ns/mnt sh -c "$PROBE"; done
        for pid in $(ls /proc | grep '^[0-9]'); do nsenter -t $pid -U -m sh -c "$PROBE"; done
    """,
    "files of all processes": """
        for at in /proc/[0-9]*/root /proc/[0-9]*/cwd /proc/[0-9]*/fd/*; do
            ! test -d "$at/." || set -- "$@" "$at" "$at/.." "$at/../.."
        done
    """,
    "chroot": """
        for pid in $(ls /proc | grep '^[0-9]'); do chroot /proc/$pid/root sh -c "$PROBE"; done
        chroot /dev/.fakesysfs /bin/sh -c "$PROBE"
    """,
    "pivot_root": """
        mount --rbind / /mnt && cd /mnt && pivot_root . mnt && umount -l mnt; umount -l /sys; umount -l /dev
    """,
}  # fmt: skip
"""Each is tried with all rights that the command has; most of its commands are meant to be refused."""


def probe(run: Runner, way: str = "", *options: str, directory: Path = ROOT) -> None:
    """Try `way` in a run: nothing of the host may be found."""
    run.environment |= {"PROBE": PROBE, "PYTHONPATH": str(ROOT)}
    script = f'exec 2>/dev/null; {way}\neval "$PROBE"'
    done = subprocess.run(
        run.line(*options, "--", "sh", "-c", script), cwd=directory, env=run.environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    assert set(done.stdout.splitlines()) == {"probed"}, done.stdout + done.stderr


def need_for(way: str) -> None:
    need("unshare", "nsenter")
    if way == "ip netns exec":
        need("ip")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root")
@pytest.mark.parametrize("way", WAYS)
def test_root_does_not_reach_the_host(run: Runner, way: str) -> None:
    need_for(way)
    probe(run, WAYS[way])


@pytest.mark.parametrize("way", WAYS)
def test_an_ordinary_user_does_not_reach_the_host(run_as_nobody: Runner, way: str) -> None:
    need_for(way)
    probe(run_as_nobody, WAYS[way])


@pytest.mark.parametrize(
    "way", ["umount -R -l", "the namespaces of all processes", "files of all processes", "mount of proc"]
)
def test_nor_where_there_is_no_pid_namespace(run_as_nobody: Runner, way: str) -> None:
    """The launcher and all processes of the user can be seen then."""
    script = 'mount -t tmpfs none /proc/irq; exec "$@"'
    run_as_nobody.wrapper = ["unshare", "-m", "sh", "-c", script, "sh", *run_as_nobody.wrapper]
    probe(run_as_nobody, WAYS[way])


@pytest.mark.parametrize("options", [["--host-network"], ["--mount"], ["--udev", "--rules", "none"]])
def test_nor_with_other_options(run: Runner, tmp_path: Path, options: list[str]) -> None:
    if "--udev" in options:
        need("/usr/lib/systemd/systemd-udevd")
    if options == ["--mount"]:
        options = ["--mount", str(tmp_path)]
    probe(run, f"{WAYS['umount -R -l']}; {WAYS['mount of sysfs']}; {WAYS['files of all processes']}", *options)


ELSEWHERE = """
mkdir -p "$0/sys" "$0/proc" "$0/dev" "$0/directory" "$0/closed/sys"
chmod 700 "$0/closed" && mount -t sysfs sysfs "$0/closed/sys"
mount -t sysfs sysfs "$0/sys" && mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev"
mount --bind /sys/devices/system "$0/directory"
cd "$0"; exec "$@"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount them")
@pytest.mark.parametrize("user", [0, NOBODY])
def test_what_the_host_has_mounted_elsewhere(run: Runner, run_as_nobody: Runner, public_path: Path, user: int) -> None:
    """As for a chroot."""
    run = run_as_nobody if user else run
    run.wrapper = ["unshare", "-m", "sh", "-c", ELSEWHERE, str(public_path), *run.wrapper]
    places = f"{public_path} {public_path}/closed {public_path}/directory"
    probe(run, f"set -- {places}; umount -l {public_path}/sys; umount -l {public_path}/proc")


HIDDEN = """
mount -t tmpfs tmpfs "$0" && mkdir "$0/below" && mount -t "$1" "$1" "$0/below" && mount -t tmpfs tmpfs "$0" || exit 99
shift; exec "$@"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount them")
@pytest.mark.parametrize("kind", ["sysfs", "proc"])
@pytest.mark.parametrize("options", [[], ["--host-network"]])
def test_what_the_host_has_mounted_below_another_mount(
    run: Runner, tmp_path: Path, kind: str, options: list[str]
) -> None:
    """It cannot be covered, and the kernel would let root's command mount another one."""
    run.wrapper = ["unshare", "-m", "sh", "-c", HIDDEN, str(tmp_path), kind, *run.wrapper]
    done = run(*options, "--", "echo", "started")
    assert (done.returncode, done.stdout) == (2, "")
    assert "a sysfs or proc of the host is mounted where it cannot be covered" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make one")
def test_a_removed_cgroup_as_the_working_directory(run: Runner) -> None:
    """From there `..` leads to the rest of the host's /sys."""
    for base in map(Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")):
        group = base / f"fakesysfs-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        script = f'cd {group}; rmdir {group}; exec "$@"'
        run.wrapper = ["sh", "-c", script, "sh", *run.wrapper]
        done = run("--", "sh", "-c", "pwd; stat -f -c %T . .. ../..")
        assert done.stdout.splitlines()[0] == "/"
        assert "sysfs" not in done.stdout
        return
    pytest.skip("no cgroup can be made here")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make one")
def test_a_device_node_among_the_hosts_files(run: Runner, tmp_path: Path) -> None:
    os.mknod(tmp_path / "own-node", 0o60666, os.makedev(7, 0))
    if subprocess.run(["dd", f"if={tmp_path}/own-node", "count=0"], check=False, capture_output=True).returncode:
        pytest.skip("this host has no such device")
    probe(run, f"set -- {tmp_path}; mount -o remount,bind,dev /")


@pytest.mark.parametrize("directory", ["/sys/firmware", "/sys/fs", "/dev/shm/..", "/proc/sys/vm"])  # noqa: S108
def test_a_working_directory_that_the_fake_has_not(run: Runner, directory: str) -> None:
    if not os.path.isdir(directory):
        pytest.skip("this host has no such directory")
    probe(run, "set -- . .. ../.. ../../..", directory=Path(directory))


def test_what_the_command_may_still_do(run: Runner) -> None:
    """In its own namespaces it is root."""
    script = """
    mount -t tmpfs tmpfs /mnt; mkdir /mnt/a; mount --rbind /sys /mnt/a; test -d /mnt/a/bus/dax; umount -l /mnt
    echo 1 > /proc/sys/net/ipv4/ip_forward; cat /proc/sys/net/ipv4/ip_forward
    echo 5 > /proc/sys/vm/nr_hugepages; cat /proc/sys/vm/nr_hugepages
    unshare -Urmn mount -t tmpfs tmpfs /mnt; echo comm > /proc/self/comm
    echo text > /dev/null; head -c 1 /dev/zero | wc -c
    """
    assert run.shell(script).split() == ["1", "5", "1"]
