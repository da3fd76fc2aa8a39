"""Real tools, unmodified, in `fakesysfs run`: Debian's daxctl, ndctl, cxl, util-linux, numactl, hwloc, udev."""

from __future__ import annotations

import json
import re
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tests.tools.conftest import Runner, need

DEVICE = "/sys/bus/dax/devices/dax0.0"
MEMORY = "/sys/devices/system/memory"


def daxctl(run: Runner, script: str, *options: str) -> list[Any]:
    """The documents that the daxctl commands of a script print; messages about them go elsewhere."""
    need("daxctl")
    text = run.shell(script, *options)
    decoder = json.JSONDecoder()
    documents = []
    while text.strip():
        document, end = decoder.raw_decode(text.lstrip())
        documents.append(document)
        text = text.lstrip()[end:]
    return documents


# daxctl ----------------------------------------------------------------------------------------------------------


def test_daxctl_lists_the_region(run: Runner) -> None:
    ((region,),) = daxctl(run, "daxctl list -DR")
    assert region["path"].endswith("dax_region0")
    assert (region["size"], region["available_size"]) == (8 << 30, 4 << 30)
    (device,) = region["devices"]
    assert device == {
        "chardev": "dax0.0",
        "size": 4 << 30,
        "target_node": 2,
        "align": 2 << 20,
        "mode": "system-ram",
        "online_memblocks": 32,
        "total_memblocks": 32,
        "movable": True,
    }


def test_daxctl_reconfigures(run: Runner) -> None:
    """There and back, with the memory offline at first."""
    script = f"""
    daxctl reconfigure-device -m devdax -f dax0.0
    echo offline > {MEMORY}/auto_online_blocks
    daxctl reconfigure-device -N -m system-ram dax0.0
    daxctl online-memory dax0.0
    daxctl list
    daxctl offline-memory dax0.0
    daxctl list
    daxctl reconfigure-device -m devdax dax0.0
    daxctl reconfigure-device -m system-ram dax0.0
    """
    devdax, offline, online, offlined, again, ram = (device for (device,) in daxctl(run, script, "--kernel", "7.2"))
    assert devdax["mode"] == again["mode"] == "devdax"
    assert [found["online_memblocks"] for found in (offline, online, offlined, ram)] == [0, 32, 0, 32]
    assert {found["total_memblocks"] for found in (offline, online, offlined, ram)} == {32}
    assert online["movable"]
    assert ram["movable"]


def test_daxctl_counts_what_it_changed(run: Runner) -> None:
    need("daxctl")
    script = "for change in offline offline online online; do daxctl $change-memory dax0.0 2>&1 || echo $?; done"
    assert re.findall(r"(\d) device", run.shell(script, "--kernel", "7.2")) == ["1", "0", "1", "0"]


def test_daxctl_leaks_the_device_of_the_series(run: Runner) -> None:
    """With the series, unbinding does not unplug: driver core and daxctl go on, and the device is lost until reboot."""
    need("daxctl")
    script = f"daxctl reconfigure-device -m devdax -f dax0.0; status=$?; ls {DEVICE}/driver 2>&1; exit $status"
    done = run("--", "bash", "-c", script)
    assert done.returncode == 234
    assert "No such file" in done.stdout
    assert "reconfigured 0 devices" in done.stderr


def test_daxctl_creates_and_destroys(run: Runner) -> None:
    script = f"""
    daxctl disable-device dax0.0 >&2
    echo 0 > {DEVICE}/size
    daxctl create-device -s 1G
    daxctl create-device -s 1G
    ls /dev/dax0.1 /dev/dax0.2 >&2
    daxctl disable-device dax0.1 >&2
    daxctl destroy-device dax0.1 >&2
    daxctl disable-device dax0.2 >&2
    daxctl list -i -d dax0.2
    daxctl enable-device dax0.2 >&2
    daxctl list
    test ! -e /dev/dax0.1
    """
    first, second, disabled, enabled = (device for (device,) in daxctl(run, script, "--machine", "cxl"))
    assert [first["chardev"], second["chardev"]] == ["dax0.1", "dax0.2"]
    assert first["size"] == second["size"] == 1 << 30
    assert disabled["state"] == "disabled"
    assert "state" not in enabled
    assert enabled["chardev"] == "dax0.2"


def test_daxctl_as_an_ordinary_user(run_as_nobody: Runner) -> None:
    script = "daxctl list; daxctl reconfigure-device -m devdax -f dax0.0"
    (ram,), (devdax,) = daxctl(run_as_nobody, script, "--kernel", "7.2")
    assert (ram["mode"], ram["online_memblocks"], devdax["mode"]) == ("system-ram", 32, "devdax")


@pytest.mark.parametrize(("tool", "machine"), [("ndctl", "default"), ("cxl", "cxl"), ("cxl", "hmem")])
def test_ndctl_and_cxl_find_nothing(run: Runner, tool: str, machine: str) -> None:
    """cxl_test's region has no hardware for cxl."""
    need(tool)
    done = run("--machine", machine, "--", tool, "list")
    assert done.returncode == 0
    assert re.fullmatch(r"(\[\s*\]\s*)?", done.stdout)


# util-linux ------------------------------------------------------------------------------------------------------


def test_lsmem(run: Runner) -> None:
    need("lsmem")
    found = json.loads(run.shell("lsmem -J -b --output-all"))["memory"]
    assert sum(entry["size"] for entry in found) == 10 << 30
    assert {(entry["node"], entry["state"]) for entry in found} == {(0, "online"), (1, "online"), (2, "online")}
    assert next(entry for entry in found if entry["node"] == 2)["zones"] == "Movable"


def test_chmem(run: Runner) -> None:
    need("chmem", "lsmem")
    script = f"""
    chmem -d -b 70-73; cat {MEMORY}/memory70/state
    chmem -e -b -z Movable 70-73; cat {MEMORY}/memory70/state
    chmem -d 1G >&2; lsmem | grep offline
    """
    output = run.shell(script)
    assert "offline\nonline\n" in output
    assert output.rstrip().endswith("1G")


def test_lscpu(run: Runner) -> None:
    need("lscpu")
    output = run.shell("lscpu")
    assert re.search(r"NUMA node\(s\): +3\n", output)
    assert re.search(r"NUMA node1 CPU\(s\): +2,3\n", output)
    assert re.search(r"\nCPU\(s\): +4\n", output)


def test_dmesg(run: Runner) -> None:
    need("dmesg")
    script = """
    dmesg | wc -l
    echo '<3>from a test' > /dev/kmsg; dmesg -x | tail -1
    dmesg -C; dmesg | wc -l
    echo more > /dev/kmsg; dmesg -c; dmesg | wc -l
    """
    lines = run.shell(script).splitlines()
    assert int(lines[0]) > 5
    assert re.fullmatch(r"user +:err +: \[ +\d+\.\d{6}\] from a test", lines[1])
    assert lines[2] == lines[4] == "0"
    assert lines[3].endswith("] more")


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ("-tC", ""),
        ("-Ct", ""),
        ("--clear", ""),
        ("-ct", "from a test\n"),
        ("-tcl err", "from a test\n"),
        ("-t --read-clear -lerr", "from a test\n"),
    ],
)
def test_dmesg_clears(run: Runner, options: str, shown: str) -> None:
    """In groups of short options too."""
    need("dmesg")
    script = f"dmesg -C; echo '<3>from a test' > /dev/kmsg; dmesg {options}; dmesg | wc -l; dmesg -tlcrit"
    assert run.shell(script) == f"{shown}0\n"


def test_dmesg_follows(run: Runner) -> None:
    need("dmesg")
    script = "(sleep 0.2; echo late > /dev/kmsg) & dmesg -w"
    with run.start("--", "sh", "-c", script, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while "late" not in process.stdout.readline():
            assert process.poll() is None
        process.terminate()


def test_dmesg_shows_what_the_fake_does(run: Runner) -> None:
    need("dmesg")
    output = run.shell(f"dmesg -C; echo dax0.0 > {DEVICE}/driver/unbind; dmesg -t")
    assert "Hotplug memory regions stuck online until reboot" in output


# numactl, hwloc --------------------------------------------------------------------------------------------------


def test_numactl(run: Runner) -> None:
    need("numactl")
    offline = f"for i in $(seq 64 95); do echo offline > {MEMORY}/memory$i/state; done"
    output = run.shell(f"numactl -H; {offline}; numactl -H")
    assert re.findall(r"node (\d) size: (\d+) MB", output) == [
        ("0", "4096"), ("1", "2048"), ("2", "4096"), ("0", "4096"), ("1", "2048"), ("2", "0"),
    ]  # fmt: skip
    assert re.search(r"^ +2: +28 +28 +10 *$", output, re.MULTILINE)


def test_numastat(run: Runner) -> None:
    need("numastat")
    output = run.shell("numastat; numastat -m")
    assert re.search(r"node0 +node1 +node2", output)
    assert re.search(r"MemTotal +4096.00 +2048.00 +4096.00 +10240.00", output)


def test_lstopo(run: Runner) -> None:
    need("lstopo-no-graphics")
    output = run.shell("lstopo-no-graphics --of console -v")
    assert re.search(r"NUMANode\(SPM\) L#2 \(P#2 .*DAXDevice=dax0.0", output)


# udev ------------------------------------------------------------------------------------------------------------


def test_udevadm(run: Runner) -> None:
    need("udevadm")
    output = run.shell(f"udevadm info {DEVICE}; udevadm trigger --dry-run --verbose --subsystem-match=memory")
    assert "E: DRIVER=kmem" in output
    assert "E: DEVNAME=/dev/dax0.0" in output
    assert output.count(f"{MEMORY}/memory") == 80


def test_udevadm_trigger(run: Runner) -> None:
    need("udevadm")
    output = run.shell(f"udevadm trigger --action=change {DEVICE}; tail -1 $FAKESYSFS_CONTROL/uevents")
    assert output.startswith("change@")
    assert "dax0.0" in output


# Modules ---------------------------------------------------------------------------------------------------------


def test_modules(run: Runner) -> None:
    script = f"""
    lsmod | sed -n 1p; lsmod | grep -c kmem
    modinfo -F filename kmem
    modinfo nosuch 2>&1 || echo $?
    modprobe nosuch 2>&1 || echo $?
    modprobe -q nosuch || echo $?
    echo dax0.0 > {DEVICE}/driver/unbind
    modprobe -rv kmem; lsmod | grep -c kmem || echo $?
    rmmod kmem 2>&1 || echo $?
    modprobe -av kmem device_dax
    rmmod kmem; modprobe -- kmem; test -d /sys/module/kmem
    modprobe kmem
    """
    lines = run.shell(script, "--kernel", "7.2").splitlines()
    assert lines[:8] == [
        "Module                  Size  Used by",
        "1",
        "(builtin)",
        "modinfo: ERROR: Module nosuch not found.",
        "1",
        lines[5],
        "1",
        "1",
    ]
    assert lines[5].startswith("modprobe: FATAL: Module nosuch not found in directory")
    assert lines[8:] == [
        "rmmod kmem",
        "0",
        "1",
        "rmmod: ERROR: Module kmem is not currently loaded",
        "1",
        "insmod kmem",
    ]


def test_module_parameters_and_needs(run: Runner) -> None:
    script = """
    modprobe -v memory_notifier_error_inject priority=1; lsmod | grep '^notifier'
    rmmod notifier_error_inject 2>&1 || echo $?
    modprobe -r memory_notifier_error_inject; lsmod | grep -c notifier || true
    modprobe kmem; modprobe -r dax_hmem; modprobe dax_hmem region_idle=maybe 2>&1 || echo $?
    modprobe dax_hmem nosuch=1 region_idle; cat /sys/module/dax_hmem/parameters/region_idle; dmesg | tail -n 2
    """
    lines = run.shell(script, "--machine", "pmem").splitlines()  # dax_cxl, where it is loaded, needs dax_hmem
    assert lines[0] == "insmod memory_notifier_error_inject priority=1"
    assert re.fullmatch(r"notifier_error_inject +\d+ +1 memory_notifier_error_inject", lines[1])
    assert lines[2:5] == [
        "rmmod: ERROR: Module notifier_error_inject is in use by: memory_notifier_error_inject", "1", "0",
    ]  # fmt: skip
    assert lines[5:8] == ["modprobe: ERROR: could not insert 'dax_hmem': Invalid argument", "1", "Y"]
    assert [line.partition("] ")[2] for line in lines[8:]] == [
        "dax_hmem: `maybe' invalid for parameter `region_idle'",
        "dax_hmem: unknown parameter 'nosuch' ignored",
    ]


@pytest.mark.parametrize("environment", ["", "env -i PATH=$PATH"])
def test_a_tool_loads_a_module_itself(run: Runner, environment: str) -> None:
    """Through libkmod, which looks neither into PATH nor, as here, into the environment."""
    need("daxctl")
    if not any(Path(directory).is_dir() for directory in ("/lib/modprobe.d", "/etc/modprobe.d")):
        pytest.skip("there is no modprobe.d")
    script = f"""
    echo offline > {MEMORY}/auto_online_blocks
    rmmod kmem; lsmod | grep -c '^kmem' || true
    {environment} daxctl reconfigure-device -m system-ram dax0.0 >&2
    lsmod | grep -c '^kmem'; cat {DEVICE}/target_node
    """
    assert run.shell(script, "--machine", "cxl", "--kernel", "7.2").split() == ["0", "1", "1"]


def test_an_unknown_module_stays_unknown_to_libkmod(run: Runner) -> None:
    done = run("--", "/bin/sh", "-c", "cat /lib/modprobe.d/*.conf /etc/modprobe.d/*.conf 2>/dev/null")
    lines = [line.split() for line in done.stdout.splitlines() if ".fakesysfs" in line]
    names = {line[1] for line in lines}
    if not names:
        pytest.skip("there is no modprobe.d")
    assert names == {line.split()[0] for line in run.shell("cat $FAKESYSFS_CONTROL/modules/known").splitlines()}
    assert all(
        line[2:] == ["/dev/.fakesysfs/bin/modprobe", "--ignore-install", line[1], "$CMDLINE_OPTS"] for line in lines
    )


def test_ndctls_way_to_a_fresh_region(run: Runner, tmp_path: Path) -> None:
    """`modprobe -r cxl_test; modprobe cxl_test` at the start of a test, the first once more at its end.

    On a machine that does not name cxl_test the second fails, so that the test is skipped.
    """
    script = f"modprobe -r cxl_test; modprobe cxl_test; modprobe -r cxl_test; cat {DEVICE}/size"
    assert run.shell(script, "--machine", "cxl").split() == [str(4 << 30)]
    assert run.shell("modprobe cxl_test 2>&1 || echo skipped").splitlines()[-1] == "skipped"
    text = resources.files("fakesysfs.machine").joinpath("machines", "cxl.toml").read_text()
    own = tmp_path / "own.toml"
    own.write_text(text.replace("modules = [", 'modules = ["cxl_test", '))
    script = f"""
    modprobe -r cxl_test; echo /sys/bus/dax/devices/* /dev/dax*
    modprobe cxl_test; cat {DEVICE}/size; stat -c %F /dev/dax0.0
    """
    lines = run.shell(script, "--machine", str(own), "--kernel", "7.2").splitlines()
    assert lines == ["/sys/bus/dax/devices/* /dev/dax*", str(4 << 30), "character special file"]


# Programs that issue system calls themselves ---------------------------------------------------------------------

STATIC = r"""
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    char text[4096];
    long file = syscall(SYS_openat, AT_FDCWD, arguments[1], O_RDWR);
    long size = syscall(SYS_read, file, text, sizeof text);
    syscall(SYS_write, 1, text, size);
    if (count > 2)
        return syscall(SYS_pwrite64, file, "offline", 7, 0) != 7;
    return file < 0;
}
"""


@pytest.fixture(scope="session")
def static_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("gcc")
    program = tmp_path_factory.mktemp("static") / "program"
    built = subprocess.run(
        ["gcc", "-static", "-x", "c", "-o", program, "-"], input=STATIC, text=True, capture_output=True, check=False
    )
    if built.returncode:
        pytest.skip(f"gcc cannot link statically: {built.stderr}")
    return program


def test_a_static_program(run: Runner, static_program: Path) -> None:
    state = f"{MEMORY}/memory70/state"
    output = run.shell(f"{static_program} {state}; {static_program} {state} write; cat {state}")
    assert output == "online\nonline\noffline\n"


def test_a_go_program(run: Runner, tmp_path: Path) -> None:
    need("go")
    source = tmp_path / "main.go"
    source.write_text(f"""
package main

import ("fmt"; "os")

func main() {{
    text, _ := os.ReadFile("{MEMORY}/memory70/state")
    fmt.Print(string(text), os.WriteFile("{MEMORY}/memory70/state", []byte("offline"), 0))
}}
""")
    subprocess.run(["go", "build", "-o", tmp_path / "program", source], check=True, env=run.environment)
    assert run.shell(f"{tmp_path}/program; cat {MEMORY}/memory70/state") == "online\n<nil>offline\n"
