# SPDX-License-Identifier: Apache-2.0
"""Failover as a user sees it: how long I/O stalls when a path dies, loudly or silently.

    backend (memory) <-- front 1 --\\
                     <-- front 2 ---- bench --verify, both fronts as paths

Each front is a process that serves the backend's namespace (nvmf://) under one name and its own
range of controller ids. Killing one with SIGKILL is the loud death. The silent one needs a network
that can be cut without anybody being told: the front lives in a network namespace behind a pair of
veth devices, and its end is taken down; needs root.

A front that is cut off from its backend as well must not carry a write out that its host has sent
elsewhere meanwhile, and overwritten. Time is what keeps it from that: it gives up (FRONT) before
its host does, which is not before half of keep_alive. Without that these tests find lost writes.

The longest stall is the longest latency that the benchmark saw. It may be as long as the URI says:
keep_alive for a path that fell silent, next to nothing for one that was killed. MARGIN_S is for the
machine.
"""

import json
import os
import signal
import subprocess
import threading

import pytest
from conftest import ASHLAR, wait_until

NQN = "nqn.2019-05.io.openebs:failover"
KEEP_ALIVE_S = 2
FRONT = "?keep_alive=400ms&fast_io_fail=100ms&reconnect_delay=100ms&connect_timeout=300ms"
MARGIN_S = 0.5
KILLED_MAX_S = 0.5  # nothing is configured for it: the kernel tells at once


class Export:
    """One process that exports something."""

    def __init__(self, ashlar, name, uri, *words, listen="127.0.0.1:0", prefix=()):
        self.ashlar, self.name, self.uri = ashlar, name, uri
        self.words, self.prefix = words, prefix
        self.host, self.port = listen.rsplit(":", 1)
        self.start()

    def start(self):
        ready = self.ashlar.dir / f"{self.name}.port"
        ready.unlink(missing_ok=True)
        log = (self.ashlar.dir / f"{self.name}.log").open("a")
        with log:
            self.process = subprocess.Popen(
                [*self.prefix, ASHLAR, "export", self.uri, "--listen", f"{self.host}:{self.port}",
                 "--port-file", ready, *self.words], env=self.ashlar.env,
                stdout=subprocess.DEVNULL, stderr=log, text=True)
        self.ashlar.started.append(self.process)
        wait_until(lambda: ready.exists() or self.process.poll() is not None, what=self.name)
        assert self.process.poll() is None, (self.ashlar.dir / f"{self.name}.log").read_text()
        self.port = int(ready.read_text())

    def kill(self):
        self.process.kill()
        self.process.wait()

    def restart(self):
        """On the port it had. On loopback a host that reconnects may sit on it for an instant."""
        for _ in range(20):
            try:
                return self.start()
            except AssertionError as e:
                if "already in use" not in str(e):
                    raise
        return pytest.fail(f"port {self.port} is not to be had again")


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Network:
    """A place behind a cable that can be pulled. The pair's addresses are for it alone."""

    def __init__(self, number):
        self.name = f"ashlar-{os.getpid()}-{number}"
        self.near, self.far = f"av{os.getpid()}n{number}", f"av{os.getpid()}f{number}"
        subnet = f"198.18.{os.getpid() % 200 + number}."  # RFC 2544: for such experiments
        self.addr = subnet + "2"
        ip("netns", "add", self.name)
        ip("link", "add", self.near, "type", "veth", "peer", "name", self.far, "netns", self.name)
        ip("addr", "add", subnet + "1/24", "dev", self.near)
        ip("link", "set", self.near, "up")
        ip("-n", self.name, "addr", "add", self.addr + "/24", "dev", self.far)
        ip("-n", self.name, "link", "set", "lo", "up")
        ip("-n", self.name, "link", "set", self.far, "up")
        self.prefix = ("ip", "netns", "exec", self.name)

    def cut(self):
        """Nothing gets through any more, and nothing says so: no route, no reset."""
        ip("-n", self.name, "link", "set", self.far, "down")

    def mend(self):
        ip("-n", self.name, "link", "set", self.far, "up")

    def remove(self):
        ip("link", "del", self.near)  # the namespace itself goes when the kernel has time
        ip("netns", "del", self.name)


@pytest.fixture
def network():
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root: the silent cut of a path is NOT shown here")
    made = []

    def make():
        try:
            made.append(Network(len(made)))
        except (OSError, subprocess.CalledProcessError) as e:
            pytest.skip(f"no network namespaces ({getattr(e, 'stderr', e)}): the silent cut of a "
                        "path is NOT shown here")
        return made[-1]

    yield make
    for one in made:
        one.remove()


class Rig:
    """A backend, two fronts, and a verifying load over both."""

    def __init__(self, ashlar, networks=(None, None), load_s=5, more=""):
        self.ashlar, self.networks = ashlar, networks
        self.backend = Export(ashlar, "backend", "malloc:///m?size_mb=32", "--nqn", NQN,
                              listen="0.0.0.0:0")
        self.fronts = []
        for i, net in enumerate(networks):
            gate = net.addr.rsplit(".", 1)[0] + ".1" if net else "127.0.0.1"
            self.fronts.append(Export(
                ashlar, f"front{i}", f"nvmf://{gate}:{self.backend.port}/{NQN}{FRONT}",
                "--nqn", NQN + "-front", "--cntlid-range", f"{1 + 100 * i}-{100 + 100 * i}",
                listen=f"{net.addr if net else '127.0.0.1'}:0", prefix=net.prefix if net else ()))
        a, b = [f"{f.host}:{f.port}" for f in self.fronts]
        self.log = ashlar.dir / "load.log"
        with self.log.open("w") as log:
            self.load = subprocess.Popen(
                [ASHLAR, "bench", f"nvmf://{a}/{NQN}-front?paths={b}&reconnect_delay=100ms"
                 f"&connect_timeout=1s{more or f'&keep_alive={KEEP_ALIVE_S}s'}", "--time",
                 str(load_s), "--rw", "randrw", "--verify", "--json", "--qd", "16"],
                env=ashlar.env, stdout=subprocess.PIPE, stderr=log, text=True)
        ashlar.started.append(self.load)
        self.wait("paths in use: 2")

    def wait(self, what, count=1):
        """Until the load has said that so often."""
        wait_until(lambda: self.log.read_text().count(what) >= count, what=what)

    def paths(self, n):
        """Until the load uses so many paths."""
        said = f"paths in use: {n}"
        wait_until(lambda: self.log.read_text().rfind(said) >
                   self.log.read_text().rfind(f"paths in use: {3 - n}"), what=said)

    def end(self, stall_max_s):
        """No error, all as written, no stall longer than that; returns the longest."""
        out, _ = self.load.communicate(timeout=60)
        assert self.load.returncode == 0, self.log.read_text()
        result = json.loads(out)
        assert result["errors"] == 0 and result["verify"]["bad_blocks"] == 0
        assert result["verify"]["checked_blocks"] > 0
        stall_s = result["lat_ns"]["max"] / 1e9
        assert stall_s <= stall_max_s
        return stall_s


@pytest.mark.parametrize("victim", [0, 1])
def test_killed(ashlar, victim):
    rig = Rig(ashlar, load_s=2)
    rig.fronts[victim].kill()
    rig.paths(1)
    rig.fronts[victim].restart()
    rig.paths(2)
    rig.end(KILLED_MAX_S)


def test_cut_off(ashlar, network):
    """The cable of one front is pulled under load, and plugged in again."""
    nets = network(), network()
    rig = Rig(ashlar, nets, load_s=4)
    nets[0].cut()
    rig.paths(1)
    nets[0].mend()
    rig.paths(2)
    stall_s = rig.end(KEEP_ALIVE_S + MARGIN_S)
    assert stall_s > KEEP_ALIVE_S / 4, "nothing was in flight on the path that was cut"


def test_cut_off_without_keep_alive(ashlar, network):
    """Then io_timeout is the configured time: once for the abort, once for the reset."""
    nets = network(), network()
    rig = Rig(ashlar, nets, load_s=4, more="&io_timeout=600ms&keep_alive=0")
    nets[1].cut()
    rig.paths(1)
    rig.end(2 * 0.6 + MARGIN_S)


def test_one_after_the_other(ashlar, network):
    """Kill one, bring it back, cut the other, bring it back, and once more the other way round."""
    nets = network(), network()
    rig = Rig(ashlar, nets, load_s=8)
    for killed, cut in ((0, 1), (1, 0)):
        rig.fronts[killed].kill()
        rig.paths(1)
        rig.fronts[killed].restart()
        rig.paths(2)
        nets[cut].cut()
        rig.paths(1)
        nets[cut].mend()
        rig.paths(2)
    rig.end(KEEP_ALIVE_S + MARGIN_S)


def test_both_gone_for_a_while(ashlar):
    """No path at all: I/O waits, and goes on when one is back; fast_io_fail is the limit."""
    rig = Rig(ashlar, load_s=3, more="&fast_io_fail=5s")
    for front in rig.fronts:
        front.kill()
    rig.wait("paths in use: 0")
    threading.Event().wait(0.5)  # the outage is what is tested
    rig.fronts[1].restart()
    assert rig.end(5) >= 0.5


def test_both_gone_for_too_long(ashlar):
    rig = Rig(ashlar, load_s=2, more="&fast_io_fail=500ms")
    for front in rig.fronts:
        front.kill()
    out, _ = rig.load.communicate(timeout=30)
    assert rig.load.returncode == 1
    result = json.loads(out)
    assert result["errors"] > 0 and result["seconds"] < 2 + 0.5 + MARGIN_S


def test_the_backend_restarts(ashlar):
    """The chain: what the fronts lose they bring back themselves, the load sees a stall only."""
    disk = ashlar.file("disk", 32 << 20)
    backend = Export(ashlar, "backend", f"aio://{disk}", "--nqn", NQN)
    front = Export(ashlar, "front", f"nvmf://127.0.0.1:{backend.port}/{NQN}?reconnect_delay=100ms",
                   "--nqn", NQN + "-front")
    load = ashlar.start("bench", f"nvmf://127.0.0.1:{front.port}/{NQN}-front", "--time", 3, "--rw",
                        "randrw", "--verify", "--json")
    wait_until(lambda: disk.stat().st_blocks > 200, what="I/O")
    backend.kill()
    backend.restart()
    out, err = load.communicate(timeout=60)
    assert load.returncode == 0, err
    assert json.loads(out)["errors"] == 0
    front.process.send_signal(signal.SIGTERM)
    assert front.process.wait(20) == 0
