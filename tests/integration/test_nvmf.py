# SPDX-License-Identifier: Apache-2.0
"""The initiator (`nvmf://`) against our own target, each in a process of its own."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import threading
import time

import pytest
from conftest import ASHLAR, wait_until
from faketarget import Fake, hang_up, silence
from test_export import Export

MIB = 1 << 20
NQN = "nqn.2019-05.io.openebs:nvmf-test"


def url(port, more="", host="127.0.0.1", nqn=NQN):
    return f"nvmf://{host}:{port}/{nqn}{more}"


class Proxy:
    """A wire between initiator and target: may be cut, with or without anybody being told."""

    def __init__(self, port):
        self.to = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.pairs = []
        self.heard = []  # when something came from the initiator
        self.is_silent = False
        self.is_open = True
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def accept(self):
        down, _ = self.listener.accept()
        try:
            up = socket.create_connection(("127.0.0.1", self.to))
        except OSError:
            down.close()
            return
        self.pairs += [(down, up), (up, down)]

    def forward(self, source):
        for a, b in list(self.pairs):
            if a is not source:
                continue
            try:
                data = a.recv(1 << 16)
                if data:
                    if a.getsockname()[1] == self.port:
                        self.heard.append(time.monotonic())
                    b.sendall(data)
                    return
            except OSError:
                pass
            a.close()
            b.close()
            self.pairs = [p for p in self.pairs if a not in p]

    def run(self):
        while self.is_open:
            watched = [] if self.is_silent else [self.listener] + [a for a, _ in self.pairs]
            try:
                ready, _, _ = select.select(watched, [], [], 0.02)
            except (OSError, ValueError):
                continue
            for s in ready:
                if s is self.listener:
                    self.accept()
                elif s.fileno() >= 0:
                    self.forward(s)

    def kill(self):
        """The host dies: all connections end, new ones are refused."""
        self.is_open = False
        self.thread.join()
        self.listener.close()
        for a, _ in self.pairs:
            a.close()

    def cut(self):
        """The cable is pulled: nothing moves, nobody says so."""
        self.is_silent = True


@pytest.fixture
def wire():
    proxies = []

    def make(port):
        proxies.append(Proxy(port))
        return proxies[-1]

    yield make
    for proxy in proxies:
        if proxy.is_open:
            proxy.kill()


def export(ashlar, *words, **more):
    return Export(ashlar, *words, nqn=NQN, **more)


@pytest.mark.parametrize("scheme", ["nvmf", "nvmf+tcp", "nvmf+rdma+tcp"])
def test_reads_and_writes_verify(ashlar, scheme):
    target = export(ashlar)
    uri = url(target.port).replace("nvmf:", scheme + ":")
    done = ashlar("bench", uri, "--time", 1, "--rw", "randrw", "--verify")
    assert done.returncode == 0, done.stderr
    assert "all as written" in done.stdout and "connections lost" not in done.stdout


@pytest.mark.parametrize("more", ["hdgst", "ddgst", "hdgst&ddgst", "queue_depth=2", "queues=1",
                                  "keep_alive=0", "iopolicy=queue-depth"])
def test_options(ashlar, more):
    target = export(ashlar)
    done = ashlar("bench", url(target.port, "?" + more), "--time", 0.5, "--rw", "randrw",
                  "--verify")
    assert done.returncode == 0, done.stderr
    assert "all as written" in done.stdout


def test_fewer_queues_than_cores(ashlar):
    target = export(ashlar)
    done = ashlar("bench", url(target.port, "?queues=1"), "--time", 0.2, *cores(2))
    assert done.returncode == 1
    assert "grants 1 I/O queues" in done.stderr


def test_large_requests_and_second_namespace(ashlar):
    target = export(ashlar)
    for more in ("?nsid=1", "?nsid=2"):
        done = ashlar("bench", url(target.port, more), "--time", 0.5, "--rw", "randrw", "--bs",
                      "128k", "--qd", 4, "--verify")
        assert done.returncode == 0, done.stderr


def test_ipv6_and_names(ashlar):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on loopback")
    target = export(ashlar, "--listen", "[::1]:0")
    done = ashlar("bench", url(target.port, host="[::1]"), "--time", 0.3)
    assert done.returncode == 0, done.stderr
    target.stop()
    target = export(ashlar)
    done = ashlar("bench", url(target.port, host="localhost"), "--time", 0.3)
    assert done.returncode == 0, done.stderr


def test_leaves_politely(ashlar):
    """A host that has done its work is no trouble for its target, so none is logged."""
    target = export(ashlar)
    done = ashlar("bench", url(target.port), "--time", 0.3, *cores(2))
    assert done.returncode == 0, done.stderr
    wait_until(lambda: json.loads(target.ok("stats"))["connections"] == 0, what="the end")
    _, _, err = target.stop()
    assert "controller gone" in err and "connection broke" not in err, err


def test_copy_there_and_back(ashlar):
    target = export(ashlar)
    source = ashlar.dir / "source"
    source.write_bytes(os.urandom(3 * MIB) + bytes(5 * MIB) + os.urandom(8 * MIB))
    back = ashlar.file("back", 16 * MIB)
    done = ashlar("copy", f"aio://{source}", url(target.port), "--verify")
    assert done.returncode == 0, done.stderr
    done = ashlar("copy", url(target.port), f"aio://{back}", "--verify")
    assert done.returncode == 0, done.stderr
    assert back.read_bytes() == source.read_bytes()
    target.stop()
    assert target.disk.read_bytes() == source.read_bytes()


def test_chain_of_exports(ashlar, tmp_path):
    target = export(ashlar)
    front_dir = tmp_path / "front"
    front_dir.mkdir()
    front = ashlar.start("export", url(target.port), "--listen", "127.0.0.1:0", "--nqn",
                         NQN + "-front", "--port-file", front_dir / "port")
    wait_until((front_dir / "port").exists, what="the port file")
    port = int((front_dir / "port").read_text())
    done = ashlar("bench", url(port, nqn=NQN + "-front"), "--time", 1, "--rw", "randrw",
                  "--verify")
    assert done.returncode == 0, done.stderr
    front.send_signal(signal.SIGTERM)
    front.communicate(timeout=20)
    assert front.returncode == 0


@pytest.mark.parametrize("more, nqn, says", [
    ("", "nqn.wrong:one", "no such subsystem; 'ashlar discover 127.0.0.1:"),
    ("&nsid=2", NQN, "the first parameter of a URI follows a '?'"),
    ("?nsid=7", NQN, "active are: 1 2"),
    ("?uuid=11111111-2222-3333-4444-555555555555", NQN, "the URI wants"),
    ("?io_timeout=5", NQN, "not a duration"),
    ("?hostnqn=a%20b", NQN, "no qualified name"),
    ("/more", NQN, "exactly one is wanted, the subsystem's NQN: nvmf://HOST:PORT/NQN; write a"),
    ("?paths=nowhere", NQN, "not HOST:PORT"),
])
def test_refusals_say_why(ashlar, more, nqn, says):
    target = export(ashlar)
    done = ashlar("bench", url(target.port, more, nqn=nqn), "--time", 0.1)
    assert done.returncode == 1
    assert says in done.stderr


def test_hosts_that_are_not_there(ashlar):
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    done = ashlar("bench", url(port), "--time", 0.1)
    assert done.returncode == 1 and "refused" in done.stderr
    done = ashlar("bench", url(port, host="no.such.host.invalid"), "--time", 0.1)
    assert done.returncode == 1 and "cannot be found" in done.stderr


def test_is_not_connected_to_itself(ashlar):
    """The kernel has only one port to give away, and that is the one that is dialled."""
    world = ("ip link set lo up && echo '5000 5000' > /proc/sys/net/ipv4/ip_local_port_range && "
             f"exec {ASHLAR} bench '{url(5000)}' --time 0.1")
    try:
        done = subprocess.run(["unshare", "--map-root-user", "--net", "sh", "-c", world],
                              capture_output=True, text=True, timeout=60, env=ashlar.env)
    except FileNotFoundError:
        pytest.skip("no unshare")
    if "unshare" in done.stderr or "not found" in done.stderr or "ip_local" in done.stderr:
        pytest.skip(f"no network namespace here: {done.stderr.strip()}")
    assert done.returncode == 1 and "connected to itself" in done.stderr


def test_silent_host_ends_with_the_connect_timeout(ashlar):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        done = ashlar("bench", url(port, "?connect_timeout=300ms"), "--time", 0.1, timeout=10)
    assert done.returncode == 1 and str(port) in done.stderr


def test_host_that_is_not_allowed(ashlar):
    target = export(ashlar, "--allow-host", "nqn.2014-08.org.example:friend")
    done = ashlar("bench", url(target.port), "--time", 0.1)
    assert done.returncode == 1 and "does not admit" in done.stderr
    done = ashlar("bench", url(target.port, "?hostnqn=nqn.2014-08.org.example:friend"), "--time",
                  0.1)
    assert done.returncode == 0, done.stderr


def test_unknown_parameters_are_warned_of(ashlar):
    target = export(ashlar)
    done = ashlar("bench", url(target.port, "?colour=blue"), "--time", 0.1)
    assert done.returncode == 0 and "'colour'" in done.stderr


def restart(ashlar, port, host="127.0.0.1", **more):
    """Export again on the port it had. On loopback a host that tries to reconnect may get the
    port itself as its own, and hold it for the moment that it takes to see it: then once more."""
    for _ in range(20):
        try:
            return export(ashlar, "--listen", f"{host}:{port}", **more)
        except AssertionError as e:
            if "already in use" not in str(e):
                raise
    return pytest.fail(f"port {port} is not to be had again")


def restart_under_io(ashlar, more, down_s, *words):
    """Kills the target under a verifying bench, starts it again on the same port."""
    disk = ashlar.file("disk0", 64 * MIB)
    target = export(ashlar, uris=[f"aio://{disk}"])
    port = target.port
    load = ashlar.start("bench", url(port, more), "--time", 4, "--rw", "randrw", "--verify",
                        *words)
    wait_until(lambda: disk.stat().st_blocks > 1000, what="I/O")
    target.process.kill()
    target.process.wait()
    if down_s is not None:
        threading.Event().wait(down_s)  # the outage is what is tested
        restart(ashlar, port, uris=[f"aio://{disk}"])
    return load.communicate(timeout=60) + (load.returncode,)


def cores(count):
    """Options for so many reactors; skips where there are not so many cores."""
    ids = sorted(os.sched_getaffinity(0))[:count]
    if len(ids) < count:
        pytest.skip(f"fewer than {count} cores")
    return ["--cores", hex(sum(1 << i for i in ids))]


@pytest.mark.parametrize("count", [1, 2])
def test_restart_of_the_target_under_io(ashlar, count):
    out, err, status = restart_under_io(ashlar, "?reconnect_delay=200ms", 0.5, *cores(count))
    assert status == 0, err
    assert "all as written" in out
    assert "connection lost" in err and "back after" in err
    assert "connections lost 1, attempts to reconnect" in out


def test_target_that_stays_away(ashlar):
    _, err, status = restart_under_io(ashlar, "?reconnect_delay=100ms&ctrl_loss=700ms", None)
    assert status == 1
    assert "given up" in err and "failed, no way leads to it" in err


def test_no_reconnect_with_ctrl_loss_0(ashlar):
    _, err, status = restart_under_io(ashlar, "?ctrl_loss=0", None)
    assert status == 1
    assert "given up" in err and "reconnecting" not in err


def test_fast_io_fail(ashlar):
    _, err, status = restart_under_io(ashlar, "?fast_io_fail=300ms&reconnect_delay=100ms", None)
    assert status == 1
    assert "I/O waits for one, at most 300 ms" in err and "I/O fails until" in err
    assert "given up" not in err and "connections lost: 1, time without one: 0 ns" not in err


def two_paths(ashlar, wire, more, *words):
    target = export(ashlar)
    a, b = wire(target.port), wire(target.port)
    load = ashlar.start("bench", url(a.port, f"?paths=127.0.0.1:{b.port}" + more), "--time", 4,
                        "--rw", "randrw", "--verify", "--json", *words)
    wait_until(lambda: len(a.pairs) >= 4 and len(b.pairs) >= 4, what="both paths")
    wait_until(lambda: target.disk.stat().st_blocks > 200, what="I/O")
    return target, a, b, load


@pytest.mark.parametrize("victim, count", [(0, 1), (1, 1), (0, 2)])
def test_a_path_dies(ashlar, wire, victim, count):
    _, a, b, load = two_paths(ashlar, wire, "", *cores(count))
    (a, b)[victim].kill()
    out, err = load.communicate(timeout=60)
    assert load.returncode == 0, err
    result = json.loads(out)
    assert result["errors"] == 0
    assert "paths in use: 1" in err
    remote = result["devices"][0]["remote"]
    assert remote["lost"] == 1 and remote["attempts"] > 0 and remote["late"] == 0


def test_a_path_is_cut_off(ashlar, wire):
    _, a, _, load = two_paths(ashlar, wire, "&keep_alive=1s")
    a.cut()
    out, err = load.communicate(timeout=60)
    assert load.returncode == 0, err
    result = json.loads(out)
    assert result["errors"] == 0
    assert result["lat_ns"]["max"] < 2.5e9  # noticed within the keep alive, then sent elsewhere
    assert "keep alive" in err


def test_keep_alive_is_early_after_traffic(ashlar, wire, tmp_path):
    """Traffic stands for a keep alive, but the next one must not wait until the peer's patience,
    which began with that traffic, is at its end."""
    target = export(ashlar)
    proxy = wire(target.port)
    process = ashlar.start("export", url(proxy.port, "?keep_alive=2s"), "--nqn",
                           NQN + "-front", "--listen", "127.0.0.1:0", "--port-file",
                           tmp_path / "front-port")
    wait_until((tmp_path / "front-port").exists, what="the port file")
    front = url(int((tmp_path / "front-port").read_text()), nqn=NQN + "-front")
    assert ashlar("bench", front, "--ops", 1, "--rw", "read").returncode == 0
    ready = len(proxy.heard) - 1  # what that read came to
    wait_until(lambda: len(proxy.heard) > ready + 2, timeout_s=10, what="two keep alives")
    gaps = [b - a for a, b in zip(proxy.heard[ready:], proxy.heard[ready + 1:])]
    assert max(gaps) < 1.75, gaps
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)


def test_two_fronts_of_one_backend(ashlar, tmp_path):
    """One volume, exported by two processes under one name: one is killed with SIGKILL."""
    backend = export(ashlar)
    fronts = []
    for i, ids in enumerate(("1-100", "101-200")):
        place = tmp_path / f"front{i}"
        place.mkdir()
        process = ashlar.start("export", url(backend.port), "--listen", "127.0.0.1:0", "--nqn",
                               NQN + "-front", "--cntlid-range", ids, "--port-file",
                               place / "port")
        wait_until((place / "port").exists, what="the port file")
        fronts.append((process, int((place / "port").read_text())))
    uri = url(fronts[0][1], f"?paths=127.0.0.1:{fronts[1][1]}&keep_alive=2s", nqn=NQN + "-front")
    load = ashlar.start("bench", uri, "--time", 4, "--rw", "randrw", "--verify", "--json")
    wait_until(lambda: backend.disk.stat().st_blocks > 200, what="I/O")
    fronts[0][0].kill()
    out, err = load.communicate(timeout=60)
    assert load.returncode == 0, err
    result = json.loads(out)
    assert result["errors"] == 0
    assert result["lat_ns"]["max"] < 2e9
    fronts[1][0].send_signal(signal.SIGTERM)
    fronts[1][0].communicate(timeout=20)


class TwoListeners:
    """A target with ANA and two listeners, and a verifying load over both."""

    def __init__(self, ashlar, more="", load_s=4):
        self.target = export(ashlar, "--ana", "--listen", "127.0.0.1:0", "--listen",
                             "127.0.0.2:0")
        a, b = [x["listener"] for x in json.loads(self.target.ok("ana"))]
        self.load = ashlar.start("bench", f"nvmf://{a}/{NQN}?paths={b}{more}", "--time", load_s,
                                 "--rw", "randrw", "--verify", "--json")
        wait_until(lambda: len(json.loads(self.target.ok("controllers"))) == 2, what="two paths")
        self.wait_io()

    def wait_io(self):
        before = self.commands()
        wait_until(lambda: self.commands() > before + 1000, what="I/O")

    def commands(self):
        return json.loads(self.target.ok("stats"))["commands"]

    def set(self, *states):
        for number, state in enumerate(states):
            self.target.ok(f"ana {state} {number}")

    def end(self):
        out, err = self.load.communicate(timeout=60)
        return self.load.returncode, json.loads(out) if out else None, err


def test_ana_changes_under_io(ashlar):
    """Every state that leaves one way, one after the other: nobody above notices."""
    two = TwoListeners(ashlar, load_s=5)
    for states in (("non-optimized", "optimized"), ("inaccessible", "optimized"),
                   ("optimized", "inaccessible"), ("non-optimized", "inaccessible"),
                   ("persistent-loss", "non-optimized"), ("change", "optimized"),
                   ("optimized", "optimized")):
        # the better one first, so that there is a way at any time
        for number in sorted((0, 1), key=lambda n: "opt" not in states[n]):
            two.target.ok(f"ana {states[number]} {number}")
        two.wait_io()
    status, result, err = two.end()
    assert status == 0, err
    assert result["errors"] == 0


def test_ana_no_way_for_a_while(ashlar):
    """Inaccessible everywhere: I/O waits, and goes on when a path is back."""
    two = TwoListeners(ashlar)
    two.set("inaccessible", "inaccessible")
    seen = [two.commands()]

    def is_silent():
        threading.Event().wait(0.1)
        seen.append(two.commands())
        return seen[-1] == seen[-2]

    wait_until(is_silent, what="silence")
    two.set("inaccessible", "optimized")
    two.wait_io()
    status, result, err = two.end()
    assert status == 0, err
    assert result["errors"] == 0


def test_ana_no_way_for_too_long(ashlar):
    two = TwoListeners(ashlar, "&fast_io_fail=300ms")
    two.set("inaccessible", "inaccessible")
    status, _, err = two.end()
    assert status == 1
    assert "no usable path: the target allows no I/O" in err and "I/O fails until" in err


@pytest.mark.parametrize("action", ["abort", "reset"])
def test_late_commands_are_not_waited_for(ashlar, action):
    target = export(ashlar)
    target.ok(f"inject inject://{target.disk}?op=read&method=delay&delay_us=3000000&retries=1")
    done = ashlar("bench", url(target.port, "?io_timeout=300ms&on_timeout=" + action), "--time", 1)
    assert done.returncode == 0, done.stderr
    assert "is not answered after 300 ms" in done.stderr


def test_silence_is_a_loss_for_who_keeps_other_copies(ashlar):
    target = export(ashlar)
    target.ok(f"inject inject://{target.disk}?op=read&method=delay&delay_us=3000000&retries=1")
    done = ashlar("bench", url(target.port, "?io_timeout=300ms&on_timeout=reset&ctrl_loss=0"),
                  "--time", 1)
    assert done.returncode == 1
    assert "connection lost: a command was not answered in time" in done.stderr
    assert "back after" not in done.stderr


def test_namespace_grows_under_io(ashlar, tmp_path):
    target = export(ashlar)
    front_dir = tmp_path / "front"
    front_dir.mkdir()
    front = Export.__new__(Export)
    front.ashlar, front.control = ashlar, front_dir / "control"
    front.process = ashlar.start("export", url(target.port), "--listen", "127.0.0.1:0", "--nqn",
                                 NQN + "-front", "--control", front.control)
    wait_until(front.control.exists, what="the control socket")
    before = front.blocks(1)
    os.truncate(target.disk, 32 * MIB)
    target.ok("rescan")
    wait_until(lambda: front.blocks(1) == 2 * before, what="the new size")


def test_namespace_goes(ashlar):
    target = export(ashlar)
    load = ashlar.start("bench", url(target.port), "--time", 4)
    wait_until(lambda: json.loads(target.ok("stats"))["commands"] > 10000, what="I/O")
    target.ok("remove 1")
    _, err = load.communicate(timeout=60)
    assert load.returncode == 1
    assert "is gone" in err and "failed, no way leads to it unless the namespace comes" in err


def test_another_medium_under_the_same_number(ashlar):
    """A target set up anew: the device must not show the other volume's data."""
    disk = ashlar.file("one", 16 * MIB)
    other = ashlar.file("two", 16 * MIB)
    target = export(ashlar, uris=[f"aio://{disk}"])
    port = target.port
    load = ashlar.start("bench", url(port, "?reconnect_delay=100ms&ctrl_loss=30s"), "--time", 6,
                        "--rw", "randwrite")
    wait_until(lambda: disk.stat().st_blocks > 1000, what="I/O")
    target.process.kill()
    target.process.wait()
    restart(ashlar, port, uris=[f"aio://{other}"])
    _, err = load.communicate(timeout=60)
    assert load.returncode == 1
    assert "is not what it was" in err
    assert other.stat().st_blocks == 0


def test_many_controllers_in_one_process(ashlar):
    """64 devices, each through a controller of its own, as hosts that share nothing."""
    count = 64
    target = export(ashlar, "--listen", "0.0.0.0:0")
    uris = [url(target.port, f"?hostnqn=nqn.2014-08.org.example:h{i}", host=f"127.0.0.{1 + i}")
            for i in range(count)]
    done = ashlar("bench", *uris, "--time", 1, "--qd", 2, timeout=120)
    assert done.returncode == 0, done.stderr


def test_many_controllers_come_back(ashlar):
    """More controllers than tasks to reconnect them, and than stacks for such tasks."""
    count = 64
    disk = ashlar.file("disk0", 16 * MIB)
    target = export(ashlar, "--listen", "0.0.0.0:0", uris=[f"aio://{disk}"])
    port = target.port
    uris = [url(port, f"?hostnqn=nqn.2014-08.org.example:h{i}&reconnect_delay=100ms",
                host=f"127.0.0.{1 + i}") for i in range(count)]
    load = ashlar.start("bench", *uris, "--time", 4, "--qd", 2)
    wait_until(lambda: json.loads(target.ok("stats"))["controllers"] == count,
               what="all controllers")
    target.process.kill()
    target.process.wait()
    restart(ashlar, port, "0.0.0.0", uris=[f"aio://{disk}"])
    _, err = load.communicate(timeout=60)
    assert load.returncode == 0, err


def test_bench_takes_a_second_uri_as_a_path(ashlar):
    one = Export(ashlar, "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0", nqn=NQN)
    ports = re.findall(r"127\.0\.0\.1:(\d+)", one.ok("ana"))
    assert len(ports) == 2
    uris = [url(port, "?nsid=2") for port in ports]
    got = ashlar.json("bench", *uris, "--rw", "randrw", "--verify", "--ops", "2001")
    assert [d["uri"] for d in got["devices"]] == uris[:1]
    assert got["reads"] + got["writes"] == 2001
    assert got["errors"] == 0


def test_16_namespaces_at_once(ashlar):
    """Every second one of 4 KiB blocks, over two cores and with digests: data of one namespace in
    another would be foreign to it, as each has a seed of its own."""
    count = 16
    target = export(ashlar, uris=[f"malloc:///m{i}?size_mb=4&blk_size={512 << i % 2 * 3}"
                                  for i in range(count)])
    uris = [url(target.port, f"?hdgst&ddgst&nsid={i + 1}") for i in range(count)]
    got = ashlar.json("bench", *uris, "--rw", "randrw", "--bs", "16k", "--verify", "--qd", 8,
                      "--time", 1, *cores(2))
    assert got["errors"] == 0 and len(got["devices"]) == count


@pytest.mark.parametrize("lie, is_waited", [(silence, True), (hang_up, False)])
def test_a_lost_write_of_a_target_that_cannot_be_asked(ashlar, lie, is_waited):
    """What fell silent may still take what it was sent, until its keep-alive timer has run out."""
    times = []

    def write(peer, cmd):
        times.append(time.monotonic())
        (lie if len(times) == 1 else type(peer).honest)(peer, cmd)

    fake = Fake({"write": write})
    done = ashlar("bench", fake.url("?keep_alive=1s&io_timeout=200ms&on_timeout=reset"
                                    "&reconnect_delay=50ms"),
                  "--rw", "write", "--qd", 1, "--ops", 2)
    fake.stop()
    assert done.returncode == 0, done.stderr
    assert (times[1] - times[0] >= 2) == is_waited
