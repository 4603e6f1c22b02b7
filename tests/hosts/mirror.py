# SPDX-License-Identifier: Apache-2.0
"""A nexus over replicas that other processes serve, on this machine or at places of their own.

Replica n is an `ashlar export' of one device; the nexus is one more `ashlar export', which keeps
its record in a folder of the run. All of them are killed and restarted as a case likes. What is
known of the nexus is asked at its control socket and read in its log.
"""

import hashlib
import json
import os
import re
import uuid
from dataclasses import dataclass

from guest import HOST_ADDRESS, wait_until
from harness import check_equal
from targets import Ashlar, Namespace

MIB = 1 << 20
# Where data begins on a replica with label v1 (ashlar-uri(7)).
DATA_START = 5 * MIB
# A dead peer is noticed within it. The emulated guest keeps both cores busy: less would find peers
# dead that only wait for their turn.
KEEP_ALIVE = "3s"
REBUILD_TIMEOUT_S = 90


@dataclass
class Site:
    """Where a replica or a nexus runs, and at which address it listens there."""

    place: object = None
    listen: str = "127.0.0.1"


class Mirror:
    """Replicas and the nexus over them."""

    def __init__(self, t, sites, nexus=None, size_mb=64, devices=None):
        """One replica per site: files of `size_mb' MiB and what is reserved, or `devices'. The
        nexus runs at the site `nexus'; start() starts it."""
        self.t = t
        self.uuid = str(uuid.uuid4())
        self.size = size_mb * MIB
        self.store = os.path.join(t.run.folder, f"store-{self.uuid[:8]}")
        self.replicas, self.children, self.nexuses = [], [], []
        self.nexus_site = nexus or Site()
        for n, site in enumerate(sites):
            replica = t.new_target(site.place)
            if devices:
                replica.start_uris([devices[n]], listen=site.listen)
            else:
                replica.start([Namespace(size_mb=size_mb + 8)], listen=site.listen)
            self.replicas.append(replica)
            ns = f"&uuid={replica.namespaces[0].uuid}" if replica.namespaces else ""
            self.children.append(f"nvmf://{site.listen}:{replica.port}/{replica.nqn}"
                                 f"?keep_alive={KEEP_ALIVE}&connect_timeout=3s{ns}")

    def uri(self):
        children = ",".join(c.replace("&", "%26") for c in self.children)
        return (f"nexus:///v{self.uuid[:8]}?size={self.size}&uuid={self.uuid}&required_size"
                f"&children={children}")

    def start(self, *options, store=None, nqn=None, ports=1):
        """Start a nexus over the replicas; a case may want a second one."""
        nexus = Ashlar(self.t.run.engine, self.t.run.folder, self.t.run.log_dir,
                       self.nexus_site.place)
        nexus.address = HOST_ADDRESS
        nexus.nqn = nqn or nexus.nqn
        self.t.targets.insert(len(self.nexuses), nexus)  # ended before the replicas are
        self.nexuses.append(nexus)
        nexus.start_uris([self.uri()], ["--store", store or self.store, *options],
                         self.nexus_site.listen, ports)
        return nexus

    @property
    def nexus(self):
        return self.nexuses[0]

    # ---- what the nexus says

    def state(self, nexus=None):
        answer = (nexus or self.nexus).command("nexus")
        return json.loads(answer.split(" ", 1)[1])[0]

    def child(self, n):
        return next(c for c in self.state()["children"] if c["uri"] == self.children[n])

    def wait_status(self, status, timeout_s=REBUILD_TIMEOUT_S):
        wait_until(lambda: self.state()["status"] == status, f"the nexus is {status}: "
                   f"{self.state()}", timeout_s)

    def wait_child(self, n, health, timeout_s=30):
        wait_until(lambda: self.child(n)["health"] == health,
                   f"child {n} is {health}: {self.child(n)}", timeout_s)

    def online(self, n):
        self.nexus.command(f"child-online {self.children[n]}")

    def rebuilds(self):
        """How rebuilds of this process ended, newest first."""
        return json.loads(self.nexus.command("rebuilds").split(" ", 1)[1])["history"]

    def last_rebuild(self, n):
        return next(r for r in self.rebuilds() if r["child"] == self.children[n])

    # ---- what is on the disks

    def check_disks(self):
        """`ashlar nexus check' over the replicas and the record, while there is no nexus."""
        record, = (name for name in os.listdir(self.store) if name.endswith(".json"))
        program = self.t.ashlar("nexus", "check", "--json", "--record",
                                os.path.join(self.store, record), *self.children,
                                place=self.nexus_site.place)
        program.process.wait(30)
        return json.loads(program.output()[program.output().index("{"):])

    def digests(self, offset=0, length=None):
        """Of this part of the volume, one per replica."""
        digests = []
        for replica in self.replicas:
            with open(replica.path_of(1), "rb") as file:
                file.seek(DATA_START + offset)
                digests.append(hashlib.sha256(
                    file.read(self.size if length is None else length)).hexdigest())
        return digests

    def check_equal(self):
        digests = self.digests()
        check_equal(digests, digests[:1] * len(digests), "the data of the replicas")


@dataclass
class Log:
    """What a process has logged since a moment."""

    target: object
    start: int = None

    def __post_init__(self):
        if self.start is None:
            self.start = os.path.getsize(self.target.log)

    @classmethod
    def whole(cls, target):
        return cls(target, 0)

    def text(self):
        with open(self.target.log, encoding="utf-8", errors="replace") as log:
            log.seek(self.start)
            return log.read()

    def wait(self, pattern, what, timeout_s=30):
        """The first match of a pattern, once it was logged."""
        try:
            return wait_until(lambda: re.search(pattern, self.text()), what, timeout_s)
        finally:
            self.target.check()
