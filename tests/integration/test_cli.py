# SPDX-License-Identifier: Apache-2.0
"""The program itself: help, version, exit codes, messages that say what to do next."""

import ctypes
import json
import os
import pty
import resource
import subprocess
from pathlib import Path

import pytest
from conftest import ASHLAR, wait_until

COMMANDS = ["bench", "copy", "export", "uri"]


def test_help_lists_every_command(ashlar):
    done = ashlar("--help")
    assert done.returncode == 0 and done.stderr == ""
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(ashlar, command):
    done = ashlar(command, "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(f"usage: ashlar {command} ")
    assert "--help" in done.stdout


@pytest.mark.parametrize("words", [["help", "bench"], ["bench", "-h"], ["-h"], ["help"]])
def test_other_spellings_of_help(ashlar, words):
    same = [word for word in words if word == "bench"] + ["--help"]
    done = ashlar(*words)
    assert done.returncode == 0 and done.stdout == ashlar(*same).stdout


def test_a_fault_without_its_device_is_told(ashlar):
    words = ["bench", "malloc:///m0?size_mb=1", "--ops", "1", "--inject"]
    done = ashlar(*words, "inject://m1?op=read")
    assert done.returncode == 0 and "there is no device 'm1' yet" in done.stderr
    done = ashlar(*words, "inject://m0?op=write")
    assert done.returncode == 0 and done.stderr == ""


def test_a_file_that_cannot_be_made_to_fit_says_so(ashlar):
    odd = ashlar.file("odd", (1 << 20) + 1000)
    done = ashlar("bench", f"aio://{odd}?blk_size=512", "--ops", "1")
    assert done.returncode == 1 and "truncate -s %512" in done.stderr
    assert "smaller blk_size" not in done.stderr
    done = ashlar("bench", f"aio://{odd}?blk_size=4096", "--ops", "1")
    assert done.returncode == 1 and "smaller blk_size" in done.stderr
    text = ashlar.file("text", 1000)
    done = ashlar("bench", f"aio://{text}?blk_size=512", "--ops", "1")
    assert done.returncode == 1 and "is it a disk image?" in done.stderr
    assert "truncate" not in done.stderr


def test_version(ashlar):
    done = ashlar("--version")
    assert done.returncode == 0
    name, version = done.stdout.split()
    assert name == "ashlar" and version.count(".") == 2


@pytest.mark.parametrize("words, says", [
    ([], "usage: ashlar COMMAND"),
    (["benhc"], "did you mean 'bench'"),
    (["quark"], "unknown command 'quark'"),
    (["--quark"], "unknown option --quark"),
    (["bench"], "usage: ashlar bench"),
    (["bench", "--qd", "0", "null:///n?size_mb=1"], "between 1 and 4096"),
    (["bench", "--qdd", "1", "null:///n?size_mb=1"], "did you mean --qd"),
    (["bench", "--rw", "erase", "null:///n?size_mb=1"], "randread, randwrite"),
    (["bench", "--rw", "read", "--verify", "null:///n?size_mb=1"], "--state"),
    (["bench", "--state", "x", "null:///n?size_mb=1"], "--verify"),
    (["bench", "--seed", "x", "null:///n?size_mb=1"], "--seed"),
    (["copy", "null:///n?size_mb=1"], "an argument is missing"),
    (["copy", "null:///n?size_mb=1", "null:///n?size_mb=1"], "are the same"),
    (["copy", "a", "b", "c"], "one argument too many"),
    (["export"], "usage: ashlar export"),
    (["export", "--listen", "here", "null:///n?size_mb=1"], "--listen"),
    (["export", "--listen", "127.0.0.1:99999", "null:///n?size_mb=1"], "--listen"),
    (["export", "--listen", "::1:4420", "null:///n?size_mb=1"], "[::1]:4420"),
    (["export", "--nqn", "disk", "null:///n?size_mb=1"], "--nqn disk: not an NVMe"),
    (["export", "--nqn", "nqn." + "x" * 220, "null:///n?size_mb=1"], "at most 223 bytes"),
    (["export", "--allow-host", "h1", "null:///n?size_mb=1"], "--allow-host h1: not"),
    (["export", "--ana-state", "change", "null:///n?size_mb=1"], "--ana-state needs --ana"),
    (["export", "--ana", "--ana-state", "lost", "null:///n?size_mb=1"], "persistent-loss"),
    (["export", "--cntlid-range", "7", "null:///n?size_mb=1"], "MIN-MAX"),
    (["export", "--cntlid-range", "0-7", "null:///n?size_mb=1"], "MIN-MAX"),
    (["export", "--cntlid-range", "8-7", "null:///n?size_mb=1"], "MIN-MAX"),
    (["export", "--cntlid-range", "8-65520", "null:///n?size_mb=1"], "to 65519"),
    (["export", "--crdt", "101", "null:///n?size_mb=1"], "--crdt 101: write one number or three"),
    (["export", "--crdt", "1,2", "null:///n?size_mb=1"], "--crdt 1,2: write one"),
    (["export", "--crdt", "1,2,3,4", "null:///n?size_mb=1"], "--crdt 1,2,3,4: write one"),
    (["export", "--crdt", "1,,3", "null:///n?size_mb=1"], "--crdt 1,,3: write one"),
    (["export", "--limit", "connections", "null:///n?size_mb=1"], "NAME=VALUE"),
    (["export", "--limit", "quarks=1", "null:///n?size_mb=1"], "connections-per-host"),
    (["export", "--limit", "connections=0", "null:///n?size_mb=1"], "number above 0"),
    (["export", "--limit", "connections=4294967296", "null:///n?size_mb=1"], "that fits"),
    (["export", "--limit", "memory=all", "null:///n?size_mb=1"], "number of bytes"),
    (["export", "--limit", "idle-time=soon", "null:///n?size_mb=1"], "time, such as"),
])
def test_wrong_usage_is_2(ashlar, words, says):
    done = ashlar(*words)
    assert done.returncode == 2, done
    assert says in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("uri, says", [
    ("/tmp/x", "aio:///path"),
    ("nope:///x", "unknown scheme 'nope'"),
    ("null:///n", "size"),
    ("null:///n?size_mb=1&colour=red", "colour"),
    ("malloc:///m?size_mb=one", "size_mb"),
    ("aio:///no/such/file", "no/such/file"),
    ("uring:///no/such/file", "no/such/file"),
])
def test_bad_uri_is_1(ashlar, uri, says):
    done = ashlar("bench", uri, "--ops", "1")
    assert done.returncode == 1, done
    assert says in done.stderr


def test_block_size_must_fit(ashlar):
    done = ashlar("bench", "null:///n?size_mb=1&blk_size=4096", "--bs", "512")
    assert done.returncode == 1
    assert "--bs 512" in done.stderr and "4096" in done.stderr


def test_missing_core(ashlar):
    done = ashlar("bench", "null:///n?size_mb=1", "--cores", "0x8000000000000000", "--ops", "1")
    assert done.returncode == 1
    assert "core" in done.stderr


def test_a_file_in_use_is_refused(ashlar):
    disk = ashlar.file("disk", 1 << 20)
    uri = f"aio://{disk}"
    first = ashlar.start("bench", uri, "--rw", "randwrite", "--rate", "10", "--time", "60")
    wait_until(lambda: f":{disk.stat().st_ino} " in Path("/proc/locks").read_text(),
               what="the lock of the first process")
    done = ashlar("bench", uri, "--rw", "randwrite", "--ops", "1")
    assert done.returncode == 1
    assert "disk" in done.stderr and "in use" in done.stderr
    first.terminate()
    _, err = first.communicate(timeout=20)
    assert first.returncode == 0, err


@pytest.fixture
def loop_device(ashlar):
    """A disk of 1 MiB, for root where loop devices are to be had."""
    image = ashlar.file("loop.img", 1 << 20)
    made = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"losetup cannot make a device: {made.stderr.strip()}")
    path = made.stdout.strip()
    subprocess.run(["blockdev", "--setrw", path], check=True)  # as its last user may not have
    yield path
    subprocess.run(["blockdev", "--setrw", path], check=True)
    subprocess.run(["losetup", "-d", path], check=True)


@pytest.mark.parametrize("scheme", ["aio", "uring"])
def test_a_disk_set_read_only_is_not_written(ashlar, loop_device, scheme):
    uri = f"{scheme}://{loop_device}"
    assert ashlar("bench", uri, "--rw", "write", "--ops", "1").returncode == 0
    subprocess.run(["blockdev", "--setro", loop_device], check=True)
    done = ashlar("bench", uri, "--rw", "write", "--ops", "1")
    assert done.returncode == 1 and "cannot be written to" in done.stderr
    assert "0 reads" not in done.stdout
    assert ashlar("bench", uri, "--ops", "1").returncode == 0


def test_output_that_cannot_be_written_is_a_failure(ashlar):
    with open("/dev/full", "w") as full:
        done = subprocess.run([ASHLAR, "--version"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "standard output" in done.stderr


def run_on_terminal(ashlar, *words, env=None):
    """Exit code and everything that the program writes to a terminal."""
    master, slave = pty.openpty()
    process = subprocess.Popen([ASHLAR, *words], stdout=slave, stderr=slave, stdin=slave,
                               env=dict(ashlar.env, TERM="xterm", **(env or {})))
    os.close(slave)
    text = b""
    while True:
        try:
            some = os.read(master, 4096)
        except OSError:
            break
        if not some:
            break
        text += some
    os.close(master)
    return process.wait(timeout=20), text.decode()


def test_bars_and_colours_only_on_a_terminal(ashlar):
    words = ["bench", "null:///n?size_mb=64", "--time", "0.5"]
    status, text = run_on_terminal(ashlar, *words)
    assert status == 0
    assert "[" in text and "#" in text and "IOPS" in text and "\r" in text
    done = ashlar(*words)
    assert done.returncode == 0
    assert "\033" not in done.stdout + done.stderr and "\r" not in done.stdout + done.stderr
    _, text = run_on_terminal(ashlar, "bench", "nope:///x")
    assert "\033[31m" in text
    _, text = run_on_terminal(ashlar, "bench", "nope:///x", env={"NO_COLOR": "1"})
    assert "\033" not in text


def test_uri_lists_and_explains(ashlar):
    done = ashlar("uri")
    assert done.returncode == 0
    for scheme in ("null", "malloc", "aio", "uring"):
        assert f"{scheme}:///" in done.stdout
    done = ashlar("uri", "malloc:///m0?size_mb=64&blk_size=4096")
    assert done.returncode == 0
    assert "size_mb = 64" in done.stdout and "blk_size = 4096" in done.stdout
    done = ashlar("uri", "nope:///x")
    assert done.returncode == 1 and "no scheme 'nope'" in done.stderr


def forbid_io_uring():
    """In the child: io_uring_setup() answers EPERM, as a container's seccomp profile has it."""
    class Filter(ctypes.Structure):
        _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte),
                    ("k", ctypes.c_uint)]

    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Filter))]

    filters = (Filter * 4)(Filter(0x20, 0, 0, 0),            # load the number of the call
                           Filter(0x15, 0, 1, 425),          # io_uring_setup?
                           Filter(0x06, 0, 0, 0x00050001),   # yes: EPERM
                           Filter(0x06, 0, 0, 0x7FFF0000))   # no: allow
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, ctypes.byref(Program(4, filters))) == 0  # PR_SET_SECCOMP


def test_forbidden_io_uring_is_explained():
    done = subprocess.run([ASHLAR, "bench", "null:///n?size_mb=1", "--ops", "1"],
                          preexec_fn=forbid_io_uring, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "io_uring is forbidden" in done.stderr and "seccomp" in done.stderr


def test_too_few_open_files_is_explained(ashlar):
    disks = [f"aio://{ashlar.file(f'disk{i}', 1 << 20)}" for i in range(8)]

    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))

    done = subprocess.run([ASHLAR, "bench", *disks, "--ops", "1"], preexec_fn=few,
                          capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "ulimit -n" in done.stderr


def test_uri_in_json(ashlar):
    drivers = ashlar.json("uri")
    assert {"malloc", "nvmf", "aio"} <= {d["driver"] for d in drivers}
    assert all(d["schemes"] and d["usage"] for d in drivers)
    parts = ashlar.json("uri", "nvmf://h:1/nqn.a?nsid=2&hdgst")
    assert (parts["scheme"], parts["authority"], parts["path"]) == ("nvmf", "h:1", "/nqn.a")
    assert parts["parameters"] == [{"key": "nsid", "value": "2"}, {"key": "hdgst", "value": None}]


@pytest.mark.parametrize("words", [["-o", "json"], ["--output=json"], ["--json"]])
def test_json_is_asked_for_in_one_way(ashlar, words):
    for command in (["uri"], ["bench", "null:///n?size_mb=1", "--ops", "1"]):
        done = ashlar(*command, *words)
        assert done.returncode == 0 and json.loads(done.stdout), done.stderr
        assert "-o, --output FORMAT" in ashlar(command[0], "--help").stdout
        assert "--json" not in ashlar(command[0], "--help").stdout


def test_json_of_a_name_that_is_no_utf8(ashlar):
    done = ashlar("nexus", "check", os.fsdecode(b"aio:///x\xff"), "-o", "json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["replicas"][0]["uri"] == "aio:///x?"
