# SPDX-License-Identifier: Apache-2.0
"""Runs cases in a guest and speaks TAP.

A case is a function that takes a Stage and raises when something is not as it must be. One guest is
booted for all cases of a kernel; when a case leaves it unusable, the next case gets a new one.
After each case the harness asks what a case must not forget: the engine still ran and ended well on
SIGTERM, the guest's kernel had nothing to complain about, all connections are gone.

The logs of a run with a failed case (engines, consoles, all that was asked of the guests) stay in a
folder that is named; those of a good run go.
"""

import os
import re
import shutil
import sys
import tempfile
import time
import traceback
import uuid
from dataclasses import dataclass

import image
from guest import Guest, GuestError, GuestLost, WaitTimeout
from host_side import HostSide
from nvmet import Nvmet
from program import Program, ProgramError
from targets import Ashlar, AshlarInGuest, Namespace, TargetError

CASES = []
BOOT_ATTEMPTS = 3


@dataclass
class Case:
    name: str
    what: str
    run: object
    needs: frozenset
    is_quick: bool
    kernel_may_say: str
    in_guest: bool


class Skip(Exception):
    """The case cannot run here; the text says why."""


def case(name, needs=(), quick=False, kernel_may_say=None, in_guest=False):
    """Register a case. `needs' names abilities of the target, `quick' puts it into run --quick,
    `kernel_may_say' is a pattern of kernel messages that are expected, `in_guest' says that the
    engine itself runs in the guest."""
    def register(function):
        CASES.append(Case(name, (function.__doc__ or "").strip().split("\n")[0], function,
                          frozenset(needs), quick, kernel_may_say, in_guest))
        return function
    return register


class Stage:
    """What a case works with."""

    def __init__(self, run, guest, mark="ashlar case"):
        self.run = run
        self.guest = guest
        self.mark = mark
        self.host = HostSide(guest)
        self.targets = []
        self.programs = []
        self.others = []
        self.notes = []

    def second_guest(self):
        """One more host, with another kernel and an identity of its own; gone after the case."""
        kernel = next(k for k in image.KERNELS if k != self.guest.kernel)
        try:
            image.prepare(kernel)
        except image.Unavailable as e:
            raise Skip(f"no second guest: {e}") from None
        other = self.run.new_guest(kernel, image.overlay(files=image.identity(str(uuid.uuid4()))))
        self.others.append(other)
        host = HostSide(other)
        host.mark(self.mark)
        return host

    def guest_at(self, place, tap):
        """One more host, with the same kernel, in a network of its own; gone after the case."""
        other = self.run.new_guest(self.guest.kernel, place=place, tap=tap)
        self.others.append(other)
        host = HostSide(other)
        host.mark(self.mark)
        return host

    def linux_target(self, *namespaces, **options):
        """Linux' target in the guest, for Ashlar's initiator on this machine."""
        target = Nvmet(self.guest)
        self.targets.append(target)
        target.start(namespaces or [Namespace()], **options)
        return target

    def ashlar(self, *words, place=None):
        """Start `ashlar WORDS' on this machine."""
        return self.start_program(self.run.engine, *words, place=place)

    def tool(self, name, *words):
        """Start a test program that was built beside the engine."""
        path = os.path.join(os.path.dirname(self.run.engine), "tests", "integration", name)
        if not os.path.exists(path):
            raise Skip(f"{path} is not built")
        return self.start_program(path, *words)

    def start_program(self, *command, place=None):
        program = Program(self.run.log_dir, *command, place=place)
        self.programs.append(program)
        return program

    def new_target(self, place=None):
        if self.run.target == "nvmet":
            target = Nvmet(self.guest)
        else:
            target = Ashlar(self.run.engine, self.run.folder, self.run.log_dir, place)
        self.targets.append(target)
        return target

    def serve(self, *namespaces, **options):
        """A started target with the given namespaces (one of 64 MiB by default)."""
        target = self.new_target()
        target.start(namespaces or [Namespace()], **options)
        return target

    def serve_inside(self, *namespaces):
        """The engine in the guest, started with the given namespaces."""
        target = AshlarInGuest(self.guest)
        self.targets.append(target)
        target.start(namespaces)
        return target

    def serve_and_connect(self, *namespaces, **connect_options):
        """(target, controller, block device of namespace 1)"""
        target = self.serve(*namespaces)
        controller = self.host.connect(target, **connect_options)
        return target, controller, self.host.block(controller)

    def note(self, text):
        """A figure worth printing beside the result."""
        self.notes.append(text)


class Run:
    """One run of the suite."""

    def __init__(self, options):
        self.target = options.target
        self.engine = options.engine
        self.keep_logs = options.keep_logs
        self.seconds = options.seconds
        self.log_dir = tempfile.mkdtemp(prefix="ashlar-hosts-")
        self.folder = tempfile.mkdtemp(prefix="ashlar-disks-", dir=options.disks)
        self.passed = self.failed = self.skipped = self.number = 0
        self.guest = None

    def plan(self, count):
        print(f"TAP version 13\n1..{count}", flush=True)

    def fail_unavailable(self, name, reason):
        """Where a guest is required, having none is a failure."""
        self.report(name, time.monotonic(), f"no guest: {reason}")

    def skip(self, name, reason):
        self.number += 1
        self.skipped += 1
        print(f"ok {self.number} - {name} # SKIP {' '.join(reason.split())}", flush=True)

    def report(self, name, begin, failure, notes=()):
        self.number += 1
        took = f"{time.monotonic() - begin:.1f} s"
        if failure:
            self.failed += 1
            print(f"not ok {self.number} - {name} ({took})")
            for line in failure.splitlines():
                print(f"#   {line}")
        else:
            self.passed += 1
            print(f"ok {self.number} - {name} ({', '.join([took, *notes])})")
        sys.stdout.flush()

    def boot(self, kernel):
        """A new guest, in place of one that there may be."""
        if self.guest:
            self.guest.kill()
            self.guest = None
        guest = self.new_guest(
            kernel, image.overlay({"/bin/ashlar": self.engine} if self.engine else {}))
        self.guest = guest
        print(f"# {kernel}: {image.KERNELS[kernel]}, "
              f"{guest.text('uname -r')}, at its agent after {guest.boot_s:.1f} s", flush=True)

    def new_guest(self, kernel, overlay=b"", **network):
        """A booted guest that has the modules of a host; the caller ends it."""
        for attempt in range(BOOT_ATTEMPTS):
            guest = Guest(kernel, self.log_dir, overlay, **network)
            try:
                guest.boot()
                guest.run("modprobe nvme-tcp && modprobe ext4 && modprobe xfs")
                break
            except BaseException as e:
                guest.kill()
                if not self.may_try_again(guest, e, attempt + 1 < BOOT_ATTEMPTS):
                    raise
        return guest

    def may_try_again(self, guest, error, is_allowed):
        """Was it the emulator, not the guest? Says so: nothing is repeated in silence."""
        flaw = guest.flaw() if is_allowed and isinstance(error, GuestLost) else None
        if flaw:
            print(f"# {guest.kernel}: {flaw}, see guest.py; once more", flush=True)
        return bool(flaw)

    def run_kernel(self, kernel, cases):
        """All `cases' in a guest with `kernel'."""
        for case_ in cases:
            name = f"{kernel} {case_.name}: {case_.what}"
            begin = time.monotonic()
            try:
                if not self.guest or self.guest.kernel != kernel:
                    self.boot(kernel)
            except image.Unavailable as e:
                self.skip(name, f"no guest: {e}")
                continue
            except (GuestError, OSError) as e:
                self.report(name, begin, f"the guest does not boot: {e}")
                continue
            self.run_case(case_, name)
        if self.guest:
            begin = time.monotonic()
            try:
                self.guest.power_off()
            except (GuestLost, OSError) as e:
                print(f"# {kernel}: {e}")
            self.guest.kill()
            self.guest = None

    def run_case(self, case_, name, is_repeated=False):
        lacking = case_.needs - self.abilities(case_)
        if lacking:
            self.skip(name, f"this target lacks {', '.join(sorted(lacking))}")
            return
        begin = time.monotonic()
        mark = f"ashlar case {self.number} {case_.name}"
        failure, stage, lost = None, None, None
        try:
            stage = Stage(self, self.guest, mark)
            stage.host.mark(mark)
            case_.run(stage)
        except Skip as e:
            failure = self.clean_up(stage, None)
            if not failure:
                self.skip(name, str(e))
                return
        except GuestLost as e:
            failure, lost = str(e), e
        except (AssertionError, GuestError, WaitTimeout, TargetError, ProgramError, OSError,
                KeyError, ValueError, IndexError) as e:
            failure = describe(e)
            # A program here may have noticed before us that the guest is gone.
            lost = GuestLost(failure) if self.guest and self.guest.flaw() else None
        if lost:
            guest = self.guest
            self.give_up(stage)
            if self.may_try_again(guest, lost, not is_repeated):
                self.boot(guest.kernel)
                self.run_case(case_, name, is_repeated=True)
                return
        if self.guest and stage:
            failure = self.clean_up(stage, failure)
        if self.guest and stage and not failure:
            bad = stage.host.kernel_complaints(mark, case_.kernel_may_say)
            if bad:
                failure = "the guest's kernel says:\n" + "\n".join(bad[:20])
        if stage and stage.others:
            failure = self.end_others(stage, case_, failure)
        if failure:
            failure += self.keep_evidence(stage, mark)
        self.report(name, begin, failure, stage.notes if stage else ())

    def abilities(self, case_):
        if self.target == "nvmet":
            return Nvmet.can if not case_.in_guest else frozenset()
        return Ashlar.can | {"engine"}

    def clean_up(self, stage, failure):
        """Leave the guest as it was: `failure', or what goes wrong now."""
        try:
            for target in stage.targets:
                target.check()
            for program in stage.programs:
                program.kill()
            for host in (stage.host, *map(HostSide, stage.others)):
                host.disconnect_all()
            for target in stage.targets:
                target.stop()
        except (TargetError, GuestError, WaitTimeout, OSError) as e:
            failure = failure or f"while ending: {e}"
            self.give_up(stage)
        return failure

    @staticmethod
    def end_others(stage, case_, failure):
        """Ask the other guests what the first is asked, and end them."""
        for guest in stage.others:
            try:
                host = HostSide(guest)
                bad = host.kernel_complaints(stage.mark, case_.kernel_may_say)
                if bad and not failure:
                    failure = f"the kernel of guest {guest.kernel} says:\n" + "\n".join(bad[:20])
            except GuestError as e:
                failure = failure or str(e)
            guest.kill()
        return failure

    def give_up(self, stage):
        """End the engines and the guest, whatever state they are in."""
        for target in (*stage.programs, *stage.targets) if stage else ():
            try:
                target.kill()
            except (GuestError, OSError):
                pass  # it was in the guest
        if self.guest:
            self.guest.kill()
            self.guest = None

    def keep_evidence(self, stage, mark):
        self.keep_logs = True
        text = f"\nlogs: {self.log_dir}"
        if self.guest and stage:
            try:
                text += "\nkernel log:\n" + "\n".join(stage.host.kernel_log(mark)[-25:])
            except GuestError as e:
                text += f"\nno kernel log: {e}"
            self.give_up(stage)  # the next case starts in a clean one
        for target in stage.targets if stage else ():
            if isinstance(target, Ashlar):
                text += "\nengine log:\n" + target.tail()
        for program in stage.programs if stage else ():
            if program.process.returncode:
                text += f"\nprogram, ended with {program.process.returncode}: {program}"
        return text

    def end(self):
        """Remove what is not needed; exit status of the run."""
        if self.guest:
            self.guest.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        if not self.keep_logs:
            shutil.rmtree(self.log_dir, ignore_errors=True)
        else:
            print(f"# logs are in {self.log_dir}")
        print(f"# hosts: {self.passed} passed, {self.failed} failed, {self.skipped} skipped")
        return 1 if self.failed else 0


def describe(error):
    """The error and the line of the case it came from."""
    where = [f for f in traceback.extract_tb(error.__traceback__) if "cases" in f.filename]
    at = f" ({where[-1].filename.rsplit('/', 1)[-1]}:{where[-1].lineno}: {where[-1].line})" \
        if where else ""
    plain = (AssertionError, GuestError, TargetError, ProgramError, WaitTimeout)
    kind = "" if isinstance(error, plain) else type(error).__name__ + ": "
    return f"{kind}{error}{at}"


def check_equal(got, wanted, what):
    if got != wanted:
        raise AssertionError(f"{what}: {got!r}, expected {wanted!r}")


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def expect_status(t, command, status):
    """`command' fails with this NVMe status (type and code, without More and Do Not Retry).
    `t' is whatever has the guest: the stage, or a host."""
    result = t.guest.run(command, check=False)
    check(result.status != 0, f"{command} succeeded")
    said = re.search(r"\(0x([0-9a-f]+)\)", result.out)
    check(said, f"{command} names no status: {result.out}")
    check_equal(f"{int(said[1], 16) & 0x7ff:#x}", f"{status:#x}", f"status of {command}")
