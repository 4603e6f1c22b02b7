#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""harness_test - the harness itself, without a guest: what it must notice, and what it writes.

Speaks TAP, needs neither QEMU nor a kernel. The cases proper are checked by running them against
Linux' own target (run --target nvmet).
"""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import types
import unittest
from pathlib import Path
from unittest import mock

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

import cables  # noqa: E402
import harness  # noqa: E402
import image  # noqa: E402
from guest import Guest, GuestError, GuestLost, Result, WaitTimeout, wait_until  # noqa: E402
from host_side import HostSide  # noqa: E402
from program import Program, ProgramError  # noqa: E402
from targets import Ashlar, Namespace, TargetError  # noqa: E402


class FakeGuest:
    """Answers everything with success; its kernel log is a list."""

    kernel = "k612"

    def __init__(self):
        self.log, self.killed = [], False

    def run(self, script, timeout_s=60, check=True):
        if "/dev/kmsg" in script:
            self.log.append(script.split("'")[1])
        return Result(0, "\n".join(self.log) if script == "dmesg" else "")

    def kill(self):
        self.killed = True

    def flaw(self):
        return None


class FakeTarget:
    def __init__(self, dies=False, ends_badly=False):
        self.dies, self.ends_badly = dies, ends_badly
        self.stopped = self.killed = False

    def check(self):
        if self.dies:
            raise TargetError("it died")

    def stop(self):
        self.stopped = True
        if self.ends_badly:
            raise TargetError("it ended with 1 on SIGTERM")

    def kill(self):
        self.killed = True


def run_one(function, needs=(), kernel_may_say=None, guest=None):
    """Run `function' as a case; (what was printed, the Run, the guest)."""
    options = types.SimpleNamespace(target="ashlar", engine=None, keep_logs=False, disks=None,
                                    seconds=1)
    guest = guest or FakeGuest()
    with contextlib.redirect_stdout(io.StringIO()) as out:
        run = harness.Run(options)
        run.guest = guest
        run.run_case(harness.Case("name", "what", function, frozenset(needs), True, kernel_may_say,
                                  False), "name: what")
        status = run.end()
    shutil.rmtree(run.log_dir, ignore_errors=True)
    return out.getvalue(), types.SimpleNamespace(run=run, guest=guest, status=status)


class Outcome(unittest.TestCase):
    def check(self, function, wanted, status, **more):
        out, ran = run_one(function, **more)
        self.assertTrue(out.startswith(wanted), out)
        self.assertEqual(ran.status, status, out)
        return out, ran

    def test_good_case_passes(self):
        self.check(lambda t: t.note("a figure"), "ok 1 - name: what (", 0)

    def test_false_check_fails_and_gives_up_the_guest(self):
        def bad(t):
            harness.check_equal(1, 2, "the number")
        out, ran = self.check(bad, "not ok 1", 1)
        self.assertIn("the number: 1, expected 2", out)
        self.assertTrue(ran.guest.killed)

    def test_every_kind_of_error_is_a_failure(self):
        for error in (GuestError("x"), GuestLost("x"), WaitTimeout("x"), TargetError("x"),
                      OSError("x"), KeyError("x"), AssertionError("x")):
            def bad(t, error=error):
                raise error
            self.check(bad, "not ok 1", 1)

    def test_lacking_ability_skips_with_its_name(self):
        out, ran = self.check(lambda t: None, "ok 1 - name: what # SKIP", 0, needs=["levitation"])
        self.assertIn("levitation", out)
        self.assertEqual((ran.run.passed, ran.run.skipped), (0, 1))

    def test_skip_from_within(self):
        def skips(t):
            raise harness.Skip("no such thing")
        self.check(skips, "ok 1 - name: what # SKIP no such thing", 0)

    def test_engine_that_died_fails_a_case_that_did_not_notice(self):
        self.check(lambda t: t.targets.append(FakeTarget(dies=True)), "not ok 1", 1)

    def test_engine_that_ends_badly_fails_the_case(self):
        self.check(lambda t: t.targets.append(FakeTarget(ends_badly=True)), "not ok 1", 1)

    def test_target_is_stopped_after_a_failure_too(self):
        target = FakeTarget()

        def bad(t):
            t.targets.append(target)
            raise AssertionError("x")
        self.check(bad, "not ok 1", 1)
        self.assertTrue(target.stopped)

    def test_kernel_complaint_fails_the_case(self):
        line = "[ 1.0] nvme nvme0: I/O tag 3 (1003) QID 1 timeout"
        out, _ = self.check(lambda t: t.guest.log.append(line), "not ok 1", 1)
        self.assertIn(line, out)

    def test_expected_kernel_complaint_is_fine(self):
        self.check(lambda t: t.guest.log.append("nvme nvme0: failed to connect socket: -111"),
                   "ok 1", 0, kernel_may_say="nvme")

    def test_kernel_complaint_from_before_is_not_counted(self):
        guest = FakeGuest()
        guest.log.append("nvme0: failed")
        self.check(lambda t: None, "ok 1", 0, guest=guest)


class EmulatorFlaw(unittest.TestCase):
    """A case is repeated once, and only when the console shows what the emulator is known for."""

    def outcome(self, console):
        runs = []

        def lost(t):
            runs.append(1)
            if len(runs) == 1:
                raise GuestLost("gone")

        guest = FakeGuest()
        real = Guest("k612", "/nowhere")
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(console)
            file.flush()
            real.console = file.name
            real.qemu_log = os.devnull
            guest.flaw = real.flaw
            with mock.patch.object(harness.Run, "boot",
                                   lambda run, _: setattr(run, "guest", guest)):
                out, ran = run_one(lost, guest=guest)
        return len(runs), ran.status, out

    def test_stale_breakpoint_repeats_the_case_and_says_so(self):
        runs, status, out = self.outcome("[ 4.2] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\n")
        self.assertEqual((runs, status), (2, 0), out)
        self.assertIn("once more", out)

    def test_any_other_death_is_a_failure(self):
        for console in ("", "[ 4.2] Oops: 0002 [#1] PREEMPT SMP\n[ 4.3] Oops: int3: 0000 [#2]\n",
                        "[ 9.9] kernel BUG at mm/usercopy.c:101!\n"):
            runs, status, out = self.outcome(console)
            self.assertEqual((runs, status), (1, 1), out)


    def test_lost_network_is_seen_though_a_program_failed_first(self):
        runs = []

        def hangs(_):
            runs.append(1)
            if len(runs) == 1:
                raise ProgramError("not ended after 60 s")
        guest = FakeGuest()
        guest.flaw = lambda: None if runs[1:] else "QEMU's network met a reset"
        with mock.patch.object(harness.Run, "boot",
                               lambda run, _: setattr(run, "guest", FakeGuest())):
            out, ran = run_one(hangs, guest=guest)
        self.assertEqual((len(runs), ran.status), (2, 0), out)
        self.assertIn("once more", out)

    def test_assertion_in_the_network_is_a_known_flaw(self):
        with tempfile.NamedTemporaryFile("w") as log:
            real = Guest("k612", ".")
            real.console, real.qemu_log = os.devnull, log.name
            self.assertIsNone(real.flaw())
            log.write("qemu: ../src/socket.c:192: soread: Assertion `buf_len != 0' failed.\n")
            log.flush()
            self.assertIn("soread", real.flaw())


class KernelLog(unittest.TestCase):
    def complaints(self, line):
        guest = FakeGuest()
        guest.log = ["mark", line]
        return HostSide(guest).kernel_complaints("mark")

    def test_usual_messages_are_no_complaints(self):
        for line in ("nvme nvme0: creating 4 I/O queues.",
                     "nvme nvme0: mapped 4/0/0 default/read/poll queues.",
                     'nvme nvme0: new ctrl: NQN "nqn.2019-05.io.openebs:a", addr 10.0.2.2:4420',
                     'nvme nvme0: Removing ctrl: NQN "nqn.2019-05.io.openebs:a"',
                     "EXT4-fs (nvme0n1): mounted filesystem with ordered data mode",
                     "EXT4-fs (nvme0n1): mounted filesystem bad4a248-2d16-4652-9b79-4b91c4a9fda6",
                     "XFS (nvme0n1): Mounting V5 Filesystem", "XFS (nvme0n1): Ending clean mount"):
            self.assertEqual(self.complaints(line), [], line)

    def test_troubles_are(self):
        for line in ("nvme nvme0: starting error recovery", "nvme nvme0: I/O 3 QID 1 timeout",
                     "nvme nvme0: failed to receive digest: -5", "BUG: kernel NULL pointer",
                     "nvme nvme0: globally duplicate IDs for nsid 1",
                     "nvme0n1: I/O Cmd(0x2) @ LBA 0, 8 blocks, I/O Error (sct 0x2 / sc 0x81)",
                     "EXT4-fs error (device nvme0n1): ext4_lookup:1", "WARNING: CPU: 1 PID: 1",
                     "XFS (nvme0n1): Metadata corruption detected",
                     "INFO: task fio:12 blocked for more than 120 seconds."):
            self.assertEqual(self.complaints(line), [line])


class Image(unittest.TestCase):
    def test_overlay_unpacks(self):
        busybox = image.which("busybox")
        if not busybox:
            self.skipTest("busybox is not installed")
        files = {"/etc/a": b"1", "/etc/deep/b": b"abcde", "/empty": b""}
        archive = image.overlay(files=files)
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([busybox, "cpio", "-idm"], input=archive, cwd=folder, check=True,
                           stderr=subprocess.DEVNULL)
            for path, data in files.items():
                self.assertEqual(Path(folder + path).read_bytes(), data)

    def test_program_brings_its_libraries(self):
        libs = image.libraries(image.which("bash"))
        self.assertTrue(any("libc.so" in lib for lib in libs), libs)
        self.assertTrue(all(os.path.exists(lib) for lib in libs))

    def test_module_depends(self):
        self.assertEqual(image.module_depends(b"x\0license=GPL\0depends=nvme-core,tls\0"),
                         ["nvme_core", "tls"])
        self.assertEqual(image.module_depends(b"x\0depends=\0y"), [])

    def test_unknown_kernel_is_refused(self):
        with self.assertRaises(image.Unavailable):
            image.extract_vmlinux(bytes(4096))


class Engine(unittest.TestCase):
    def test_engine_that_does_not_start_is_reported_at_once(self):
        with tempfile.TemporaryDirectory() as folder:
            target = Ashlar("/bin/false", folder, folder)
            with self.assertRaises(TargetError):
                target.start([Namespace(size_mb=1)])

    def test_wait_until_names_what_it_waited_for(self):
        with self.assertRaisesRegex(WaitTimeout, "the moon"):
            wait_until(lambda: False, "the moon", 0.05)


WHY_NO_CABLES = cables.why_not()

LISTEN = """
import socket, sys
with socket.create_server((sys.argv[1], 1)) as server:
    print("ready", flush=True)
    while True:
        server.accept()[0].close()
"""
REACH = """
import socket, sys
socket.create_connection((sys.argv[1], 1), 0.3)
"""


@unittest.skipIf(WHY_NO_CABLES, WHY_NO_CABLES)
class Cables(unittest.TestCase):
    """A cable carries until it is cut, at either end, and when it was mended."""

    def reaches(self):
        return subprocess.run([sys.executable, "-c", REACH, self.cable.addresses[1]],
                              preexec_fn=self.here.enter, stderr=subprocess.DEVNULL,
                              check=False).returncode == 0

    def test_a_cut_cable_carries_nothing(self):
        self.here, there = cables.Place("here"), cables.Place("there")
        self.cable = cables.Cable(1, self.here, there)
        with subprocess.Popen([sys.executable, "-c", LISTEN, self.cable.addresses[1]],
                              preexec_fn=there.enter, stdout=subprocess.PIPE) as server:
            try:
                server.stdout.readline()
                self.assertTrue(wait_until(self.reaches, "the cable carries"))
                for end in (0, 1):
                    self.cable.cut(end)
                    self.assertFalse(self.reaches())
                    self.cable.mend()
                    self.assertTrue(wait_until(self.reaches, "the cable carries again"))
            finally:
                server.kill()
        for place in (self.here, there):
            place.close()

    def test_a_place_goes_with_its_descriptor(self):
        place = cables.Place("gone")
        path = place.path
        place.close()
        self.assertFalse(os.path.exists(path))


class Programs(unittest.TestCase):
    def start(self, *command):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return Program(folder.name, *command)

    def test_status_and_hanging_are_errors_that_show_the_output(self):
        with self.assertRaisesRegex(ProgramError, "ended with 3, not 0.*\n.*said this"):
            self.start("/bin/sh", "-c", "echo said this; exit 3").wait()
        self.assertIn("said this", self.start("/bin/sh", "-c", "echo said this; exit 3").wait(
            status=3))
        program = self.start("/bin/sleep", "60")
        with self.assertRaisesRegex(ProgramError, "not ended"):
            program.wait(0.05)
        self.assertFalse(program.running())

    def test_json_is_found_behind_the_log(self):
        program = self.start("/bin/sh", "-c", "echo a line; echo '{\"errors\": 0}'; echo more")
        self.assertEqual(program.json(), {"errors": 0})


class Tap(unittest.TextTestResult):
    """A TAP point per test."""

    def startTestRun(self):
        super().startTestRun()
        self.number = 0

    def point(self, test, good, more=""):
        self.number += 1
        print(f"{'' if good else 'not '}ok {self.number} - {test.id().split('.', 1)[1]}{more}")

    def addSuccess(self, test):
        super().addSuccess(test)
        self.point(test, True)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.point(test, True, f" # SKIP {reason}")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.point(test, False)
        print("# " + self.failures[-1][1].strip().replace("\n", "\n# "))

    def addError(self, test, err):
        super().addError(test, err)
        self.point(test, False)
        print("# " + self.errors[-1][1].strip().replace("\n", "\n# "))


if __name__ == "__main__":
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules[__name__])
    print(f"1..{suite.countTestCases()}")
    runner = unittest.TextTestRunner(stream=io.StringIO(), resultclass=Tap)
    sys.exit(0 if runner.run(suite).wasSuccessful() else 1)
