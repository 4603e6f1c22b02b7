# SPDX-License-Identifier: Apache-2.0
"""Network namespaces with cables between them that can be pulled.

A Place is a network of its own: what is started with Place.enter as preexec_fn has nothing but its
loopback and the cables that lead there. Cable.cut takes one end down: packets are lost and nobody
is told (no RST, no FIN), as when a switch dies. Which end makes a difference: where an end is down
the kernel has no route any more and says so to who sends; the other side only hears nothing.

A namespace has no name, only a descriptor here: it goes with this process and what runs in it,
however they end. Needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN); why_not() says what is missing.
"""

import os
import shutil
import subprocess

from guest import HOST_ADDRESS, LIBC, die_with_parent

CLONE_NEWNET = 0x40000000  # linux/sched.h
# Linux calls that its C library of old has no Python name for (os.unshare, os.setns: 3.12).
UNSHARE, SETNS = LIBC.unshare, LIBC.setns


class CableError(Exception):
    """`ip' refused something; the text has its words."""


def why_not():
    """Why there can be no namespaces here; None: there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip"):
        return "network namespaces need `ip' (Debian: iproute2)"
    try:
        place = Place("trial")
    except (CableError, OSError, subprocess.SubprocessError) as e:
        return f"no network namespace can be made: {e}"
    place.close()
    return None


def unshare_network():
    die_with_parent()
    if UNSHARE(CLONE_NEWNET):
        os._exit(1)


class Place:
    """A network namespace."""

    def __init__(self, name):
        self.name = name
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                              preexec_fn=unshare_network) as holder:
            self.fd = os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"
        if os.stat(self.path).st_ino == os.stat("/proc/self/ns/net").st_ino:
            self.close()
            raise CableError("a new network namespace is the old one")
        self.ip("link set lo up")

    def enter(self):
        """For preexec_fn."""
        die_with_parent()
        if SETNS(self.fd, CLONE_NEWNET):
            os._exit(1)

    def ip(self, words):
        done = subprocess.run(["ip", *words.split()], preexec_fn=self.enter, capture_output=True,
                              text=True, check=False)
        if done.returncode:
            raise CableError(f"{self.name}: ip {words}: {done.stderr.strip()}")

    def tap(self, name):
        """A card for a guest that runs here; the guest finds us at HOST_ADDRESS, as always."""
        self.ip(f"tuntap add {name} mode tap")
        self.ip(f"addr add {HOST_ADDRESS}/24 dev {name}")
        self.ip(f"link set {name} up")

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Cable:
    """A pair of network cards, one at each place: 10.77.NUMBER.1 here, .2 there."""

    def __init__(self, number, here, there):
        self.ends = (here, there)
        self.card = f"cable{number}"
        self.addresses = tuple(f"10.77.{number}.{end + 1}" for end in (0, 1))
        here.ip(f"link add {self.card} type veth peer name {self.card} netns {there.path}")
        for place, address in zip(self.ends, self.addresses):
            place.ip(f"addr add {address}/24 dev {self.card}")
            place.ip(f"link set {self.card} up")

    def cut(self, end):
        self.ends[end].ip(f"link set {self.card} down")

    def mend(self):
        for place in self.ends:
            place.ip(f"link set {self.card} up")
