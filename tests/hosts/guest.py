# SPDX-License-Identifier: Apache-2.0
"""A real Linux kernel in QEMU, and a control channel into it.

The guest runs guest-agent on a virtio-serial port; here its other end is a Unix socket. Guest.run
sends a shell script and returns its status and output, so a case reads top to bottom in one place:
a step in the guest, a step on the host, a step in the guest. What must happen meanwhile is started
with Guest.spawn and awaited with Job.wait.

The CPU is always emulated (TCG). A KVM that cannot run an unmodified kernel is worse than none, and
emulation is fast enough: 2 to 3 s to the agent. No privilege is needed: the network is QEMU's user
mode network, in which 10.0.2.2 (fec0::2) is the loopback of the machine that runs the test.

Emulation has two flaws. While the kernel patches its own code, an emulated CPU may run a breakpoint
that is already gone (on a busy machine): the kernel then dies of `int3'. And QEMU's user network
(libslirp 4.7) stops all of QEMU by an assertion when a connection is reset from this side while its
buffer towards the guest is full. A guest that was lost in one of these ways is known by its console
or QEMU's log (Guest.flaw); nothing else is taken for them.

The guest has two network cards on networks of their own, so that a path can be lost while another
stays: Guest.cut pulls a cable, and nobody is told (no RST, no FIN). Guest.forward makes a port of
the guest reachable as a loopback port of this machine, one that the system picks.

Whatever happens, no QEMU is left behind: it dies with this process (PR_SET_PDEATHSIG).
"""

import base64
import ctypes
import itertools
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import tempfile
import time

import image

BOOT_TIMEOUT_S = 90
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)

# hardened_usercopy: 6.1's check takes the merged fragments of a loopback connection for an overrun
# and stops whoever reads them, when host and target share one kernel.
KERNEL_OPTIONS = "console=ttyS0 panic=-1 oops=panic quiet loglevel=4 mitigations=off " \
                 "nvme_core.multipath=Y hardened_usercopy=off"

# The host as the guest sees it, over its first and its second network card, and the guest's own
# addresses there (guest-init sets them).
HOST_ADDRESS = "10.0.2.2"
HOST_ADDRESS6 = "fec0::2"
HOST_ADDRESSES = ("10.0.2.2", "10.0.3.2")
GUEST_ADDRESSES = ("10.0.2.15", "10.0.3.15")
MONITOR_TIMEOUT_S = 20


class GuestError(Exception):
    """The guest did not do what it was asked to; the text holds the script and its output."""


class GuestLost(GuestError):
    """The guest does not answer any more: boot another."""


class WaitTimeout(Exception):
    """A condition did not come true in time."""


def die_with_parent():
    """For preexec_fn: the child is killed when this process ends, however that happens."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def wait_until(condition, what, timeout_s=20):
    """Poll `condition` until it is true and return its value; WaitTimeout names `what`."""
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise WaitTimeout(f"not within {timeout_s} s: {what}")
        time.sleep(0.01)


class Monitor:
    """QEMU's command line, for what the machine around the guest has to do."""

    PROMPT = b"(qemu) "

    def __init__(self, path):
        self.channel = socket.socket(socket.AF_UNIX)
        self.channel.settimeout(MONITOR_TIMEOUT_S)
        self.channel.connect(path)
        self.read()

    def read(self):
        data = b""
        while not data.endswith(self.PROMPT):
            try:
                chunk = self.channel.recv(65536)
            except (TimeoutError, OSError) as e:
                raise GuestLost(f"QEMU's monitor does not answer: {e}") from None
            if not chunk:
                raise GuestLost("QEMU's monitor is gone")
            data += chunk
        return data.decode(errors="replace")

    def command(self, line):
        """What QEMU says to `line'; the echo of the line, with its terminal codes, comes first."""
        try:
            self.channel.sendall(line.encode() + b"\n")
        except OSError as e:
            raise GuestLost(f"QEMU's monitor is gone: {e}") from None
        return "\n".join(self.read().replace("\r", "").split("\n")[1:-1])

    def close(self):
        self.channel.close()


class Job:
    """A script that runs in the guest's background."""

    def __init__(self, guest, number):
        self.guest = guest
        self.files = f"/tmp/job{number}"

    def running(self):
        return self.guest.run(f"[ -e {self.files}.status ]", check=False).status != 0

    def output(self):
        return self.guest.run(f"cat {self.files}.out").out

    def wait(self, timeout_s=60, check=True):
        """Its result, once it has ended."""
        self.guest.wait(f"[ -e {self.files}.status ]", f"the end of job {self.files}", timeout_s)
        status = int(self.guest.run(f"cat {self.files}.status").out)
        out = self.output()
        if check and status:
            raise GuestError(f"background job ended with {status}:\n{out}")
        return Result(status, out)


class Result:
    def __init__(self, status, out):
        self.status = status
        self.out = out


class Guest:
    """One guest. Use as a context manager: it boots on entry and is gone on exit."""

    def __init__(self, kernel, log_dir, overlay=b"", cpus=4, memory_mb=1024, place=None,
                 tap=None):
        """`place': the network (cables.py) QEMU runs in, `tap' the card there that is the other end
        of the guest's first one, in place of QEMU's user network."""
        self.kernel = kernel
        self.log_dir = log_dir
        self.overlay = overlay
        self.cpus = cpus
        self.memory_mb = memory_mb
        self.enter = place.enter if place else die_with_parent
        self.net0 = f"tap,id=net0,ifname={tap},script=no,downscript=no" if tap else "user,id=net0"
        self.ids = itertools.count(1)
        self.boot_s = 0.0
        self.console = self.qemu_log = ""
        self._tmp = self._qemu = self._channel = self._monitor = None
        self._forwarded = {}
        self._pending = b""

    def __enter__(self):
        try:
            self.boot()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, kind, value, trace):
        if kind is None:
            self.power_off()
        self.kill()

    def boot(self):
        folder = image.prepare(self.kernel)
        begin = time.monotonic()
        self._tmp = tempfile.TemporaryDirectory(prefix="ashlar-guest-")
        initrd = os.path.join(self._tmp.name, "initrd")
        with open(initrd, "wb") as out:
            with open(folder / "base.cpio", "rb") as base:
                while chunk := base.read(1 << 20):
                    out.write(chunk)
            out.write(self.overlay)
        path = os.path.join(self._tmp.name, "channel")
        monitor = os.path.join(self._tmp.name, "monitor")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        mark = os.path.basename(self._tmp.name)
        self.console = os.path.join(self.log_dir, f"console-{self.kernel}-{mark}.log")
        command = [
            image.which("qemu-system-x86_64"), "-nodefaults", "-no-user-config", "-no-reboot",
            "-display", "none", "-serial", f"file:{self.console}",
            "-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max",
            "-m", f"{self.memory_mb}M", "-smp", str(self.cpus),
            "-kernel", str(folder / "vmlinux"), "-initrd", initrd,
            "-append", KERNEL_OPTIONS,
            "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04",
            "-chardev", f"socket,id=channel,path={path}",
            "-device", "virtio-serial-pci,max_ports=2",
            "-device", "virtserialport,chardev=channel,name=ashlar.agent,nr=1",
            "-netdev", self.net0, "-device", "virtio-net-pci,netdev=net0,romfile=",
            "-netdev", "user,id=net1,net=10.0.3.0/24,ipv6=off",
            "-device", "virtio-net-pci,netdev=net1,romfile=",
            "-chardev", f"socket,id=monitor,path={monitor},server=on,wait=off",
            "-mon", "chardev=monitor,mode=readline",
        ]
        self.qemu_log = os.path.join(self.log_dir, f"qemu-{self.kernel}-{mark}.log")
        with open(self.qemu_log, "wb") as log:
            self._qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          preexec_fn=self.enter)
        listener.settimeout(BOOT_TIMEOUT_S)
        try:
            self._channel = listener.accept()[0]
        except TimeoutError:
            raise GuestLost("QEMU did not start: see qemu-*.log") from None
        finally:
            listener.close()
        if self._line(BOOT_TIMEOUT_S) != "ready":
            raise GuestLost("the guest's agent did not come up: see console-*.log")
        self._monitor = Monitor(monitor)
        self.boot_s = time.monotonic() - begin

    def _line(self, timeout_s):
        """The next line the agent sends."""
        end = time.monotonic() + timeout_s
        while b"\n" not in self._pending:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._channel], [], [], left)[0]:
                raise GuestLost(f"no answer from the guest in {timeout_s} s")
            data = self._channel.recv(65536)
            if not data:
                raise GuestLost("the guest is gone (kernel panic?): see console-*.log")
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        return line.decode()

    def run(self, script, timeout_s=60, check=True):
        """Run a shell script in the guest; GuestError when it fails and `check` is set."""
        number, begin = next(self.ids), time.monotonic()
        encoded = base64.b64encode(script.encode()).decode()
        try:
            self._channel.sendall(f"run {number} {timeout_s} {encoded}\n".encode())
        except (OSError, AttributeError) as e:  # AttributeError: killed before
            raise GuestLost(f"the channel to the guest is broken: {e}") from None
        answer = self._line(timeout_s + 20).split(" ", 3)
        if answer[:2] != ["done", str(number)]:
            raise GuestLost(f"unexpected answer {answer[:2]}")
        out = base64.b64decode(answer[3]).decode(errors="replace") if len(answer) > 3 else ""
        result = Result(int(answer[2]), out)
        self._transcript(begin, script, result)
        if check and result.status:
            how = f"was killed after {timeout_s} s" if result.status == 137 else \
                  f"failed with status {result.status}"
            raise GuestError(f"in the guest this {how}:\n{script.strip()}\n--- it said\n"
                             + out.strip())
        return result

    def _transcript(self, begin, script, result):
        """guest.log in the log folder tells all that was asked of guests, and what they said."""
        with open(os.path.join(self.log_dir, "guest.log"), "a", encoding="utf-8") as log:
            log.write(f"[{self.kernel} {begin:.2f} +{time.monotonic() - begin:.2f} s, "
                      f"status {result.status}] $ {script.strip()}\n{result.out}")

    def text(self, script, timeout_s=60):
        """Standard output and error of a script that must succeed, stripped."""
        return self.run(script, timeout_s).out.strip()

    def wait(self, condition, what=None, timeout_s=30):
        """Wait until the shell `condition` holds in the guest."""
        poll = (f"until {condition}\ndo\n[ $SECONDS -lt {int(timeout_s)} ] || exit 99\n"
                "usleep 20000\ndone")
        result = self.run(poll, timeout_s + 10, check=False)
        if result.status:
            raise WaitTimeout(f"not within {timeout_s} s in the guest: {what or condition}\n"
                              + result.out.strip()[-500:])
        return result.out

    def spawn(self, script):
        """Start a script in the guest's background."""
        job = Job(self, next(self.ids))
        self.run(f"rm -f {job.files}.*\n(bash -c {shlex.quote(script)} > {job.files}.out 2>&1; "
                 f"echo $? > {job.files}.tmp; mv {job.files}.tmp {job.files}.status) "
                 "> /dev/null 2>&1 &")
        return job

    def forward(self, port, card=0):
        """The loopback port of this machine behind which the guest's TCP `port' is, as reached over
        its network card `card'. It stays for the guest's life."""
        if (port, card) not in self._forwarded:
            said = self._monitor.command(
                f"hostfwd_add net{card} tcp:127.0.0.1:0-{GUEST_ADDRESSES[card]}:{port}")
            state = self._monitor.command("info usernet")
            found = re.search(r"TCP\[HOST_FORWARD\] +\d+ +127\.0\.0\.1 +(\d+) +"
                              rf"{re.escape(GUEST_ADDRESSES[card])} +{port} ", state)
            if not found:
                raise GuestError(f"port {port} of the guest is not forwarded: {said}\n{state}")
            self._forwarded[port, card] = int(found[1])
        return self._forwarded[port, card]

    def cut(self, card):
        """Pull the cable of a network card; what travels on it is lost and nobody hears of it."""
        self._monitor.command(f"set_link net{card} off")

    def mend(self, card):
        """Plug the cable in again."""
        self._monitor.command(f"set_link net{card} on")

    def power_off(self, status=0):
        """Tell the agent to leave with `status`; GuestLost if QEMU does not say the same."""
        self._channel.sendall(f"quit {status}\n".encode())
        try:
            left_with = self._qemu.wait(timeout=30)
        except subprocess.TimeoutExpired:
            raise GuestLost("the guest does not power off") from None
        if left_with != (status << 1 | 1):
            raise GuestLost(f"the guest left with {left_with}, not {status << 1 | 1}")

    def flaw(self):
        """Which flaw of the emulator ended the guest; None: none of those that are known."""
        try:
            with open(self.console, encoding="utf-8", errors="replace") as console:
                first = next((line for line in console if "[#1]" in line or "BUG" in line), "")
            with open(self.qemu_log, encoding="utf-8", errors="replace") as log:
                qemu = log.read()
        except OSError:
            return None
        if "int3: 0000 [#1]" in first:
            return "QEMU ran a breakpoint that was gone (int3)"
        if re.search(r"soread: Assertion .*buf_len", qemu):
            return "QEMU's network met a reset of a full connection (soread)"
        return None

    def kill(self):
        if self._monitor:
            self._monitor.close()
            self._monitor = None
        self._forwarded = {}
        if self._channel:
            self._channel.close()
            self._channel = None
        if self._qemu:
            self._qemu.kill()
            self._qemu.wait()
            self._qemu = None
        if self._tmp:
            self._tmp.cleanup()
            self._tmp = None
