# SPDX-License-Identifier: Apache-2.0
"""Finding, connecting, identifying, and single commands."""

import hashlib
import json
import re
import time
import uuid

from harness import case, check, check_equal, expect_status
from guest import HOST_ADDRESS6, wait_until
from targets import Namespace

DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
MIB = 1 << 20


@case("discover", quick=True)
def discover(t):
    """nvme discover lists the subsystem"""
    target = t.serve()
    log = t.host.nvme_json(f"discover -t tcp -a {target.address} -s {target.port}")
    mine = [r for r in log["records"] if r["subnqn"] == target.nqn]
    check_equal(len(mine), 1, f"records of the subsystem in {log}")
    check_equal(mine[0]["trtype"], "tcp", "trtype")
    check_equal(mine[0]["adrfam"], "ipv4", "adrfam")
    check_equal(mine[0]["subtype"], "nvme subsystem", "subtype")
    check_equal(mine[0]["treq"], "not specified, sq flow control disable supported", "treq")
    check_equal(mine[0]["trsvcid"], str(target.port), "trsvcid")


@case("discover-persistent")
def discover_persistent(t):
    """a persistent discovery controller stays, and keeps itself alive"""
    target = t.serve()
    out = t.guest.text(f"nvme discover -t tcp -a {target.address} -s {target.port} --persistent "
                       "--keep-alive-tmo=2")
    check(target.nqn in out, f"the subsystem is not in: {out}")
    device = t.guest.text(f"grep -l {DISCOVERY_NQN} /sys/class/nvme/nvme*/subsysnqn | "
                          "cut -d/ -f5")
    # Twice the keep-alive timeout: whoever expires it wrongly has lost the controller by then.
    t.guest.run("n=0; while [ $n -lt 4 ]; do [ \"$(cat /sys/class/nvme/%s/state)\" = live ] || "
                "exit 1; sleep 1; n=$((n + 1)); done" % device)


@case("connect-1-queue", quick=True)
def connect_one_queue(t):
    """one I/O queue"""
    _, controller, block = t.serve_and_connect(queues=1)
    check_equal(controller.attribute("queue_count"), "2", "admin and I/O queues")
    check_equal(controller.attribute("state"), "live", "state")
    check_equal(t.host.size(block), 64 * MIB, "size")


@case("connect-4-queues", quick=True)
def connect_four_queues(t):
    """four I/O queues, data written through each"""
    _, controller, block = t.serve_and_connect(queues=4)
    check_equal(controller.attribute("queue_count"), "5", "admin and I/O queues")
    t.host.fio(block, "--rw=write --bs=64k --size=4m --offset_increment=4m --numjobs=4 "
                      "--cpus_allowed=0-3 --cpus_allowed_policy=split --iodepth=4 "
                      "--verify=crc32c --do_verify=1")


@case("identify", quick=True, needs=["identity"])
def identify(t):
    """model, serial, NGUID and UUID rules; identify data a host relies on"""
    ns = Namespace()
    target, controller, block = t.serve_and_connect(ns)
    ctrl = t.host.nvme_json(f"id-ctrl {controller.path}")
    digest = hashlib.sha256(uuid.UUID(ns.uuid).bytes).hexdigest()[:17].upper()
    check_equal(ctrl["mn"].strip(), "Mayastor NVMe controller", "model")
    check_equal(ctrl["sn"].strip(), "DCS" + digest, "serial")
    check_equal(ctrl["subnqn"].rstrip("\0 "), target.nqn, "subsystem NQN")
    check(ctrl["ver"] >= 0x10300, f"version {ctrl['ver']:#x} is older than 1.3")
    check_equal(ctrl["sqes"], 0x66, "SQES")
    check_equal(ctrl["cqes"], 0x44, "CQES")
    check(ctrl["ioccsz"] >= 4 and ctrl["iorcsz"] == 1, "capsule sizes")
    check(ctrl["kas"] > 0, "keep-alive granularity is 0")
    data = t.host.nvme_json(f"id-ns {block}")
    check_equal(data["nsze"], ns.size_mb * MIB // ns.block_size, "NSZE")
    check_equal(data["nguid"], ns.uuid.replace("-", ""), "NGUID")
    described = t.guest.text(f"nvme ns-descs {block}")
    check(ns.uuid in described, f"no UUID {ns.uuid} in: {described}")
    check_equal(t.guest.text(f"cat /sys/block/{block[5:]}/uuid"), ns.uuid, "UUID in sysfs")
    listed = json.dumps(t.host.nvme_json("list"))
    check(ctrl["sn"].strip() in listed and block in listed, f"nvme list says {listed}")
    check_equal(t.guest.text(f"nvme list-ns {controller.path}"), "[   0]:0x1", "active namespaces")


@case("log-pages", quick=True)
def log_pages(t):
    """the log pages and features that nvme-cli and the kernel read"""
    _, controller, _ = t.serve_and_connect()
    smart = t.host.nvme_json(f"smart-log {controller.path}")
    check_equal(smart["critical_warning"], 0, "critical warning")
    for page in ("error-log", "fw-log", "effects-log", "changed-ns-list-log"):
        t.guest.run(f"nvme {page} {controller.path}")
    for offset, name in ((0x00, "CAP"), (0x08, "VS"), (0x14, "CC"), (0x1c, "CSTS")):
        out = t.guest.text(f"nvme get-property {controller.path} --offset={offset}")
        check("value" in out, f"property {name}: {out}")
    for feature, name in ((0x07, "queues"), (0x0b, "asynchronous events"), (0x0f, "keep-alive")):
        out = t.guest.text(f"nvme get-feature {controller.path} -f {feature}")
        check("urrent value" in out, f"feature {name}: {out}")


@case("digests", quick=True)
def digests(t):
    """data over connections without, with header, data and both digests"""
    target = t.serve()
    for header, data in ((False, False), (True, False), (False, True), (True, True)):
        controller = t.host.connect(target, queues=2, header_digest=header, data_digest=data)
        block = t.host.block(controller)
        written = t.host.write_random(block, 0, 2 * MIB)
        check_equal(t.host.sha256(block, 0, 2 * MIB), written,
                    f"what was read back with header={header} data={data}")
        check_equal(target.sha256(1, 0, 2 * MIB), written, "the backing file")
        # Small writes travel in the capsule, with its own digest rules.
        small = t.host.write_random(block, 8 * MIB, 4096)
        check_equal(t.host.sha256(block, 8 * MIB, 4096), small, "4 KiB in a capsule")
        controller.disconnect()


@case("block-sizes", quick=True, needs=["multi-block-size"])
def block_sizes(t):
    """namespaces with 512 and 4096 byte blocks in one subsystem"""
    target = t.serve(Namespace(size_mb=32, block_size=512),
                     Namespace(size_mb=48, block_size=4096, scheme="aio"))
    controller = t.host.connect(target)
    for nsid, ns in enumerate(target.namespaces, 1):
        block = t.host.block(controller, nsid)
        check_equal(t.guest.text(f"blockdev --getss {block}"), str(ns.block_size), "block size")
        check_equal(t.host.size(block), ns.size_mb * MIB, "size")
        written = t.host.write_random(block, 4096, 2 * MIB)
        check_equal(t.host.sha256(block, 4096, 2 * MIB), written, f"data of namespace {nsid}")
        check_equal(target.sha256(nsid, 4096, 2 * MIB), written, f"file of namespace {nsid}")


@case("malloc", needs=["malloc"])
def malloc_device(t):
    """a malloc device, written, trimmed and read"""
    target = t.new_target()
    target.start([Namespace(size_mb=32, scheme="malloc"),
                  Namespace(size_mb=32, scheme="malloc", block_size=4096)])
    controller = t.host.connect(target)
    for nsid in (1, 2):
        block = t.host.block(controller, nsid)
        written = t.host.write_random(block, 0, 2 * MIB)
        check_equal(t.host.sha256(block, 0, 2 * MIB), written, "data")
        t.guest.run(f"blkdiscard -o 0 -l {MIB} {block}")
        check_equal(t.host.sha256(block, 0, MIB), hashlib.sha256(bytes(MIB)).hexdigest(),
                    "discarded range")


@case("subsystems")
def several_subsystems(t):
    """two subsystems connected at once do not mix"""
    targets = [t.serve(), t.serve()]
    controllers = [t.host.connect(target) for target in targets]
    blocks = [t.host.block(c) for c in controllers]
    written = [t.host.write_random(b, 0, MIB) for b in blocks]
    check(written[0] != written[1], "the random source repeats itself")
    for target, block, digest in zip(targets, blocks, written):
        check_equal(t.host.sha256(block, 0, MIB), digest, f"data of {target.nqn}")
        check_equal(target.sha256(1, 0, MIB), digest, f"file of {target.nqn}")


@case("controllers")
def several_controllers(t):
    """two controllers of one host on one subsystem are two paths to the same data"""
    target = t.serve()
    first = t.host.connect(target, queues=2)
    block = t.host.block(first)
    # nvme-cli 2.3 refuses a duplicate by itself, whatever it is told; the kernel's own interface
    # does not.
    second = t.host.connect_raw(target, "nr_io_queues=2,duplicate_connect")
    check(first.attribute("cntlid") != second.attribute("cntlid"), "controller identifiers repeat")
    second.wait_live()
    written = t.host.write_random(block, 0, 2 * MIB)
    first.disconnect()
    check_equal(t.host.sha256(block, 0, 2 * MIB), written, "data over the other path")


@case("compare", quick=True, needs=["compare"])
def compare(t):
    """nvme compare: equal, and different"""
    _, _, block = t.serve_and_connect()
    t.guest.run(f"""set -e
        head -c 4096 /dev/urandom > /tmp/a; head -c 4096 /dev/urandom > /tmp/b
        nvme write {block} -s 16 -c 7 -z 4096 -d /tmp/a
        nvme compare {block} -s 16 -c 7 -z 4096 -d /tmp/a""")
    # Compare Failure: status code type 2h (media and data integrity), status code 85h.
    expect_status(t, f"nvme compare {block} -s 16 -c 7 -z 4096 -d /tmp/b", 0x285)


@case("flush-fua", quick=True)
def flush_fua(t):
    """flush, and writes with force unit access"""
    target, _, block = t.serve_and_connect()
    t.guest.run(f"""set -e
        nvme flush {block} -n 1
        head -c 8192 /dev/urandom > /tmp/a
        nvme write {block} -s 0 -c 15 -z 8192 -d /tmp/a --force-unit-access
        dd if=/tmp/a of={block} bs=4k seek=1M oflag=direct,dsync,seek_bytes conv=notrunc
        nvme read {block} -s 0 -c 15 -z 8192 -d /tmp/c --force-unit-access > /dev/null
        cmp /tmp/a /tmp/c""")
    check_equal(t.host.sha256(block, MIB, 8192), t.host.sha256(block, 0, 8192), "FUA write")
    check_equal(t.guest.text(f"cat /sys/block/{block[5:]}/queue/write_cache"), "write back",
                "a file has a volatile cache, and the host must know")
    check("fua" not in target.can
          or t.guest.text(f"cat /sys/block/{block[5:]}/queue/fua") == "1", "no FUA")


@case("errors", quick=True, needs=["statuses"], kernel_may_say="nvme|I/O error")
def errors(t):
    """commands that must fail do, with the right status, and the controller lives on"""
    _, controller, block = t.serve_and_connect()
    blocks = 64 * MIB // 512

    passthru = f"nvme io-passthru {block} -n 1"
    read = f"{passthru} -r -l 512 -o 0x02 --cdw12=0"
    expect_status(t, f"{read} --cdw10={blocks}", 0x80)
    expect_status(t, f"{read} --cdw10=0 --cdw11=0xffffffff", 0x80)
    expect_status(t, f"{passthru} -o 0x7d", 0x01)
    expect_status(t, f"nvme admin-passthru {controller.path} -o 0xf1", 0x01)
    expect_status(t, f"nvme id-ns {controller.path} -n 0x7654321", 0x0b)
    # One that is possible but not in use has all zeroes (NVMe Base 2.0, 5.17.2.1).
    unused = t.host.nvme_json(f"id-ns {controller.path} -n 77")
    check_equal(unused["nsze"], 0, "NSZE of an unused namespace")
    expect_status(t, f"nvme get-log {controller.path} --log-id=0xee --log-len=512", 0x109)
    check_equal(controller.attribute("state"), "live", "state after the errors")
    t.guest.run(f"dd if={block} of=/dev/null bs=4k count=1 iflag=direct")


@case("connect-often", needs=["process"])
def connect_often(t):
    """connecting and disconnecting leaves nothing behind in the engine"""
    target = t.serve()
    sizes = []
    for turn in range(10):
        controller = t.host.connect(target, queues=4)
        t.host.block(controller)
        wait_until(lambda: target.connections() == 5, "five connections")
        controller.disconnect()
        wait_until(lambda: target.connections() == 0, "the connections are gone")
        if turn in (1, 9):
            sizes.append((target.open_files(), target.resident_bytes()))
    check_equal(sizes[1][0], sizes[0][0], "open files after 10 connects, and after 2")
    grown = sizes[1][1] - sizes[0][1]
    # AddressSanitizer keeps what was freed; it finds leaks itself, when the engine ends.
    check(grown < 2 * MIB or target.is_sanitized(),
          f"8 connects made the engine {grown} bytes larger")
    t.note(f"resident {sizes[1][1] >> 20} MiB")


@case("idle", needs=["process"])
def idle(t):
    """an engine whose host is connected and idle uses next to nothing for a minute"""
    target, controller, _ = t.serve_and_connect(queues=4)
    window_s = 60
    used, begin = target.cpu_s(), time.monotonic()
    # The window is the point here: nothing else ends it.
    t.guest.run(f"sleep {window_s}", timeout_s=window_s + 60)
    share = (target.cpu_s() - used) / (time.monotonic() - begin)
    resident = target.resident_bytes()
    check_equal(controller.attribute("state"), "live", "state after the idle minute")
    t.note(f"{share:.2%} of a core, {resident >> 20} MiB resident")
    check(share < 0.003, f"an idle connection costs {share:.2%} of a core, at most 0.3 %")
    check(resident < 48 * MIB, f"{resident >> 20} MiB are resident, at most 48")


@case("abort", quick=True)
def abort(t):
    """Abort of a command that is not there says so"""
    _, controller, _ = t.serve_and_connect()
    out = t.guest.text(f"nvme admin-passthru {controller.path} -o 0x08 --cdw10=0x12340001")
    m = re.search(r"result: ?(0x)?0*([0-9a-f]+)", out)
    check(m and int(m[2], 16) & 1, f"bit 0 of the result should say 'not aborted': {out}")


@case("refused", quick=True, kernel_may_say="nvme")
def refused_connects(t):
    """connects that must be refused are, at once"""
    target = t.serve()
    good = target.nqn
    target.nqn = good + "-nobody"
    wrong = t.guest.run("true")
    begin = t.guest.text("cut -d. -f1 /proc/uptime")
    check(t.host.connect(target, check=False) is None, "connected to an unknown NQN")
    end = t.guest.text("cut -d. -f1 /proc/uptime")
    target.nqn = good
    check(wrong.status == 0 and int(end) - int(begin) < 15, "the refusal took the admin timeout")
    controller = t.host.connect(target)
    check_equal(controller.attribute("state"), "live", "a good connect after a refused one")


@case("allow-host", needs=["allow-host"], kernel_may_say="nvme")
def allow_host(t):
    """only a host that is on the list may connect"""
    target = t.serve(options=["--allow-host", "nqn.2019-05.io.openebs:somebody"])
    check(t.host.connect(target, check=False) is None, "a host that is not listed connected")
    controller = t.host.connect(target, more="--hostnqn=nqn.2019-05.io.openebs:somebody "
                                             "--hostid=1b4e28ba-2fa1-41d2-883f-0016d3cca427")
    check_equal(controller.attribute("state"), "live", "the listed host's state")


@case("ipv6", needs=["ipv6"])
def ipv6(t):
    """discover, connect and read over IPv6"""
    target = t.serve(listen="::1")
    log = t.host.nvme_json(f"discover -t tcp -a {HOST_ADDRESS6} -s {target.port}")
    mine = [r for r in log["records"] if r["subnqn"] == target.nqn]
    check(mine and mine[0]["adrfam"] == "ipv6", f"discovery says {log}")
    controller = t.host.connect(target, address=HOST_ADDRESS6)
    block = t.host.block(controller)
    written = t.host.write_random(block, 0, MIB)
    check_equal(t.host.sha256(block, 0, MIB), written, "data over IPv6")


@case("keep-alive", needs=["host-files"], kernel_may_say="nvme")
def keep_alive(t):
    """a host that falls silent is dropped, and comes back when it can"""
    target = t.serve()
    controller = t.host.connect(target, queues=2, more="--keep-alive-tmo=2")
    block = t.host.block(controller)
    written = t.host.write_random(block, 0, MIB)
    check_equal(target.connections(), 3, "connections")
    t.guest.run("ip link set eth0 down")
    try:
        wait_until(lambda: target.connections() == 0, "the engine drops the silent host", 15)
        target.check()
    finally:
        t.guest.run("ip link set eth0 up; ip route add default via 10.0.2.2 2>/dev/null; true")
    controller.wait_lost()
    controller.wait_live()
    check_equal(t.host.sha256(block, 0, MIB), written, "data after the return")
