"""The fixtures, in a project that uses them."""

from __future__ import annotations

import select
import subprocess
import sys
from pathlib import Path

import pytest

from fakesysfs.fuse.mount_table import TYPE, mounts

pytest_plugins = ["pytester"]

HOTPLUG = "/sys/bus/dax/devices/dax0.0/hotplug"


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """An empty project; nothing may be left of its tests."""
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Its tests, in a pytest of their own. No mount may be left."""
    result = project.runpytest_subprocess("-q", "-p", "no:cacheprovider", "-p", "no:trio", *arguments, timeout=60)
    assert [mount for mount in mounts() if mount.type == TYPE and str(project.path) in mount.point] == []
    return result


@pytest.mark.mount
def test_machine_of_ones_own(project: pytest.Pytester) -> None:
    project.makepyfile(f"""
        import errno, os, pytest

        def test_files(fakesysfs_machine):
            machine = fakesysfs_machine
            assert (machine.machine, machine.kernel) == ("default", "hotplug-v3")
            assert machine.path.is_mount()
            assert (machine.sys / "bus/dax/devices/dax0.0/hotplug").read_text() == "online_movable\\n"
            assert (machine.dev / "dax0.0").is_char_device()
            assert "dax0.0" in (machine.proc / "iomem").read_text()
            assert (machine.control / "kernel").read_text() == "hotplug-v3\\n"
            before = len(machine.uevents)
            machine.trace_writes()
            machine.write("{HOTPLUG}", "unplug")
            assert machine.uevents[before].action == "offline"
            with pytest.raises(OSError) as refused:
                machine.write("{HOTPLUG}", "nonsense")
            assert refused.value.errno == errno.EINVAL
            assert machine.refused[-1].where == "dax_kmem_parse_state"
            assert [write.result for write in machine.writes] == ["6", "EINVAL"]
            assert machine.stat("{HOTPLUG}").st_size == 4096

        def test_another_one(fakesysfs_machine):
            assert fakesysfs_machine.read("{HOTPLUG}") == "online_movable\\n"
    """)
    run(project).assert_outcomes(passed=2)


@pytest.mark.mount
@pytest.mark.tools
def test_commands(project: pytest.Pytester) -> None:
    project.makepyfile(f"""
        import subprocess, pytest

        def test_run(fakesysfs_shared_machine, tmp_path):
            machine = fakesysfs_shared_machine
            done = machine.run("echo unplug > {HOTPLUG}; cat {HOTPLUG}; exit 3")
            assert (done.stdout, done.stderr, done.returncode) == ("unplugged\\n", "", 3)
            assert machine.read("{HOTPLUG}") == "unplugged\\n"
            assert machine.run(["cat"], input="text", cwd=tmp_path).stdout == "text"
            assert machine.run(["env"], env={{"ONLY": "this", "PATH": "/usr/bin:/bin"}}).stdout.count("ONLY=this") == 1
            with pytest.raises(subprocess.CalledProcessError):
                machine.run(["false"], check=True)
            with pytest.raises(subprocess.TimeoutExpired):
                machine.run(["sleep", "1000"], timeout=0.5)

        def test_booted_again(fakesysfs_shared_machine):
            assert fakesysfs_shared_machine.read("{HOTPLUG}") == "online_movable\\n"
            assert fakesysfs_shared_machine.refused == []

        def test_started(fakesysfs_machine):
            machine = fakesysfs_machine
            machine.pin(70)
            writer = machine.start("echo unplug > {HOTPLUG}", stderr=subprocess.PIPE)
            with open(machine.control / "uevents_new") as events:
                machine.write("/sys/devices/system/memory/memory64/uevent", "change")
                assert events.readline().startswith("change@")
            assert writer.poll() is None
            forgotten = machine.start(["sleep", "1000"])

        def test_udev(fakesysfs_machine, tmp_path):
            rule = tmp_path / "10.rules"
            rule.write_text('SUBSYSTEM=="memory", ACTION=="offline", ATTR{{state}}="online_kernel"')
            script = "cd /sys/bus/memory/devices/memory64; echo offline > state; udevadm settle; cat state valid_zones"
            done = fakesysfs_machine.run(script, udev=True, rules=[rule])
            assert done.stdout.split() == ["online", "Normal"], done.stderr
    """)
    run(project).assert_outcomes(passed=4)


@pytest.mark.ci
def test_in_process_and_what_is_wanted(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameter, marker, command line, ini-file, environment, default: the first that says something."""
    project.makepyfile("""
        import pytest

        def kernel(machine):
            return machine.read("/control/kernel").strip()

        def test_none(fakesysfs_in_process, request):
            assert kernel(fakesysfs_in_process) == request.config.getini("expected")

        @pytest.mark.fakesysfs(kernel="7.2", machine="tiny")
        class TestMarked:
            def test_of_class(self, fakesysfs_in_process):
                assert kernel(fakesysfs_in_process) == "7.2"
                assert 'one block' in fakesysfs_in_process.read("/control/machine.toml")

            @pytest.mark.fakesysfs(kernel="7.3")
            def test_nearest(self, fakesysfs_in_process):
                assert kernel(fakesysfs_in_process) == "7.3"
                assert 'one block' in fakesysfs_in_process.read("/control/machine.toml")

        @pytest.mark.parametrize("fakesysfs_in_process", [{"kernel": "7.2"}, {"kernel": "7.3"}], indirect=True)
        def test_parameter(fakesysfs_in_process, request):
            wanted = request.node.callspec.params["fakesysfs_in_process"]["kernel"]
            assert kernel(fakesysfs_in_process) == wanted

        @pytest.mark.fakesysfs(machine="own.toml")
        def test_file_beside_the_test(fakesysfs_in_process):
            assert "beside the test" in fakesysfs_in_process.read("/control/machine.toml")
    """)
    tiny = Path(__file__).parents[2] / "fakesysfs" / "machine" / "machines" / "tiny.toml"
    (project.path / "own.toml").write_text(f"# beside the test\n{tiny.read_text()}")
    project.makeconftest("def pytest_addoption(parser): parser.addini('expected', '')")
    ini = "[pytest]\nexpected = {}\n{}"
    (project.path / "pytest.ini").write_text(ini.format("hotplug-v3", ""))
    run(project).assert_outcomes(passed=6)
    monkeypatch.setenv("FAKESYSFS_KERNEL", "hotplug-v3-as-posted")
    (project.path / "pytest.ini").write_text(ini.format("hotplug-v3-as-posted", ""))
    run(project).assert_outcomes(passed=6)
    (project.path / "pytest.ini").write_text(ini.format("7.3", "fakesysfs_kernel = 7.3"))
    run(project).assert_outcomes(passed=6)
    (project.path / "pytest.ini").write_text(ini.format("7.2", "fakesysfs_kernel = 7.3"))
    run(project, "--fakesysfs-kernel", "7.2").assert_outcomes(passed=6)


UNKNOWN = """
    import pytest

    @pytest.mark.fakesysfs(kernel="6.6")
    def test_kernel({0}): ...

    @pytest.mark.fakesysfs(machine="nowhere.toml")
    def test_machine({0}): ...

    @pytest.mark.parametrize("{0}", ["7.2"], indirect=True)
    def test_no_dictionary({0}): ...

    @pytest.mark.parametrize("{0}", [{{"colour": "red"}}], indirect=True)
    def test_no_such_key({0}): ...
"""


@pytest.mark.parametrize(
    "fixture",
    [
        "fakesysfs_in_process",
        pytest.param("fakesysfs_machine", marks=pytest.mark.mount),
        pytest.param("fakesysfs_shared_machine", marks=pytest.mark.mount),
    ],
)
def test_what_does_not_exist(project: pytest.Pytester, fixture: str) -> None:
    """Is an error of the test: a sentence, without a traceback."""
    project.makepyfile(UNKNOWN.format(fixture))
    result = run(project)
    result.assert_outcomes(errors=4)
    expected = 'expected a dictionary such as {"machine": "default", "kernel": "7.2"}'
    result.stdout.fnmatch_lines(
        [
            "fakesysfs: unknown kernel '6.6' (choose from *",
            "fakesysfs: *nowhere.toml: *",
            f"fakesysfs: parameter '7.2' of {fixture}: {expected}",
            f"fakesysfs: parameter {{'colour': 'red'}} of {fixture}: {expected}",
        ]
    )
    for line in result.stdout.lines:
        assert not line.startswith((">", "E ")), "a traceback"


def test_wrong_markers(project: pytest.Pytester) -> None:
    """Fail the test, also one without a fixture, and are not ignored: it would run on another kernel."""
    project.makepyfile("""
        import pytest

        @pytest.mark.fakesysfs("7.2")
        def test_positional(fakesysfs_in_process): ...

        @pytest.mark.fakesysfs("7.2")
        def test_without_fixture(): ...

        @pytest.mark.fakesysfs(colour="red", kernel="7.2")
        class TestClass:
            def test_keyword(self, fakesysfs_in_process): ...

        @pytest.mark.fakesysfs
        def test_empty(fakesysfs_in_process): ...
    """)
    result = run(project)
    result.assert_outcomes(errors=3, passed=1)
    right = "expected @pytest.mark.fakesysfs(machine=..., kernel=...), one of them or both"
    result.stdout.fnmatch_lines(
        [
            f"@pytest.mark.fakesysfs('7.2'): {right}",
            f"@pytest.mark.fakesysfs('7.2'): {right}",
            f"@pytest.mark.fakesysfs(colour='red', kernel='7.2'): {right}",
        ]
    )


def test_tracebacks_end_in_the_test(project: pytest.Pytester) -> None:
    """The last line that pytest shows is the user's: no frame of fakesysfs is in the way."""
    project.makepyfile(f"""
        import asyncio
        from fakesysfs.testing import Machine

        def test_write(fakesysfs_in_process):
            fakesysfs_in_process.write("{HOTPLUG}", "nonsense")

        def test_list(fakesysfs_in_process):
            fakesysfs_in_process.ls("/nowhere")

        def test_hangs(fakesysfs_in_process):
            fakesysfs_in_process.pin(70)
            fakesysfs_in_process.write("{HOTPLUG}", "unplug")

        def test_waits(fakesysfs_in_process):
            fakesysfs_in_process.watch().wait_for_uevent("online", timeout=1)

        def test_assertion_in_a_callback(fakesysfs_in_process):
            def condition():
                assert False, "the user's own"
            fakesysfs_in_process.wait_until(condition)

        def test_async():
            async def write():
                async with Machine() as machine:
                    await machine.write("{HOTPLUG}", "nonsense")
            asyncio.run(write())

        def test_unknown():
            Machine(kernel="6.6")
    """)
    result = run(project)
    result.assert_outcomes(failed=7)
    places = [line for line in result.stdout.lines if line.partition(":")[0].endswith(".py")]
    assert [line for line in places if "fakesysfs/" in line] == []
    refusal = "*[[]dax_kmem_parse_state]"
    result.stdout.fnmatch_lines(
        [
            '>*fakesysfs_in_process.write(*, "nonsense")', "E *Invalid argument*", f"E {refusal}",
            '>*fakesysfs_in_process.ls("/nowhere")', "E *No such file or directory*",
            '>*fakesysfs_in_process.write(*, "unplug")', "E *WaitsForeverError*",
            '>*wait_for_uevent("online", timeout=1)', "E *no uevent online@*",
            '>*assert False, "the user\'s own"',
            '>*await machine.write(*, "nonsense")', "E *Invalid argument*", f"E {refusal}",
            '>*Machine(kernel="6.6")', "E *ValueError: unknown kernel '6.6'*",
        ]
    )  # fmt: skip
    full = run(project, "--full-trace", "-k", "test_write")
    assert any("fakesysfs/testing/machine.py" in line for line in full.stdout.lines)


@pytest.mark.mount
@pytest.mark.tools
def test_a_command_that_fails(project: pytest.Pytester) -> None:
    """The error names the user's command, its status and what it printed, not how fakesysfs starts it."""
    project.makepyfile("""
        import subprocess

        def test_script(fakesysfs_shared_machine):
            fakesysfs_shared_machine.run("echo said; echo why >&2; exit 3", check=True)

        def test_much_output(fakesysfs_shared_machine):
            fakesysfs_shared_machine.run("seq 100; kill -9 $$", check=True)

        def test_too_slow(fakesysfs_shared_machine, tmp_path):
            fakesysfs_shared_machine.run(["sleep", "1000"], timeout=0.5)

        def test_started(fakesysfs_shared_machine, tmp_path):
            fakesysfs_shared_machine.start(["sleep", tmp_path]).wait(0)
    """)
    result = run(project)
    result.assert_outcomes(failed=4)
    text = result.stdout.str()
    assert "'-m', 'fakesysfs'" not in text
    assert "mounted.py" not in text
    result.stdout.fnmatch_lines(
        [
            "E *CalledProcessError: Command 'echo said; echo why >&2; exit 3' returned non-zero exit status 3.",
            "E *standard output:", "E *  said", "E *standard error:", "E *  why",
            "E *Command 'seq 100; kill -9 $$' died with <Signals.SIGKILL: 9>.",
            "E *standard output:", "E *  ... (70 lines before)", "E *  71", "E *  100", "E *standard error:",
            "E *  (empty)",
            "E *TimeoutExpired: Command '[[]'sleep', '1000']' timed out after 0.5 seconds",
            "E *TimeoutExpired: Command '[[]'sleep', '*']' timed out after 0 seconds",
        ]
    )  # fmt: skip


@pytest.mark.ci
def test_where_fuse_cannot_be_used(project: pytest.Pytester) -> None:
    """Skipped, with the reason; failed where that was asked for."""
    project.makepyfile("""
        def test_own(fakesysfs_machine): ...
        def test_shared(fakesysfs_shared_machine): ...
        def test_in_process(fakesysfs_in_process): ...
    """)
    project.makeconftest("""
        import fakesysfs.fuse.mount
        fakesysfs.fuse.mount._DEVICE = "/nonexistent/fuse"
    """)
    result = run(project, "-rs")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED*FUSE does not work here: /nonexistent/fuse is missing*"])
    for arguments, ini in ((["--fakesysfs-require"], ""), ([], "[pytest]\nfakesysfs_require = true")):
        (project.path / "pytest.ini").write_text(ini)
        result = run(project, *arguments)
        result.assert_outcomes(passed=1, errors=2)
        result.stdout.fnmatch_lines(["*FUSE does not work here: /nonexistent/fuse is missing*"])
        result.stdout.no_fnmatch_line("*Traceback*")
        result.stdout.no_fnmatch_line("*another exception occurred*")


@pytest.mark.mount
def test_a_shared_machine_keeps_nothing_of_a_test(project: pytest.Pytester) -> None:
    """Neither its programs nor its trace, and a bug of the fake is an error of the test that met it."""
    project.makepyfile("""
        import subprocess, pytest

        started = []

        def test_one(fakesysfs_shared_machine):
            machine = fakesysfs_shared_machine
            machine.trace_writes()
            started.append(machine.start("exec sleep 1000"))
            (machine.control / "kernel").chmod(0o600)
            machine.write("/sys/bus/dax/devices/dax0.0/hotplug", "unplug")

        def test_two(fakesysfs_shared_machine):
            machine = fakesysfs_shared_machine
            assert started[0].poll() is not None
            machine.write("/sys/devices/system/memory/memory64/state", "offline")
            assert machine.writes == []
            assert (machine.control / "kernel").stat().st_mode & 0o777 == 0o444

        def test_bug(fakesysfs_shared_machine):
            with open(fakesysfs_shared_machine.path.parent / "server.log", "a") as log:
                log.write("a traceback")

        def test_after_the_bug(fakesysfs_shared_machine): ...
    """)
    result = run(project)
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_bug*", "*RuntimeError: the server*", "*a traceback*"])


@pytest.mark.mount
def test_the_report_of_a_failed_test_has_refusals_and_log(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import pytest

        STATE = "/sys/devices/system/memory/memory64/state"

        @pytest.mark.parametrize("kind", ["fakesysfs_machine", "fakesysfs_shared_machine", "fakesysfs_in_process"])
        def test_that_fails(kind, request):
            machine = request.getfixturevalue(kind)
            with pytest.raises(OSError):
                machine.write(STATE, "nonsense")
            for number in range(25):
                machine.write("/control/dev_kmsg", f"message {number} of {kind}")
            raise AssertionError

        def test_that_passes(fakesysfs_in_process):
            with pytest.raises(OSError):
                fakesysfs_in_process.write(STATE, "passed")

        def test_without_a_machine():
            raise AssertionError
    """)
    result = run(project, "-p", "no:randomly")
    result.assert_outcomes(passed=1, failed=4)
    refused = (
        "*: /sys/devices/system/memory/memory64/state 'nonsense': EINVAL: 'nonsense' is not one of * [[]state_store]"
    )
    for kind in ("fakesysfs_machine", "fakesysfs_shared_machine", "fakesysfs_in_process"):
        result.stdout.fnmatch_lines(
            [
                "*- fakesysfs: refused -*",
                refused,
                "*- fakesysfs: kernel log -*",
                "... (* lines before)",
                f"[[]*] message 5 of {kind}",
                f"[[]*] message 24 of {kind}",
            ]
        )
    text = result.stdout.str()
    assert text.count("fakesysfs: refused") == 3
    assert "message 4 of" not in text
    assert "passed'" not in text


@pytest.mark.mount
def test_the_report_of_a_test_that_killed_its_server(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import os, signal

        def test_it(fakesysfs_machine):
            os.kill(int(fakesysfs_machine.read("/control/pid")), signal.SIGKILL)
            raise AssertionError("of the test")
    """)
    result = run(project)
    result.stdout.fnmatch_lines(["*AssertionError: of the test*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


@pytest.mark.ci
@pytest.mark.mount
def test_workers_side_by_side(project: pytest.Pytester) -> None:
    """Under pytest-xdist each worker has mounts of its own, and its tests do not see the others' changes."""
    pytest.importorskip("xdist")
    project.makepyfile(f"""
        import pytest

        @pytest.mark.parametrize("number", range(12))
        def test_it(fakesysfs_shared_machine, number):
            machine = fakesysfs_shared_machine
            for word, state in (("unplug", "unplugged"), ("online", "online"), ("unplug", "unplugged")):
                machine.write("{HOTPLUG}", word)
                assert machine.read("{HOTPLUG}").strip() == state
    """)
    run(project, "-n", "3").assert_outcomes(passed=12)


@pytest.mark.mount
def test_pytest_that_is_killed(project: pytest.Pytester) -> None:
    """Takes its servers and their mounts along, and the commands that it started."""
    project.makepyfile("""
        import os, signal

        def test_it(fakesysfs_machine, tmp_path):
            fifo = tmp_path / "fifo"
            os.mkfifo(fifo)
            started = fakesysfs_machine.start(f"exec 3<>{fifo}; echo up >&3; sleep 1000")
            assert fifo.open().readline() == "up\\n"
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    # With -s the command has standard output, too: this ends when it has ended.
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-qs", "-p", "no:cacheprovider", f"--basetemp={project.path / 'base'}"],
        cwd=project.path, stdout=subprocess.PIPE, check=False, timeout=60,
    )  # fmt: skip
    assert result.returncode < 0
    with open("/proc/self/mountinfo", "rb") as table:
        poll = select.poll()
        poll.register(table, select.POLLPRI | select.POLLERR)
        while any(mount.type == TYPE and str(project.path) in mount.point for mount in mounts()):
            assert poll.poll(20000), "the mount is still there"


@pytest.mark.mount
@pytest.mark.parametrize("workers", [[], pytest.param(["-n", "2"], marks=pytest.mark.ci)], ids=["alone", "xdist"])
def test_a_test_that_another_plugin_ends(project: pytest.Pytester, workers: list[str]) -> None:
    """pytest-timeout's signal ends a call that hangs in the fake; the next test finds the machine as booted."""
    pytest.importorskip("pytest_timeout")
    if workers:
        pytest.importorskip("xdist")
    project.makepyfile(f"""
        import pytest

        @pytest.mark.timeout(1, method="signal", func_only=True)
        def test_hangs_in_a_write(fakesysfs_shared_machine):
            fakesysfs_shared_machine.pin(70)
            fakesysfs_shared_machine.write("{HOTPLUG}", "unplug")

        def test_after_the_write(fakesysfs_shared_machine):
            assert fakesysfs_shared_machine.read("{HOTPLUG}") == "online_movable\\n"

        @pytest.mark.timeout(1, method="signal", func_only=True)
        def test_waits(fakesysfs_shared_machine):
            fakesysfs_shared_machine.watch().wait_for_uevent("online")

        @pytest.mark.timeout(1, method="signal", func_only=True)
        def test_own_machine(fakesysfs_machine):
            fakesysfs_machine.pin(70)
            fakesysfs_machine.write("{HOTPLUG}", "unplug")

        def test_after_all(fakesysfs_shared_machine):
            fakesysfs_shared_machine.write("{HOTPLUG}", "unplug")
            assert fakesysfs_shared_machine.read("{HOTPLUG}") == "unplugged\\n"
    """)
    result = run(project, *workers)
    result.assert_outcomes(passed=2, failed=3)
    result.stdout.fnmatch_lines_random(
        ['>*shared_machine.write(*, "unplug")', "E *Failed: Timeout (>1.0s) from pytest-timeout."]
    )


@pytest.mark.mount
@pytest.mark.tools
def test_a_command_that_another_plugin_ends(project: pytest.Pytester) -> None:
    pytest.importorskip("pytest_timeout")
    project.makepyfile("""
        import os, pytest

        @pytest.mark.timeout(2, method="signal", func_only=True)
        def test_run(fakesysfs_shared_machine, tmp_path_factory):
            fifo = tmp_path_factory.getbasetemp() / "fifo"
            os.mkfifo(fifo)
            fakesysfs_shared_machine.run(f"exec 3<>{fifo}; sleep 1000")

        def test_it_is_gone(fakesysfs_shared_machine, tmp_path_factory):
            with pytest.raises(OSError):  # nothing has it open any more
                os.open(tmp_path_factory.getbasetemp() / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    """)
    run(project).assert_outcomes(passed=1, failed=1)


def test_nothing_is_imported_for_those_who_do_not_use_it(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import sys

        def test_it():
            others = {"pyfuse3", "trio", "msgspec", "asyncio", "multiprocessing"}
            assert [name for name in sys.modules if name.partition(".")[0] in {"fakesysfs", *others}] == [
                "fakesysfs", "fakesysfs.pytest_plugin"
            ]
    """)
    run(project).assert_outcomes(passed=1)


def test_traces_and_timelines_of_tests(project: pytest.Pytester) -> None:
    project.makepyfile(f"""
        import pytest

        @pytest.mark.parametrize("word", ["unplug", "nonsense"])
        def test_write(fakesysfs_in_process, word):
            fakesysfs_in_process.write("{HOTPLUG}", word)
    """)
    run(project, "--fakesysfs-trace", "traces").assert_outcomes(passed=1, failed=1)
    files = sorted((project.path / "traces").iterdir())
    name = "test_traces_and_timelines_of_tests.py-test_write-{}-fakesysfs_in_process.{}"
    assert [file.name for file in files] == [
        name.format(word, form) for word in ("nonsense", "unplug") for form in ("html", "jsonl")
    ]
    assert '"EINVAL"' in files[0].read_text()
    assert '"data":"unplug"' in files[3].read_text()


@pytest.mark.mount
def test_trace_of_a_mount(project: pytest.Pytester) -> None:
    project.makepyfile(f"""
        def test_read(fakesysfs_machine):
            fakesysfs_machine.read("{HOTPLUG}")
    """)
    run(project, "--fakesysfs-trace", "traces").assert_outcomes(passed=1)
    (trace,) = (project.path / "traces").glob("*.jsonl")
    assert '"data":"online_movable\\n"' in trace.read_text()
    assert trace.with_suffix(".html").exists()
