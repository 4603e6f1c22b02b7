# SPDX-License-Identifier: Apache-2.0
"""Targets that lie, stall and flood, against an initiator in a process that has other work to do.

One export serves a good volume all the time. Each test has it add a device whose target
(faketarget.py) misbehaves at one step. The answer must come in bounded time and say what is wrong;
meanwhile and afterwards the good volume is read and written without an error; at the end the
process has not grown and ends well, which under sanitizers is more than a matter of form.
"""

import json
import socket
import struct
import subprocess
import threading
import time

import pytest
from conftest import ASHLAR, Ashlar
from faketarget import (BLOCK, DISCOVERY, Fake, drip, dword, floods, hang_up, patched, reset, sends,
                        silence, status)
from nvmetcp import F_SUCCESS, READ, WRITE, Host, NvmeError
from test_export import NQN, Export

LIMITS = "?connect_timeout=300ms&admin_timeout=300ms&io_timeout=150ms&reconnect_delay=50ms" \
         "&ctrl_loss=1s&keep_alive=300ms"
ADD_MAX_S = 6   # a step or two at their limits, on a busy machine
IO_MAX_S = 15   # all tries of one command, each as late as may be
GROWTH_MAX = 48 << 20
SANITIZED = "asan" in str(ASHLAR)


class Neighbour(threading.Thread):
    """Reads and writes the good volume until it is told to end."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.host = Host(port, NQN)
        self.queue = self.host.queue(1)
        self.rounds, self.error, self.is_over = 0, None, False

    def run(self):
        try:
            while not self.is_over:
                data = struct.pack("<Q", self.rounds) * 64
                self.queue.write(1, self.rounds % 64, data)
                assert self.queue.read(1, self.rounds % 64, 1) == data
                self.rounds += 1
        except Exception as e:  # pylint: disable=broad-except
            self.error = e

    def end(self):
        self.is_over = True
        self.join(20)
        self.host.close()
        assert self.error is None and self.rounds > 0


class Logged(Ashlar):
    """What a program in the background says goes to a file: a pipe that nobody reads fills up."""

    def start(self, *words):
        with (self.dir / "log").open("w") as log:
            process = subprocess.Popen([ASHLAR, *map(str, words)], env=self.env, text=True,
                                       stdout=subprocess.DEVNULL, stderr=log)
        self.started.append(process)
        return process

    def said_all(self):
        return (self.dir / "log").read_text(errors="replace")

    def said(self):
        return self.said_all()[-4000:]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    program = Logged(tmp_path_factory.mktemp("hostile"))
    # memory that the sanitizer keeps to find late users would look like growth
    program.env["ASAN_OPTIONS"] = "detect_leaks=1:abort_on_error=1:quarantine_size_mb=4"
    program.env["UBSAN_OPTIONS"] = "halt_on_error=1:print_stacktrace=1:abort_on_error=1"
    export = Export(program, uris=["malloc:///good?size_mb=8"])
    yield export
    assert export.process.poll() is None, program.said()
    assert export.stop()[0] == 0, program.said()
    program.end()


@pytest.fixture
def good(engine):
    """The export, with a neighbour at work."""
    assert engine.process.poll() is None, engine.ashlar.said()
    neighbour = Neighbour(engine.port)
    neighbour.start()
    yield engine
    neighbour.end()


@pytest.fixture
def fake():
    made = []

    def make(lies, **more):
        made.append(Fake(lies, **more))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def add(engine, target, more=LIMITS):
    """The answer to `add`, and that it came in time."""
    start = time.monotonic()
    answer = engine.one(f"add {target.url(more)}")
    assert time.monotonic() - start < ADD_MAX_S
    return answer


def refused(engine, target, says=""):
    answer = add(engine, target)
    assert answer.startswith("error ")
    assert says in answer, answer
    assert len(answer) > 40 and answer.isprintable()


def added(engine, target, more=LIMITS):
    answer = add(engine, target, more)
    assert answer.startswith("ok nsid="), answer
    return int(answer[8:])


def remove(engine, nsid):
    start = time.monotonic()
    engine.ok(f"remove {nsid}")
    assert time.monotonic() - start < ADD_MAX_S


def test_the_fake_is_good_enough(good, fake):
    """Without lies it is a target like any other; so what fails below fails for its lie."""
    target = fake({})
    nsid = added(good, target)
    with Host(good.port, NQN) as host:
        q = host.queue(1)
        assert q.read(nsid, 0, 8) == bytes(8 * BLOCK)
        q.write(nsid, 0, bytes(512))
        q.write(nsid, 0, bytes(1 << 15))
    remove(good, nsid)
    assert {"accept", "ic", "connect-admin", "property-get", "property-set", "identify-0",
            "identify-1", "identify-3", "identify-6", "set-feature-7", "set-feature-11", "log-12",
            "connect-io", "aer", "read", "write"} <= target.seen


STEPS = ["accept", "ic", "connect-admin", "property-get", "property-set", "identify-1",
         "identify-6", "set-feature-7", "set-feature-11", "log-12", "identify-0", "identify-3"]


@pytest.mark.parametrize("step", STEPS)
def test_silence(good, fake, step):
    target = fake({step: silence})
    refused(good, target)
    assert step in target.seen


@pytest.mark.parametrize("step", ["ic", "connect-admin", "identify-1", "log-12"])
def test_slow_drip(good, fake, step):
    target = fake({step: drip})
    refused(good, target)
    assert step in target.seen


@pytest.mark.parametrize("lie", [hang_up, reset])
@pytest.mark.parametrize("step", STEPS)
def test_hanging_up(good, fake, step, lie):
    target = fake({step: lie})
    refused(good, target)
    assert step in target.seen


def data_of(make):
    """A C2HData made wrong: make(cmd) -> arguments of Peer.c2h."""
    def pdu(peer, cmd):
        args = {"cid": cmd.cid, "data": bytes(cmd.len), **make(cmd)}
        return peer.c2h(**args) + peer.resp(cmd.cid)
    return pdu


WRONG_DATA = {
    "cid": data_of(lambda cmd: {"cid": cmd.cid ^ 0x55}),
    "more": data_of(lambda cmd: {"data": bytes(cmd.len + 4)}),
    "offset": data_of(lambda cmd: {"off": 4}),
    "far": data_of(lambda cmd: {"off": 0xFFFFFFF0}),
    "length": data_of(lambda cmd: {"length": 0xFFFFFFFF}),
    "huge-pdu": data_of(lambda cmd: {"plen": 0xFFFFFFFF}),
    "tiny-pdu": data_of(lambda cmd: {"plen": 8}),
    "twice": lambda peer, cmd: 2 * peer.c2h(cmd.cid, bytes(cmd.len)),
    "short": data_of(lambda cmd: {"data": bytes(4)}),
    "short-success": lambda peer, cmd: peer.c2h(cmd.cid, bytes(4), flags=4 | F_SUCCESS),
    "none": lambda peer, cmd: peer.resp(cmd.cid),
    "r2t": lambda peer, cmd: peer.r2t(cmd.cid, 0, cmd.len),
    "unknown": lambda peer, cmd: b"\x42" + bytes(7),
    "command": lambda peer, cmd: struct.pack("<BBBBI", 4, 0, 72, 0, 72) + bytes(64),
    "noise": lambda peer, cmd: bytes(range(256)) * 16,
    "term": lambda peer, cmd: peer.term(),
    "answered-twice": lambda peer, cmd: 2 * peer.resp(cmd.cid, 2),
}


@pytest.mark.parametrize("kind", WRONG_DATA)
@pytest.mark.parametrize("step", ["identify-1", "log-12"])
def test_wrong_answers_of_admin(good, fake, step, kind):
    refused(good, fake({step: sends(WRONG_DATA[kind])}))


@pytest.mark.parametrize("pdu", [
    {"plen": 0xFFFFFFFF}, {"plen": 8}, {"hlen": 24}, {"type": 0}, {"pfv": 9}, {"cpda": 32},
    {"digests": 3}, {"maxh2c": 0}, {"maxh2c": 7},
], ids=str)
def test_wrong_initialisation(good, fake, pdu):
    refused(good, fake({"ic": sends(lambda peer, _: peer.ic(**pdu))}))


FLOODS = {
    "noise": lambda peer, cmd: bytes([0x5A]) * 4096,
    "zeroes": lambda peer, cmd: bytes(4096),
    "initialisation": lambda peer, cmd: peer.ic(),
    "answers": lambda peer, cmd: peer.resp(cmd.cid if cmd else 0, 2),
    "asking": lambda peer, cmd: peer.r2t(cmd.cid if cmd else 0, 0, 512),
    "data": lambda peer, cmd: peer.c2h(cmd.cid if cmd else 0, bytes(4096), flags=0),
    "empty-data": lambda peer, cmd: peer.c2h(cmd.cid if cmd else 0, b"", flags=0),
    "terms": lambda peer, cmd: peer.term(),
}


@pytest.mark.parametrize("kind", FLOODS)
@pytest.mark.parametrize("step", ["accept", "connect-admin", "identify-0"])
def test_floods(good, fake, step, kind):
    refused(good, fake({step: floods(FLOODS[kind])}))


@pytest.mark.parametrize("step", ["connect-admin", "property-get", "property-set", "identify-1",
                                  "set-feature-7", "identify-0", "log-12"])
def test_refusing(good, fake, step):
    refused(good, fake({step: status(0x4006)}))


PAGES_REFUSED = {
    "IOCCSZ": [patched("identify-1", (1792, "<I", 0))],
    "IORCSZ": [patched("identify-1", (1796, "<I", 0))],
    "ICDOFF": [patched("identify-1", (1800, "<H", 1))],
    "SQES": [patched("identify-1", (512, "<B", 0x77))],
    "SGLs": [patched("identify-1", (536, "<I", 0))],
    "NN 0": [patched("identify-1", (516, "<I", 0))],
    "no end": [patched("identify-1", (768, "256s", b"x" * 256))],
    "got a controller of '?[31m'": [patched("identify-1", (768, "8s", b"\x1b[31m"))],
    "discovery controller": [patched("identify-1", (111, "<B", 2))],
    "blocks of 2^63": [patched("identify-0", (130, "<B", 63))],
    "blocks of 2^0": [patched("identify-0", (130, "<B", 0))],
    "too many": [patched("identify-0", (0, "<Q", 2**64 - 1))],
    "FLBAS": [patched("identify-0", (26, "<B", 15))],
    "metadata": [patched("identify-0", (128, "<H", 8))],
    "no namespace 1": [patched("identify-0", (0, "<Q", 0))],
    "run over their page": [patched("identify-3", *[(at, "<BB", 0x77, 255)
                                                    for at in range(0, 4094, 259)])],
    "identifier of 255 bytes": [patched("identify-3", (0, "<BB", 2, 255))],
    "(MDTS, LBADS)": [patched("identify-1", (77, "<B", 1)),
                      patched("identify-0", (130, "<B", 16))],
    "two different": [patched("identify-3", (0, "<BBxx16s", 2, 16, b"another one....."))],
    "groups": [patched("log-12", (8, "<H", 65535))],
    "runs over its end": [patched("log-12", (20, "<I", 0xFFFFFFFF))],
}


@pytest.mark.parametrize("says", PAGES_REFUSED)
def test_pages_that_are_refused(good, fake, says):
    answer = add(good, fake(dict(PAGES_REFUSED[says])))
    assert answer.startswith("error ") and says in answer.replace("\\", ""), answer
    assert answer.isprintable()


PAGES_TAKEN = {
    "mdts-huge": [patched("identify-1", (77, "<B", 255))],
    "mdts-one": [patched("identify-1", (77, "<B", 1))],
    "ioccsz-huge": [patched("identify-1", (1792, "<I", 0xFFFFFFFF))],
    "ioccsz-least": [patched("identify-1", (1792, "<I", 4))],
    "nn-huge": [patched("identify-1", (516, "<I", 0xFFFFFFFF), (540, "<I", 0xFFFFFFFF))],
    "ana-huge": [patched("identify-1", (344, "<II", 0xFFFFFFFF, 0xFFFFFFFF))],
    "aerl": [patched("identify-1", (259, "<B", 255))],
    "queues-huge": [("set-feature-7", dword(0xFFFFFFFF))],
    "cap-full": [("property-get", lambda peer, cmd: peer.send(
        peer.resp(cmd.cid, 0, *((0xFFFFFFFF, 0xFFFFFFFF) if cmd.cdw[1] == 0 else (1, 0)))))],
    "kas": [patched("identify-1", (320, "<H", 65535))],
    "crdt": [patched("identify-1", (128, "<HHH", 65535, 65535, 65535))],
    "limits": [patched("identify-6", (0, "<BBBBIQ", 255, 255, 255, 255, 0xFFFFFFFF, 2**64 - 1))],
    "nsze-large": [patched("identify-0", (0, "<Q", 2**54 - 1))],
    "lbads-largest": [patched("identify-0", (130, "<B", 16))],
    "noiob": [patched("identify-0", (46, "<H", 65535), (24, "<B", 0x10), (64, "<H", 65535))],
    "events": [("aer", status(0x105))],
}


@pytest.mark.parametrize("kind", PAGES_TAKEN)
def test_pages_that_are_cut_to_size(good, fake, kind):
    """More than we can use is no reason to refuse: it is not used, and I/O works."""
    target = fake(dict(PAGES_TAKEN[kind]))
    nsid = added(good, target)
    bs = 1 << 16 if kind == "lbads-largest" else BLOCK
    with Host(good.port, NQN) as host:
        q = host.queue(1)
        nlb = max(1, (1 << 16) // bs)
        assert q.read(nsid, 0, nlb, bs=bs) == bytes(nlb * bs)
        q.write(nsid, 0, bytes(nlb * bs), bs=bs)
    remove(good, nsid)


@pytest.mark.parametrize("lie, says", [
    (dword(0), "not ready"), (dword(2), "fatal error")])
def test_a_controller_that_is_never_ready(good, fake, lie, says):
    target = fake({"property-get": lambda peer, cmd: lie(peer, cmd) if cmd.cdw[1] == 0x1C
                   else peer.honest(cmd)})
    refused(good, target, says)


@pytest.mark.parametrize("word, says", [(1 | 1 << 16, "authentication"), (1 | 1 << 17,
                                                                          "authentication")])
def test_a_controller_that_wants_authentication(good, fake, word, says):
    refused(good, fake({"connect-admin": dword(word)}), says)


def lose_connections(target):
    for sock in list(target.socks):
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


@pytest.mark.parametrize("step", ["identify-0", "identify-3"])
def test_an_error_of_the_moment_is_no_verdict(good, fake, step):
    """A namespace that cannot be identified after a loss is neither used unchecked nor gone."""
    target = fake({})
    nsid = added(good, target)
    said = len(good.ashlar.said_all())
    left = [2]

    def moody(peer, cmd):
        left[0] -= 1
        if left[0] >= 0:
            peer.send(peer.resp(cmd.cid, 6))  # internal error
        else:
            peer.honest(cmd)

    target.lies = {step: moody}
    lose_connections(target)
    with Host(good.port, NQN) as host:
        assert host.queue(1).read(nsid, 0, 1) == bytes(BLOCK)
    assert left[0] < 0
    assert "no way leads to it" not in good.ashlar.said_all()[said:]
    remove(good, nsid)


# ---- while it works

def all_end_badly(engine, fake, lies, start):
    """A device for each lie, one command to each at once: all fail, in bounded time."""
    targets = {name: fake({}) for name in lies}
    nsids = {name: added(engine, target) for name, target in targets.items()}
    for name, target in targets.items():
        target.lies = lies[name]
    with Host(engine.port, NQN) as host:
        q = host.queue(1)
        q.sock.settimeout(2 * IO_MAX_S)
        began = time.monotonic()
        cids = {name: start(q, nsid) for name, nsid in nsids.items()}
        for name, cid in cids.items():
            with pytest.raises(NvmeError):
                q.wait(cid, name)
        assert time.monotonic() - began < IO_MAX_S
    for nsid in nsids.values():
        remove(engine, nsid)


def start_read(q, nsid):
    return q.submit(q.rw(READ, nsid, 0, 8), expect=8 * BLOCK)


def start_write(q, nsid):
    return q.submit(q.rw(WRITE, nsid, 0, 64), bytes(64 * BLOCK))


WRONG_READS = {**WRONG_DATA, "silence": lambda peer, cmd: b"",
               "no-data": lambda peer, cmd: peer.c2h(cmd.cid, b"")}


def test_wrong_reads(good, fake):
    lies = {name: {"read": sends(lie)} for name, lie in WRONG_READS.items()}
    all_end_badly(good, fake, {**lies, "drip": {"read": drip}}, start_read)


WRONG_WRITES = {
    "silence": lambda peer, cmd: b"",
    "nothing-asked": lambda peer, cmd: peer.r2t(cmd.cid, 0, 0),
    "too-much-asked": lambda peer, cmd: peer.r2t(cmd.cid, 0, cmd.len + 4),
    "all-asked": lambda peer, cmd: peer.r2t(cmd.cid, 0, 0xFFFFFFFF),
    "wrong-offset": lambda peer, cmd: peer.r2t(cmd.cid, 512, 512),
    "wrong-cid": lambda peer, cmd: peer.r2t(cmd.cid ^ 3, 0, 512),
    "asked-twice": lambda peer, cmd: 2 * peer.r2t(cmd.cid, 0, cmd.len),
    "little-success": lambda peer, cmd: peer.resp(cmd.cid),
    "data": lambda peer, cmd: peer.c2h(cmd.cid, bytes(512)),
}


def test_wrong_writes(good, fake):
    all_end_badly(good, fake, {name: {"write": sends(lie)} for name, lie in WRONG_WRITES.items()},
                  start_write)


@pytest.mark.parametrize("step, start", [("read", start_read), ("write", start_write)])
def test_floods_under_io(good, fake, step, start):
    all_end_badly(good, fake, {name: {step: floods(lie)} for name, lie in FLOODS.items()}, start)


def test_lost_writes_that_nobody_ends(good, fake):
    """The target claims to tell when nothing of a lost connection is left, and never does."""
    page, patch = patched("identify-1", (135, "<BQ", 1, 7), (1807, "<B", 4))
    target = fake({page: patch, "cross-reset": lambda peer, cmd: None})
    nsid = added(good, target)
    target.lies["write"] = hang_up
    with Host(good.port, NQN) as host:
        q = host.queue(1)
        q.sock.settimeout(2 * IO_MAX_S)
        began = time.monotonic()
        with pytest.raises(NvmeError):
            q.write(nsid, 0, bytes(BLOCK))
        assert time.monotonic() - began < IO_MAX_S
    assert "cross-reset" in target.seen
    remove(good, nsid)


def test_no_io_queue(good, fake):
    """Admin commands are served, but no I/O queue ever comes: I/O fails after ctrl_loss."""
    lies = (silence, drip, hang_up, reset)
    all_end_badly(good, fake, {lie.__name__: {"connect-io": lie, "read": hang_up} for lie in lies},
                  start_read)


@pytest.mark.parametrize("word", [2 | 3 << 16, 2 | 3 << 8 | 12 << 16, 1 | 2 << 16, 3 << 16, 6,
                                  7 | 255 << 8 | 255 << 16])
def test_events_for_ever(good, fake, word):
    """Each request for an event is answered at once. The device works, and goes when told to."""
    nsid = added(good, fake({"aer": dword(word)}))
    with Host(good.port, NQN) as host:
        q = host.queue(1)
        for _ in range(20):
            q.read(nsid, 0, 8)
    remove(good, nsid)


def test_silence_when_idle(good, fake):
    """A target that died quietly is noticed by keep alive, and is given up in the end."""
    target = fake({"keep-alive": silence})
    nsid = added(good, target)
    target.lies["accept"] = silence
    with Host(good.port, NQN) as host:
        q = host.queue(1)
        q.sock.settimeout(2 * IO_MAX_S)
        start = time.monotonic()
        with pytest.raises(NvmeError):
            while time.monotonic() - start < IO_MAX_S:
                q.read(nsid, 0, 8)
                time.sleep(0.02)  # so that no traffic stands for a keep alive
        assert time.monotonic() - start < IO_MAX_S
    remove(good, nsid)


def test_nothing_has_grown(good, fake):
    """The same hostilities again and again take no more memory than once."""
    def round_():
        for kind in ("zeroes", "data"):
            refused(good, fake({"identify-0": floods(FLOODS[kind])}))
        all_end_badly(good, fake, {"read": {"read": hang_up}, "far": {"read": sends(
            WRONG_DATA["far"])}}, start_read)

    round_()
    before = good.rss()
    for _ in range(2):
        round_()
    assert good.rss() - before < (GROWTH_MAX if SANITIZED else 4 << 20)


# ---- discovery

def discover(engine, target):
    env = dict(engine.ashlar.env, NVME_TIMEOUT_ADMIN="300ms", NVMF_FABRICS_CONNECT_TIMEOUT="300ms")
    engine.ashlar.env, kept = env, engine.ashlar.env
    try:
        return engine.ashlar("discover", f"127.0.0.1:{target.port}", "--output", "json",
                             timeout=ADD_MAX_S)
    finally:
        engine.ashlar.env = kept


def head(generation, count):
    return struct.pack("<QQ", generation, count).ljust(1024, b"\0")


def entry(**over):
    return (struct.pack("<BBBBHHH", 3, 1, 2, 0, 1, 0xFFFF, 32).ljust(32, b"\0") +
            over.get("service", b"4420").ljust(32, b"\0") + bytes(192) +
            over.get("nqn", b"nqn.x:y").ljust(256, b"\0") +
            over.get("addr", b"127.0.0.1").ljust(256, b"\0") + bytes(256))


class Log:
    """A discovery log with these entries; its generation grows with each look if it `moves`."""

    def __init__(self, count, piece=b"", moves=False):
        self.count, self.piece, self.moves, self.looks = count, piece, moves, 0

    def __call__(self, peer, cmd):
        off = cmd.cdw[2] | cmd.cdw[3] << 32
        self.looks += self.moves
        page = head(1 + self.looks, self.count) if off == 0 else b""
        page += self.piece * (cmd.len // 1024 + 1) if self.piece else bytes(cmd.len)
        peer.send(peer.c2h(cmd.cid, page[:cmd.len]) + peer.resp(cmd.cid))


@pytest.mark.parametrize("log, says", [
    (Log(2**64 - 1), "entries, at most"), (Log(4097), "entries, at most"),
    (Log(20, moves=True), "changes faster"), (Log(2**32), "entries, at most"),
    (silence, "log page"), (drip, "log page"), (status(0x4109), "log page"),
    (sends(lambda peer, cmd: peer.c2h(cmd.cid, bytes(cmd.len + 1024))), "log page"),
])
def test_discovery_logs_that_are_refused(engine, fake, log, says):
    done = discover(engine, fake({"log-112": log}, nqn=DISCOVERY))
    assert done.returncode == 1 and says in done.stderr, done


def test_discovery_logs_that_are_read(engine, fake):
    target = fake({"log-112": Log(4096, entry(nqn=b"\x1b[31m" * 40, addr=b"\xff" * 256,
                                              service=b"\x07" * 32))}, nqn=DISCOVERY)
    done = discover(engine, target)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout and "\x07" not in done.stdout
    assert len(json.loads(done.stdout)["entries"]) == 4096
    done = discover(engine, fake({"log-112": Log(0)}, nqn=DISCOVERY))
    assert done.returncode == 0, done.stderr
