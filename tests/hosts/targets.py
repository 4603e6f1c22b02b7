# SPDX-License-Identifier: Apache-2.0
"""What the guest connects to: Ashlar, or the kernel's own target as a check of the cases.

A target serves one subsystem with namespaces 1, 2, ... Cases know only the interface of Target;
what a target cannot do is missing in its `can', and the case is skipped with that reason.

Ashlar        `ashlar export' on the machine that runs the test; the guest reaches it at 10.0.2.2
AshlarInGuest the same program inside the guest, reached over the guest's loopback
Nvmet         (nvmet.py) Linux' nvmet-tcp inside the guest. A case that fails against it expects
              something wrong, or found a bug in the guest's kernel: run it when in doubt.
"""

import contextlib
import hashlib
import itertools
import os
import re
import signal
import socket
import subprocess
import time
import uuid
from dataclasses import dataclass, field

import guest as guest_module
import image
from guest import die_with_parent, wait_until

NQN_PREFIX = "nqn.2019-05.io.openebs:"
START_TIMEOUT_S = 20
STOP_TIMEOUT_S = 10


class TargetError(Exception):
    """The target did not start, died, or refused a command."""


@dataclass
class Namespace:
    """One namespace to be served, backed by a file."""

    size_mb: int = 64
    block_size: int = 512
    scheme: str = "uring"
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    path: str = ""


class Target:
    """The interface. Sizes of the backing store are asked from whoever holds it."""

    can = frozenset()
    address = ""

    def __init__(self):
        self.nqn = NQN_PREFIX + "hosts-" + uuid.uuid4().hex[:12]
        self.namespaces = []
        self.port = 0

    def start(self, namespaces):
        raise NotImplementedError

    def stop(self):
        """End the target in good order; TargetError if it does not end well."""
        raise NotImplementedError

    def check(self):
        """TargetError if it died or complained."""

    def path_of(self, nsid):
        return self.namespaces[nsid - 1].path

    def endpoint(self, index):
        """(address, TCP port) of listener `index', as the guest sees it."""
        return self.address, self.port


class Ashlar(Target):
    """`ashlar export' as a child process."""

    can = frozenset({"kill", "resize", "add", "pause", "compare", "fua", "identity", "allow-host",
                     "ipv6", "host-files", "malloc", "shutdown", "multi-block-size", "statuses",
                     "inject", "cores", "process", "ana", "reservations"})
    address = guest_module.HOST_ADDRESS
    numbers = itertools.count(1)

    def __init__(self, binary, folder, log_dir, place=None):
        """`place': the network (cables.py) it runs in; None: this machine's."""
        super().__init__()
        self.binary, self.folder, self.log_dir = binary, folder, log_dir
        self.enter = place.enter if place else die_with_parent
        self.number = next(self.numbers)
        self.log = os.path.join(log_dir, f"engine-{self.number}.log")
        self.control = os.path.join(folder, f"control-{self.number}")
        self.port_file = os.path.join(folder, f"port-{self.number}")
        self.process = None
        self.options = []
        self.listen = "127.0.0.1"
        self.ports, self.uris = [], []

    @staticmethod
    def device_name(ns):
        """What the engine calls the device of `ns'."""
        return f"m{ns.uuid[:8]}" if ns.scheme == "malloc" else ns.path

    def uri(self, ns):
        where = ns.path
        size = ""
        if ns.scheme == "malloc":
            where, size = "/" + self.device_name(ns), f"size_mb={ns.size_mb}&"
        return f"{ns.scheme}://{where}?{size}blk_size={ns.block_size}&uuid={ns.uuid}"

    def make_file(self, ns):
        if ns.scheme != "malloc":
            ns.path = os.path.join(self.folder, f"disk-{ns.uuid}")
            with open(ns.path, "wb") as f:
                f.truncate(ns.size_mb << 20)

    def start(self, namespaces, options=(), listen="127.0.0.1", ports=1, ana=False):
        self.namespaces, self.listen = list(namespaces), listen
        self.options = [*options, *(["--ana"] if ana else [])]
        self.ports = [0] * ports
        for ns in self.namespaces:
            self.make_file(ns)
        self.uris = [self.uri(ns) for ns in self.namespaces]
        self.run()

    def start_uris(self, uris, options=(), listen="127.0.0.1", ports=1):
        """Serve devices that are not ours to make."""
        self.uris, self.options, self.listen = list(uris), list(options), listen
        self.ports = [0] * ports
        self.run()

    def run(self):
        """(Re)start the process; after the first time on the same ports. Those of a process that
        was killed are given back a moment after it is gone, with its io_uring."""
        end = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.run_once()
                return
            except TargetError as e:
                if "already in use" not in str(e) or time.monotonic() > end:
                    raise

    def run_once(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.port_file)
        where = f"[{self.listen}]" if ":" in self.listen else self.listen
        listen = [word for port in self.ports for word in ("--listen", f"{where}:{port}")]
        command = [self.binary, "export", *listen, "--nqn", self.nqn,
                   "--control", self.control, "--port-file", self.port_file, *self.options,
                   *self.uris]
        with open(self.log, "ab") as log:
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            begin = log.tell()
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, preexec_fn=self.enter)

        def listening():
            self.check()
            with contextlib.suppress(FileNotFoundError):
                with open(self.port_file, encoding="ascii") as file:
                    return re.match(r"(\d+)\n", file.read())
            return None
        self.port = int(wait_until(listening, "the engine listens", START_TIMEOUT_S)[1])

        def listeners():
            with open(self.log, encoding="utf-8", errors="replace") as file:
                file.seek(begin)
                found = re.findall(r"listening addr=\S*:(\d+)\n", file.read())
            return found if len(found) == len(self.ports) else None
        self.ports = [int(p) for p in wait_until(listeners, "all listeners are named in the log")]
        assert self.ports[0] == self.port

    def endpoint(self, index):
        """Each listener is reached over a network card of its own."""
        return guest_module.HOST_ADDRESSES[index], self.ports[index]

    def check(self):
        if self.process and self.process.poll() is not None:
            raise TargetError(f"the engine ended with {self.process.returncode}: {self.tail()}")

    def tail(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()[-2000:]

    def wait_for_words(self, words, timeout_s=20):
        """Wait until the engine's log has said `words'."""
        def said():
            self.check()
            with open(self.log, encoding="utf-8", errors="replace") as log:
                return words in log.read()
        wait_until(said, f"'{words}' in {self.log}", timeout_s)

    def stop(self):
        if not self.process:
            return
        self.check()
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TargetError("the engine did not end on SIGTERM: " + self.tail()) from None
        self.process = None
        if status:
            raise TargetError(f"the engine ended with {status} on SIGTERM: {self.tail()}")

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def command(self, line):
        """One line on the control socket; its answer."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(START_TIMEOUT_S)
            s.connect(self.control)
            s.sendall(line.encode() + b"\n")
            s.shutdown(socket.SHUT_WR)
            answer = b""
            while chunk := s.recv(4096):
                answer += chunk
        text = answer.decode().strip()
        if not text.startswith("ok"):
            raise TargetError(f"control command '{line}' was answered: {text}")
        return text

    def resize(self, nsid, size_mb):
        os.truncate(self.path_of(nsid), size_mb << 20)
        self.command("rescan")

    def inject(self, ns, parameters):
        """Arm a fault; returns the function that disarms it."""
        uri = f"inject://{self.device_name(ns)}?{parameters}"
        self.command(f"inject {uri}")
        return lambda: self.command(f"uninject {uri}")

    def open_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def is_sanitized(self):
        """Is this a build with AddressSanitizer?"""
        return any("libasan" in library for library in image.libraries(self.binary))

    def cpu_s(self):
        """Processor time used so far, user and system, all threads, in seconds."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as stat:
            words = stat.read().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self):
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def add(self, ns):
        self.make_file(ns)
        self.command(f"add {self.uri(ns)}")
        self.namespaces.append(ns)

    def remove(self, nsid):
        self.command(f"remove {nsid}")

    def set_ana(self, index, state):
        """What hosts are told that the path over listener `index' is good for."""
        self.command(f"ana {state} {self.listen}:{self.ports[index]}")

    def pause(self):
        self.command("pause")

    def resume(self):
        self.command("resume")

    def allocated_bytes(self, nsid):
        """Bytes the backing file holds on disk."""
        return os.stat(self.path_of(nsid)).st_blocks * 512

    def sha256(self, nsid, offset, length):
        """Digest of a part of the backing file, as another process sees it."""
        with open(self.path_of(nsid), "rb") as f:
            f.seek(offset)
            return hashlib.sha256(f.read(length)).hexdigest()

    def connections(self):
        return self.connections_to(0)

    def connections_to(self, index):
        """Established TCP connections to a port of the engine, seen from the engine's side."""
        port = f"{self.ports[index]:04X}"
        found = set()  # the tables may name a socket twice while others come and go
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            with open(table, encoding="ascii") as lines:
                for line in lines:
                    word = line.split()
                    if word[1].endswith(":" + port) and word[3] == "01":
                        found.add((word[1], word[2]))
        return len(found)


class AshlarInGuest(Target):
    """`ashlar export' in the guest. The files of its namespaces lie in /root of the guest."""

    address = "127.0.0.1"

    def __init__(self, guest):
        super().__init__()
        self.guest = guest
        self.job = None
        self.job_port = f"/tmp/port-{self.nqn[-12:]}"

    def start(self, namespaces):
        self.namespaces = list(namespaces)
        uris = []
        for number, ns in enumerate(self.namespaces):
            where = f"/m{number}" if ns.scheme == "malloc" else f"/root/disk{number}"
            if ns.scheme != "malloc":
                self.guest.run(f"truncate -s {ns.size_mb}M {where}")
            size = f"size_mb={ns.size_mb}&" if ns.scheme == "malloc" else ""
            uris.append(f"'{ns.scheme}://{where}?{size}blk_size={ns.block_size}'")
        self.job = self.guest.spawn("echo $$ > /tmp/engine.pid; exec ashlar export --listen "
                                    f"127.0.0.1:0 --port-file {self.job_port} --nqn {self.nqn} "
                                    + " ".join(uris))
        self.guest.wait(f"[ -s {self.job_port} ] || [ -e {self.job.files}.status ]",
                        "the engine listens", START_TIMEOUT_S)
        self.check()
        self.port = int(self.guest.text(f"cat {self.job_port}"))

    def check(self):
        if not self.job.running():
            raise TargetError("the engine in the guest ended: " + self.job.output()[-2000:])

    def stop(self):
        self.guest.run("kill $(cat /tmp/engine.pid)")
        result = self.job.wait(STOP_TIMEOUT_S, check=False)
        if result.status:
            raise TargetError(f"the engine in the guest ended with {result.status} on SIGTERM: "
                              + result.out[-2000:])

    def kill(self):
        self.guest.run("kill -9 $(cat /tmp/engine.pid)", check=False)
