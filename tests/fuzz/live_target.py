#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""live_target - damaged NVMe/TCP sessions against a running target.

    tests/fuzz/live_target.py [--time SECONDS] [--seed N] [--build DIR]

Starts targetd from DIR (build-asan if it is there, else build), then opens session after session:
each is a right conversation (digests on or off; admin queue, I/O queue, writes by capsule and by
R2T, events, aborts) that is damaged somewhere: a bit, a field, a length, a PDU twice, one left
out, two swapped, cut short. Some sessions are damaged in what they say rather than how: any opcode
with any fields. A good host works beside it all the time and verifies its data; at the end no
connection may be left and the process must end cleanly, which under sanitizers means no report.

One TAP point. The seed is printed; the same seed sends the same bytes.
"""

import argparse
import os
import random
import socket
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "integration"))
PAGES = [0, 1, 2, 3, 4, 5, 0x0C, 0x12, 0x13, 0x70]


def blocks(nvmetcp, rng, entry, data):
    """The entry with a descriptor for in-capsule data."""
    return entry[:24] + nvmetcp.sgl(nvmetcp.SGL_OFFSET, len(data)) + entry[40:]


def random_entry(n, rng):
    """A command with a plausible opcode and fields from anywhere."""
    opcode = rng.choice([0, 1, 2, 5, 6, 8, 9, 0x0A, 0x0C, 0x18, 0x7F, 4, 0x0D, rng.randrange(256)])
    kind = rng.choice([n.SGL_TRANSPORT, n.SGL_OFFSET, 0, rng.randrange(256)])
    length = rng.choice([0, 512, 4096, 131072, 1 << 20, 0xFFFFFFFF, rng.randrange(1 << 17)])
    words = [rng.choice([0, 1, 7, 0xFFFFFFFF, rng.randrange(1 << 32), rng.randrange(64)])
             for _ in range(6)]
    return n.sqe(opcode, rng.choice([0, 1, 2, 3, 0xFFFFFFFF]), n.sgl(kind, length),
                 *words, flags=rng.choice([0x40, 0x40, 0x40, 0, 0x41, 0x80]),
                 cid=rng.randrange(1 << 16))


def fused_pdus(n, rng, conn):
    """A compare-and-write in two capsules, their data along or not, or one half of it."""
    out, lba, data = [], rng.randrange(50), bytes(512 * rng.choice([1, 1, 8, 9]))
    for flags, opcode in ((0x41, n.COMPARE), (0x42, n.WRITE)):
        entry = conn.rw(opcode, 1, lba, len(data) // 512)
        entry = entry[:1] + bytes([flags]) + entry[2:]
        if rng.random() < .5 and len(data) <= 4096:
            out.append(conn.capsule(blocks(n, rng, entry, data), data))
        else:
            out.append(conn.capsule(entry[:24] + n.sgl(n.SGL_TRANSPORT, len(data)) + entry[40:]))
            if rng.random() < .3:  # the tag is guessed
                out.append(conn.h2c(0, rng.randrange(8), 0, data))
    return out if rng.random() < .8 else out[:1]


def io_pdus(n, rng, conn):
    """PDUs of an I/O queue."""
    out = []
    for _ in range(rng.randrange(1, 12)):
        kind = rng.randrange(7)
        if kind == 0:
            out.append(conn.capsule(random_entry(n, rng), rng.randbytes(rng.choice([0, 0, 512]))))
        elif kind == 6:
            out += fused_pdus(n, rng, conn)
        elif kind == 1:
            data = rng.randbytes(512 * rng.randrange(1, 9))
            entry = conn.rw(n.WRITE, 1, rng.randrange(1000), len(data) // 512)
            out.append(conn.capsule(blocks(n, rng, entry, data), data))
        elif kind == 2:
            nlb = rng.choice([1, 8, 64, 256])
            entry = conn.rw(n.READ, 1, rng.randrange(1000), nlb)
            out.append(conn.capsule(entry[:24] + n.sgl(n.SGL_TRANSPORT, nlb * 512) + entry[40:]))
        elif kind == 3:
            nlb = rng.choice([8, 64, 256])
            entry = conn.rw(n.WRITE, 1, rng.randrange(1000), nlb)
            out.append(conn.capsule(entry[:24] + n.sgl(n.SGL_TRANSPORT, nlb * 512) + entry[40:]))
            # The tag is guessed: slots are handed out in order.
            out.append(conn.h2c(0, rng.randrange(4), 0, rng.randbytes(nlb * 512)))
        elif kind == 4:
            data = rng.randbytes(16 * rng.randrange(1, 5))
            entry = n.sqe(n.DSM, 1, n.sgl(n.SGL_OFFSET, len(data)), len(data) // 16 - 1, 4)
            out.append(conn.capsule(entry, data))
        else:
            out.append(conn.h2c(rng.randrange(8), rng.randrange(130), rng.randrange(4096),
                                rng.randbytes(rng.randrange(1, 600)), rng.random() < .5))
    return out


def admin_pdus(n, rng, conn):
    """PDUs of an admin queue."""
    out = [conn.capsule(struct.pack("<BBHB35xB3xIQ8x", 0x7F, 0x40, 1, 0, 0, 0x14, 0x460001))]
    for _ in range(rng.randrange(1, 10)):
        kind = rng.randrange(6)
        if kind == 5:
            data = struct.pack("<IBQ", 0, 1, 4) + b"name" + bytes(6) + rng.randbytes(20)
            out.append(conn.capsule(n.sqe(0xC1, 1, n.sgl(n.SGL_OFFSET, len(data))), data))
        elif kind == 0:
            out.append(conn.capsule(n.sqe(6, rng.randrange(3), n.sgl(n.SGL_TRANSPORT, 4096),
                                          rng.randrange(9))))
        elif kind == 1:
            out.append(conn.capsule(n.sqe(2, 0, n.sgl(n.SGL_TRANSPORT, 4096),
                                          rng.choice(PAGES) | 1023 << 16)))
        elif kind == 2:
            out.append(conn.capsule(n.sqe(0x0C)))
        elif kind == 3:
            out.append(conn.capsule(n.sqe(8, cdw10=rng.randrange(1 << 32))))
        else:
            out.append(conn.capsule(random_entry(n, rng), rng.randbytes(rng.choice([0, 64]))))
    return out


def resv_pdus(n, rng, conn):
    """Reservation commands: a registration that goes through, then what often fits."""
    data = struct.pack("<QQ", 0, 1)
    out = [conn.capsule(blocks(n, rng, conn.resv(0x0D, 1, 2, 0, True), data), data)]
    for _ in range(rng.choice([0, 1, 4, 20])):
        opcode = rng.choice([0x0D, 0x0E, 0x11, 0x11, 0x11, 0x15])
        if opcode == 0x0E:
            size = rng.choice([4, 64, 4096, 131072])
            out.append(conn.capsule(n.sqe(opcode, 1, n.sgl(n.SGL_TRANSPORT, size), size // 4 - 1,
                                          rng.choice([0, 1, 1]))))
            continue
        data = struct.pack("<QQ", rng.choice([1, 1, 1, 2]), rng.choice([0, 1, 1, 2]))
        entry = conn.resv(opcode, rng.choice([1, 1, 1, 3]), rng.randrange(4), rng.randrange(8),
                          rng.random() < .1, rng.choice([0, 0, 0, 1, 2, 3]))
        out.append(conn.capsule(blocks(n, rng, entry, data), data))
    return out


def damage(rng, pdus):
    """One accident."""
    pdus = list(pdus)
    at = rng.randrange(len(pdus))
    pdu = bytearray(pdus[at])
    kind = rng.randrange(9)
    if kind == 0:
        pdu[rng.randrange(len(pdu))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        pdu[rng.randrange(min(len(pdu), 80))] = rng.randrange(256)
    elif kind == 2:
        struct.pack_into("<I", pdu, 4, rng.choice([0, 7, 8, 72, len(pdu) + 1, 0x7FFFFFFF,
                                                   0xFFFFFFFF, rng.randrange(1 << 20)]))
    elif kind == 3:
        pdus.insert(at, bytes(pdu))
    elif kind == 4 and len(pdus) > 1:
        del pdus[at]
        return pdus
    elif kind == 5 and len(pdus) > 1:
        pdus[at], pdus[at - 1] = pdus[at - 1], pdus[at]
        return pdus
    elif kind == 6:
        pdu = pdu[:rng.randrange(len(pdu))]
    elif kind == 7:
        pdu += rng.randbytes(rng.randrange(1, 200))
    pdus[at] = bytes(pdu)
    return pdus


def session(n, rng, port, host):
    """One damaged conversation; what the target answers does not matter here."""
    shape = object.__new__(n.Conn)
    shape.hdgst = shape.ddgst = False
    hdgst, ddgst = rng.random() < .3, rng.random() < .3
    pdus = [n.icreq(hdgst, ddgst, rng.choice([0, 0, 7]))]
    shape.hdgst, shape.ddgst = hdgst, ddgst
    if rng.random() < .5:
        pdus.append(shape.capsule(n.connect_sqe(), n.connect_data(n.NQN)))
        pdus += admin_pdus(n, rng, shape)
    else:
        entry = n.connect_sqe(qid=rng.randrange(1, 30), sqsize=rng.choice([1, 7, 31, 127]))
        pdus.append(shape.capsule(entry, n.connect_data(n.NQN, cntlid=host.cntlid,
                                                        hostid=host.hostid)))
        pdus += io_pdus(n, rng, shape)
        if rng.random() < .3:
            pdus[2:2] = resv_pdus(n, rng, shape)
    connected = 2 if rng.random() < .8 else 0  # mostly let the beginning pass
    pdus = pdus[:connected] + damage(rng, pdus[connected:]) if rng.random() < .9 else pdus
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(0.2)
        try:
            # The answers to ICReq and Connect are awaited: it is a right host so far.
            for index, pdu in enumerate(pdus):
                sock.sendall(pdu)
                if index < connected:
                    sock.recv(1 << 16)
            if rng.random() < .7:
                sock.settimeout(0.01)
                while sock.recv(1 << 20):
                    pass
        except OSError:
            pass


def good_host(n, port, stop, trouble):
    """Works beside the others and must see nothing of them."""
    rng = random.Random(1)
    try:
        with n.Host(port, hostnqn=n.HOSTNQN + "9") as host:
            q = host.queue(1)
            while not stop.is_set():
                data = rng.randbytes(512 * rng.choice([1, 8, 40, 256]))
                q.write(2, 77, data)
                if q.read(2, 77, len(data) // 512) != data:
                    raise AssertionError("data of the good host changed")
                host.admin.identify(1)
                time.sleep(0.001)
    except Exception as error:  # whatever it is, it is the finding
        trouble.append(f"the good host: {error!r}")


def main():
    parser = argparse.ArgumentParser(description="damaged NVMe/TCP sessions against a live target")
    parser.add_argument("--time", type=float, default=15, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--build", default=None, metavar="DIR")
    args = parser.parse_args()
    asan = ROOT / "build-asan"
    build = Path(args.build or (asan if (asan / "tests" / "integration" / "targetd").exists()
                                else ROOT / "build"))
    os.environ["ASHLAR_BUILD"] = str(build.resolve())
    os.environ.setdefault("ASHLAR_LOG", "error")
    import nvmetcp as n

    print(f"1..1\n# seed {args.seed}, {build.name}, {args.time:g} s", flush=True)
    rng, count, trouble, stop = random.Random(args.seed), 0, [], threading.Event()
    end = time.monotonic() + args.time
    try:
        with tempfile.TemporaryDirectory() as folder, n.Targetd(
                "--connect-timeout", "1000", "--buffers", "64", "--ptpl-dir", folder) as target:
            port = target.listen()
            target("subsystem", n.NQN)
            target("add", n.NQN, "malloc:///f0?size_mb=16&uuid=" + "1" * 32)
            target("add", n.NQN, "malloc:///f1?size_mb=16")
            thread = threading.Thread(target=good_host, args=(n, port, stop, trouble))
            thread.start()
            try:
                with n.Host(port) as a, n.Host(port, hostid=b"\x22" * 16) as b:
                    while time.monotonic() < end and not trouble:
                        session(n, rng, port, rng.choice([a, b]))
                        count += 1
            finally:
                stop.set()
                thread.join()
            n.eventually(lambda: target.stats()["conns"] == 0, "every connection to go", 30)
            stats = target.stats()
    except Exception as error:
        trouble.append(f"{error!r}")
    if trouble:
        print(f"not ok 1 - live target, {count} sessions\n# " + "\n# ".join(trouble))
        print(f"# again: tests/fuzz/live_target.py --seed {args.seed} --time {args.time:g}")
        return 1
    print(f"ok 1 - live target: {count} sessions, {stats['commands']} commands, "
          f"{stats['conns_terminated']} terminated")
    return 0


if __name__ == "__main__":
    sys.exit(main())
