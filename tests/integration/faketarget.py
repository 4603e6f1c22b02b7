# SPDX-License-Identifier: Apache-2.0
"""faketarget - an NVMe/TCP target in Python that is honest but for what it is told to do wrong.

    fake = Fake({"identify-1": silence})
    ... nvmf://127.0.0.1:{fake.port}/{fake.nqn} ...
    fake.stop()

Each thing that an initiator asks for is a step with a name (Cmd.name): accept, ic, connect-admin,
connect-io, property-get, property-set, identify-CNS, set-feature-FID, log-LID, aer, keep-alive,
read, write. A *lie* for a step is called as lie(peer, cmd) instead of the honest answer; it may
call peer.honest(cmd), and ends the connection with an exception. Each connection is a thread.
"""

import socket
import struct
import threading
import time

from nvmetcp import C2HDATA, C2HTERM, DISCOVERY, F_LAST, H2CDATA, ICRESP, R2T, RESP

NQN = "nqn.2019-05.io.openebs:fake"
BLOCKS, BLOCK = 2048, 512
DRIP_S = 0.03  # between two bytes
ANA_LOG, DISCOVERY_LOG = 0x0C, 0x70


class Cmd:
    """A command capsule."""

    def __init__(self, raw, data):
        self.raw, self.data = raw, data
        self.opcode, self.flags, self.cid, self.nsid = struct.unpack_from("<BBHI", raw)
        self.len = struct.unpack_from("<I", raw, 32)[0]
        self.cdw = struct.unpack_from("<6I", raw, 40)

    def name(self, is_admin):
        if self.opcode == 0x7F:
            return {0: "property-set", 1: "connect-admin" if is_admin else "connect-io",
                    4: "property-get"}[self.raw[4]]
        if not is_admin:
            return {0: "flush", 1: "write", 2: "read"}[self.opcode]
        kind = {2: "log-", 6: "identify-", 9: "set-feature-"}.get(self.opcode)
        if kind:
            return kind + str(self.cdw[0] & 0xFF)
        return {0x0C: "aer", 0x18: "keep-alive", 8: "abort", 0x38: "cross-reset"}[self.opcode]


def identify_ctrl(nqn):
    page = bytearray(4096)
    page[4:24], page[24:64], page[64:72] = b"serial".ljust(20), b"fake".ljust(40), b"1".ljust(8)
    page[76], page[77], page[111] = 0xB, 5, 1
    struct.pack_into("<HI", page, 78, 1, 0x20000)
    struct.pack_into("<I", page, 92, 1 << 8 | 1 << 11)
    page[111] = 2 if nqn == DISCOVERY else 1
    page[259], page[342], page[343] = 3, 10, 0x1F
    struct.pack_into("<H", page, 320, 10)
    struct.pack_into("<II", page, 344, 1, 1)
    page[512], page[513] = 0x66, 0x44
    struct.pack_into("<HI", page, 514, 128, 1)
    struct.pack_into("<I", page, 536, 1)
    page[768:768 + len(nqn)] = nqn.encode()
    struct.pack_into("<II", page, 1792, (64 + 4096) // 16, 1)
    return page


def identify_ns(port, blocks=BLOCKS):
    page = bytearray(4096)
    struct.pack_into("<QQQ", page, 0, blocks, blocks, blocks)
    page[30], page[104:120] = 1, f"fake {port}".ljust(16).encode()
    struct.pack_into("<I", page, 92, 1)
    struct.pack_into("<HBB", page, 128, 0, 9, 0)
    return page


class Peer:
    """One connection, seen from the target."""

    def __init__(self, fake, sock):
        self.fake, self.sock = fake, sock
        self.is_admin = True
        self.is_dripping = self.is_shut_down = False

    # ---- bytes

    def exact(self, size):
        out = bytearray()
        while len(out) < size:
            piece = self.sock.recv(size - len(out))
            if not piece:
                raise EOFError
            out += piece
        return bytes(out)

    def send(self, data):
        if not self.is_dripping:
            self.sock.sendall(data)
            return
        for byte in data:
            self.sock.sendall(bytes([byte]))
            time.sleep(DRIP_S)  # a slow peer is what is shown

    def pdu(self):
        common = self.exact(8)
        kind, _, hlen, pdo, plen = struct.unpack("<BBBBI", common)
        raw = common + self.exact(plen - 8)
        return kind, raw[8:hlen], raw[pdo:] if pdo else b""

    # ---- PDUs

    @staticmethod
    def resp(cid, status=0, dw0=0, dw1=0):
        return struct.pack("<BBBBIIIHHHH", RESP, 0, 24, 0, 24, dw0, dw1, 0, 0, cid, status << 1)

    @staticmethod
    def c2h(cid, data, off=0, flags=F_LAST, length=None, plen=None):
        return struct.pack("<BBBBIHHII4x", C2HDATA, flags, 24, 24,
                           24 + len(data) if plen is None else plen, cid, 0, off,
                           len(data) if length is None else length) + data

    @staticmethod
    def r2t(cid, off, length, ttag=1):
        return struct.pack("<BBBBIHHII4x", R2T, 0, 24, 0, 24, cid, ttag, off, length)

    @staticmethod
    def term(fes=1):
        return struct.pack("<BBBBIHI10x", C2HTERM, 0, 24, 0, 24, fes, 0)

    @staticmethod
    def ic(maxh2c=1 << 17, **over):
        return (struct.pack("<BBBBI", over.get("type", ICRESP), 0, over.get("hlen", 128), 0,
                            over.get("plen", 128)) +
                struct.pack("<HBBI112x", over.get("pfv", 0), over.get("cpda", 0),
                            over.get("digests", 0), maxh2c))

    # ---- honest answers

    def page(self, name, cmd):
        """What Identify or Get Log Page gives; None: no such page."""
        if name == "identify-1":
            return bytes(identify_ctrl(self.fake.nqn))
        if name == "identify-0":
            return bytes(identify_ns(self.fake.port, self.fake.blocks)) if cmd.nsid == 1 else None
        if name == "identify-2":
            return struct.pack("<I", 1).ljust(4096, b"\0")
        if name == "identify-3":
            return bytes(4096)
        if name == f"log-{ANA_LOG}":
            return struct.pack("<QH6xIIQB15x", 1, 1, 1, 0, 1, 1)
        if name == f"log-{DISCOVERY_LOG}":
            return struct.pack("<QQ", 1, 0)
        return bytes(512) if name.startswith("log-") else None

    def answer(self, cmd, page):
        """A page, cut and filled to what was asked for."""
        off = cmd.cdw[2] if cmd.opcode == 2 else 0
        self.send(self.c2h(cmd.cid, page[off:off + cmd.len].ljust(cmd.len, b"\0")) +
                  self.resp(cmd.cid))

    def honest(self, cmd):
        name = cmd.name(self.is_admin)
        if name == "property-get":
            off = cmd.cdw[1]
            csts = 1 | (8 if self.is_shut_down else 0)
            value = {0: 127 | 1 << 16 | 1 << 24 | 1 << 37, 8: 0x20000, 0x1C: csts}.get(off, 0)
            self.send(self.resp(cmd.cid, 0, value & 0xFFFFFFFF, value >> 32))
        elif name == "property-set":
            self.is_shut_down = cmd.cdw[1] == 0x14 and bool(cmd.cdw[2] & 3 << 14)
            self.send(self.resp(cmd.cid))
        elif name.startswith(("identify-", "log-")):
            page = self.page(name, cmd)
            if page is None:
                self.send(self.resp(cmd.cid, 0x4002))
            else:
                self.answer(cmd, page)
        elif name == "read":
            self.send(self.c2h(cmd.cid, bytes(cmd.len)) + self.resp(cmd.cid))
        elif name == "write":
            self.take_write(cmd)
            self.send(self.resp(cmd.cid))
        elif name == "aer":
            return  # there are none
        else:
            dw0 = {"connect-admin": 1, "connect-io": 1, "set-feature-7": 0x00070007}
            self.send(self.resp(cmd.cid, 0, dw0.get(name, 0)))

    def take_write(self, cmd):
        if cmd.data:
            return
        self.send(self.r2t(cmd.cid, 0, cmd.len))
        left = cmd.len
        while left > 0:
            kind, _, data = self.pdu()
            assert kind == H2CDATA
            left -= len(data)

    # ---- the life of a connection

    def step(self, name, cmd, honest):
        lie = self.fake.lies.get(name)
        self.fake.seen.add(name)
        if lie:
            lie(self, cmd)
        else:
            honest()

    def run(self):
        self.step("accept", None, lambda: None)
        self.exact(128)
        self.step("ic", None, lambda: self.send(self.ic()))
        while True:
            _, header, data = self.pdu()
            cmd = Cmd(header, data)
            if cmd.opcode == 0x7F and cmd.raw[4] == 1:
                self.is_admin = struct.unpack_from("<H", cmd.raw, 42)[0] == 0
            self.step(cmd.name(self.is_admin), cmd, lambda c=cmd: self.honest(c))


class Fake:
    """Listens on a port of its own until stop()."""

    def __init__(self, lies, nqn=None, blocks=BLOCKS):
        self.lies = dict(lies)
        self.blocks = blocks
        self.seen = set()  # steps that were reached
        self.socks = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.nqn = nqn or f"{NQN}-{self.port}"  # else two would be paths to one namespace
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socks.append(sock)
            thread = threading.Thread(target=self.serve, args=(sock,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def serve(self, sock):
        try:
            Peer(self, sock).run()
        except (OSError, EOFError, struct.error, KeyError):
            pass  # the initiator has gone, or says what we do not know
        finally:
            sock.close()

    def stop(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for sock in list(self.socks):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self.threads:
            thread.join(10)

    def url(self, more=""):
        return f"nvmf://127.0.0.1:{self.port}/{self.nqn}{more}"


# ---- lies

def silence(peer, _):
    """Takes everything, says nothing more."""
    while True:
        peer.exact(1)


def hang_up(peer, _):
    raise EOFError


def reset(peer, _):
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise EOFError


def drip(peer, cmd):
    """The right answer, a byte at a time."""
    peer.is_dripping = True
    if cmd is None:
        peer.send(peer.ic())
    else:
        peer.honest(cmd)


def status(code):
    return lambda peer, cmd: peer.send(peer.resp(cmd.cid, code))


def dword(value):
    return lambda peer, cmd: peer.send(peer.resp(cmd.cid, 0, value & 0xFFFFFFFF, value >> 32))


def sends(make):
    """Sends what make(peer, cmd) gives, then is silent."""
    def lie(peer, cmd):
        peer.send(make(peer, cmd))
        silence(peer, cmd)
    return lie


def floods(make):
    """Sends that again and again, and reads nothing."""
    def lie(peer, cmd):
        piece = make(peer, cmd)
        piece *= max(1, 65536 // len(piece))
        while True:
            peer.send(piece)
    return lie


def patched(name, *changes):
    """The honest page, with (offset, format, value...) written over it."""
    def lie(peer, cmd):
        page = bytearray((peer.page(name, cmd) or b"").ljust(4096, b"\0"))
        for off, form, *values in changes:
            struct.pack_into(form, page, off, *values)
        peer.answer(cmd, bytes(page))
    return name, lie
