# SPDX-License-Identifier: Apache-2.0
"""What more than one path, more than one host and more than one namespace make possible."""

import hashlib

from guest import wait_until
from harness import case, check, check_equal, expect_status
from image import HOST_NQN
from targets import Namespace

MIB = 1 << 20


class Load:
    """Writes that are verified, pass after pass, until they are told to end."""

    def __init__(self, t, block, size_mb=8, iops=800, offset=0):
        self.guest = t.guest
        self.job = t.guest.spawn(f"""cd /tmp; rm -f load.end; n=0
            until [ -e load.end ]; do
                n=$((n + 1))
                fio --name=load --filename={block} --direct=1 --ioengine=libaio --rw=randwrite \\
                    --bs=4k --offset={offset} --size={size_mb}m --rate_iops=,{iops} --iodepth=16 \\
                    --randseed=$n --verify=crc32c --do_verify=1 --verify_fatal=1 || exit 1
            done""")

    def running(self):
        return self.job.running()

    def end(self, timeout_s=90):
        """GuestError unless every block was what had been written."""
        check(self.running(), f"the load ended early: {self.job.output()[-2000:]}")
        self.guest.run("touch /tmp/load.end")
        self.job.wait(timeout_s)


def wait_for_traffic(t, block, controller, requests=50):
    """`requests' more end on this path."""
    done = t.host.path_done(block, controller)
    before = int(t.guest.text(f"echo {done}"))
    t.guest.wait(f"[ {done} -gt {before + requests} ]", f"traffic on {controller.device}")


def check_no_traffic(t, block, controller, other):
    """Nothing ends on this path while the other one works."""
    done = t.host.path_done(block, controller)
    before = t.guest.text(f"echo {done}")
    wait_for_traffic(t, block, other)
    check_equal(t.guest.text(f"echo {done}"), before, f"requests on {controller.device}")


def two_paths(t, namespace, **options):
    """(target with two listeners, its two controllers, the block device over both)"""
    target = t.serve(namespace, ports=2, ana=True)
    paths = [t.host.connect(target, queues=2, listener=n, **options) for n in (0, 1)]
    block = t.host.block(paths[0])
    # The kernel's default takes one path for as long as it can.
    t.guest.run(f"echo round-robin > $(dirname $(grep -l '^{target.nqn}$' "
                "/sys/class/nvme-subsystem/*/subsysnqn))/iopolicy")
    for path in paths:
        t.host.wait_ana(block, path, "optimized")
    return target, paths, block


@case("namespaces-16", needs=["multi-block-size"])
def sixteen_namespaces(t):
    """16 namespaces in one subsystem, of both block sizes, written at once and not mixed up"""
    target = t.serve(*(Namespace(size_mb=8, block_size=512 if n % 2 else 4096)
                       for n in range(16)))
    controller = t.host.connect(target, queues=4)
    blocks = [t.host.block(controller, nsid) for nsid in range(1, 17)]
    check_equal(len(set(blocks)), 16, "different block devices")
    files = " ".join(f"/sys/block/{b[5:]}/uuid /sys/block/{b[5:]}/queue/logical_block_size"
                     for b in blocks)
    check_equal(t.guest.text(f"cat {files}").split(),
                [text for ns in target.namespaces for text in (ns.uuid, str(ns.block_size))],
                "UUIDs and block sizes")
    jobs = " ".join(f"--name=job{n} --filename={block} --randseed={n}"
                    for n, block in enumerate(blocks))
    t.guest.run("cd /tmp && fio --direct=1 --ioengine=libaio --rw=randwrite --bs=4k --size=1m "
                "--iodepth=4 --verify=crc32c --do_verify=1 --verify_fatal=1 --thread "
                f"--output=/tmp/fio.out {jobs}", timeout_s=120)
    t.guest.run("".join(f"printf %08d {n} | dd of={block} bs=4k conv=sync,notrunc oflag=direct "
                        "seek=512 status=none\n" for n, block in enumerate(blocks)))
    for n in range(16):
        mark = b"%08d" % n
        check_equal(target.sha256(n + 1, 512 * 4096, 4096),
                    hashlib.sha256(mark + bytes(4096 - len(mark))).hexdigest(),
                    f"the store of namespace {n + 1}")


@case("fio-trim-4096", needs=["multi-block-size"])
def fio_trim_4096(t):
    """4096-byte blocks: trims and zeroes among verified writes, odd sizes refused"""
    target, _, block = t.serve_and_connect(Namespace(block_size=4096), queues=2)
    t.host.fio(block, "--rw=randtrimwrite --bs=16k --size=16m --iodepth=16 --verify=crc32c "
                      "--do_verify=1 --verify_fatal=1")
    check(t.guest.run(f"dd if={block} of=/dev/null bs=512 count=1 iflag=direct",
                      check=False).status != 0, "512 bytes were read from blocks of 4096")
    written = t.host.write_random(block, 32 * MIB, MIB)
    t.guest.run(f"blkdiscard -z -o {33 * MIB} -l {MIB} {block}")
    check_equal(target.sha256(1, 32 * MIB, MIB), written, "the written MiB")
    check_equal(target.sha256(1, 33 * MIB, MIB), hashlib.sha256(bytes(MIB)).hexdigest(),
                "the zeroed MiB")


# The kernel's own words about commands that a path could not take, and about none being there.
ANA_SAYS = r"nvmet_tcp: failed cmd|no usable path"


@case("ana", needs=["ana"], kernel_may_say=ANA_SAYS)
def ana(t):
    """two paths whose ANA states change under load: the host follows, the data verifies"""
    target, paths, block = two_paths(t, Namespace(size_mb=64))
    kept = t.host.write_random(block, 48 * MIB, MIB)
    load = Load(t, block)
    for one, other, state in ((0, 1, "non-optimized"), (1, 0, "inaccessible"),
                              (0, 1, "inaccessible"), (1, 0, "persistent-loss")):
        wait_for_traffic(t, block, paths[other])
        target.set_ana(one, state)
        t.host.wait_ana(block, paths[one], state)
        check_no_traffic(t, block, paths[one], paths[other])
        target.set_ana(one, "optimized")
        t.host.wait_ana(block, paths[one], "optimized")
        wait_for_traffic(t, block, paths[one])
    load.end()
    check_equal(t.host.sha256(block, 48 * MIB, MIB), kept, "data from before")


@case("ana-change", needs=["ana"], kernel_may_say=ANA_SAYS)
def ana_change(t):
    """no path may be used for a while: I/O waits and none of it fails"""
    target, paths, block = two_paths(t, Namespace(size_mb=32))
    load = Load(t, block)
    wait_for_traffic(t, block, paths[0])
    for n in (0, 1):
        target.set_ana(n, "inaccessible")
        t.host.wait_ana(block, paths[n], "inaccessible")
    check(load.running(), "the load ended while no path could be used")
    target.set_ana(1, "optimized")
    wait_for_traffic(t, block, paths[1])
    load.end()


@case("path-cut", needs=["ana", "process"], kernel_may_say="nvme|no usable path")
def path_cut(t):
    """a path goes silent under load: the other one carries on, and it comes back"""
    target, paths, block = two_paths(t, Namespace(size_mb=64), more="--keep-alive-tmo=2")
    kept = t.host.write_random(block, 48 * MIB, MIB)
    load = Load(t, block)
    for path in paths:
        wait_for_traffic(t, block, path)
    t.guest.cut(1)
    try:
        paths[1].wait_lost()
        wait_for_traffic(t, block, paths[0], 500)
        wait_until(lambda: target.connections_to(1) == 0, "the engine drops the silent host", 15)
    finally:
        t.guest.mend(1)
    paths[1].wait_live()
    wait_for_traffic(t, block, paths[1])
    load.end()
    check_equal(t.host.sha256(block, 48 * MIB, MIB), kept, "data from before")


@case("path-stopped", needs=["ana"], kernel_may_say="nvme|no usable path")
def path_disconnected(t):
    """the host itself gives a path up under load, then takes it again"""
    target, paths, block = two_paths(t, Namespace(size_mb=64))
    load = Load(t, block)
    for turn in (0, 1):
        wait_for_traffic(t, block, paths[turn])
        paths[turn].disconnect()
        wait_for_traffic(t, block, paths[1 - turn], 200)
        paths[turn] = t.host.connect(target, queues=2, listener=turn)
        wait_for_traffic(t, block, paths[turn])
    load.end()


# ---- several hosts

# Reservation types and statuses: NVM Express Base Specification 2.0, figures 99 and 426.
WRITE_EXCLUSIVE, EXCLUSIVE_ACCESS, WRITE_EXCLUSIVE_REGISTRANTS = 1, 2, 3
RESERVATION_CONFLICT = 0x83


class Party:
    """A host that takes part in reservations, with its key."""

    def __init__(self, host, target, key):
        self.host, self.key = host, key
        self.guest = host.guest
        self.controller = host.connect(target, queues=2)
        self.block = host.block(self.controller)

    def register(self, action=0, new_key=None, more=""):
        new_key = self.key if new_key is None else new_key
        self.guest.run(f"nvme resv-register {self.block} --crkey={self.key if action else 0} "
                       f"--nrkey={new_key} --rrega={action} {more}")

    def acquire_command(self, kind, action=0, preempted=0):
        return (f"nvme resv-acquire {self.block} --crkey={self.key} --prkey={preempted} "
                f"--rtype={kind} --racqa={action}")

    def acquire(self, *arguments):
        self.guest.run(self.acquire_command(*arguments))

    def release(self, kind, action=0):
        self.guest.run(f"nvme resv-release {self.block} --crkey={self.key} --rtype={kind} "
                       f"--rrela={action}")

    def report(self):
        """(type, {key: holds})"""
        report = self.host.nvme_json(f"resv-report {self.block} --eds")
        listed = report.get("regctlext") or []
        return report["rtype"], {r["rkey"]: bool(r["rcsts"] & 1) for r in listed}

    def access(self, can_read=True, can_write=True):
        """Check what this host may do now."""
        for verb, may in (("read", can_read), ("write", can_write)):
            command = f"nvme {verb} {self.block} -s 8 -c 7 -z 4096 -d /tmp/block"
            self.guest.run("head -c 4096 /dev/urandom > /tmp/block")
            if may:
                self.guest.run(command)
            else:
                expect_status(self, command, RESERVATION_CONFLICT)


# How kernels call a command that met a reservation.
REFUSED_SAYS = r"reservation conflict|critical|nvme\d|I/O error"


@case("reservations", needs=["reservations"], kernel_may_say=REFUSED_SAYS)
def reservations(t):
    """two hosts, on two kernels, register, reserve, preempt, release; the other one is refused"""
    target = t.serve()
    one, two = Party(t.host, target, 0x11), Party(t.second_guest(), target, 0x22)
    for party in (one, two):
        party.register()
    check_equal(one.report(), (0, {0x11: False, 0x22: False}), "registered keys")
    for kind, reads in ((WRITE_EXCLUSIVE, True), (EXCLUSIVE_ACCESS, False)):
        one.acquire(kind)
        check_equal(two.report(), (kind, {0x11: True, 0x22: False}), "the reservation")
        one.access()
        two.access(can_read=reads, can_write=False)
        expect_status(two, two.acquire_command(kind), RESERVATION_CONFLICT)
        one.release(kind)
        two.access()
    one.acquire(WRITE_EXCLUSIVE_REGISTRANTS)
    two.access()
    two.register(action=1, new_key=0)
    two.access(can_write=False)
    two.register()
    # Preempt: the holder loses its registration with its reservation.
    two.acquire(EXCLUSIVE_ACCESS, 1, one.key)
    check_equal(two.report(), (EXCLUSIVE_ACCESS, {0x22: True}), "after the preemption")
    one.access(can_read=False, can_write=False)
    two.access()
    two.release(EXCLUSIVE_ACCESS, action=1)
    check_equal(one.report(), (0, {}), "after Clear")
    one.access()


@case("reservations-load", needs=["reservations"], kernel_may_say=REFUSED_SAYS)
def reservations_load(t):
    """a preempting host stops another one's load at once, block devices and all"""
    target = t.serve()
    one, two = Party(t.host, target, 0x11), Party(t.second_guest(), target, 0x22)
    one.register()
    one.acquire(WRITE_EXCLUSIVE)
    load = Load(t, one.block)
    wait = t.host.writes_done(one.block)
    t.guest.wait(f"[ {wait} -gt 200 ]", "writes arrive")
    two.register()
    two.acquire(WRITE_EXCLUSIVE, 1, one.key)
    load.job.wait(30, check=False)
    check(not load.running(), "the load goes on after the preemption")
    written = two.host.write_random(two.block, 0, MIB)
    check(t.guest.run(f"dd if=/dev/zero of={one.block} bs=4k count=1 oflag=direct",
                      check=False).status != 0, "a preempted host wrote")
    check_equal(t.host.sha256(one.block, 0, MIB), written, "what the new holder wrote")


@case("reservations-kept", needs=["reservations", "kill"], kernel_may_say=r"nvme|critical")
def reservations_kept(t):
    """a reservation with persistence is there after kill -9 and a restart; one without is not"""
    folder = f"{t.run.folder}/ptpl"
    target = t.serve(Namespace(), Namespace(size_mb=16), options=["--ptpl-dir", folder])
    one, two = Party(t.host, target, 0x11), Party(t.second_guest(), target, 0x22)
    other = t.host.block(one.controller, 2)
    one.register(more="--cptpl=3")
    one.acquire(WRITE_EXCLUSIVE)
    t.guest.run(f"nvme resv-register {other} --nrkey=7 --rrega=0")
    target.kill()
    for party in (one, two):
        party.controller.wait_lost()
    target.run()
    for party in (one, two):
        party.controller.wait_live()
    check_equal(two.report(), (WRITE_EXCLUSIVE, {0x11: True}), "the reservation after the restart")
    two.access(can_write=False)
    one.access()
    check_equal(t.host.nvme_json(f"resv-report {other} --eds")["regctl"], 0,
                "registrations that were not to persist")


@case("hosts-live", needs=["allow-host", "process"], kernel_may_say="nvme")
def hosts_live(t):
    """a host is refused, admitted, and shut out again while another one works"""
    target = t.serve(options=["--allow-host", HOST_NQN])
    first = t.host.connect(target, queues=2)
    block = t.host.block(first)
    load = Load(t, block)
    second = t.second_guest()
    nqn = second.guest.text("cat /etc/nvme/hostnqn")
    check(second.connect(target, check=False) is None, "a host that is not listed connected")
    target.command(f"host-add {nqn}")
    controller = second.connect(target, queues=2, more="--ctrl-loss-tmo=2")
    mirror = second.block(controller)
    written = second.write_random(mirror, 32 * MIB, MIB)
    target.command(f"host-del {nqn}")
    second.guest.wait(f"[ ! -e /sys/class/nvme/{controller.device} ] || "
                      f"[ \"$(cat /sys/class/nvme/{controller.device}/state)\" != live ]",
                      "the host that was shut out has lost its controller")
    check(second.guest.run(f"timeout 2 dd if={mirror} of=/dev/null bs=4k count=1 iflag=direct",
                           check=False).status != 0, "a host that was shut out reads")
    load.end()
    check_equal(t.host.sha256(block, 32 * MIB, MIB), written, "what the guest wrote meanwhile")


@case("disconnect-live", needs=["process"], kernel_may_say="nvme")
def disconnect_live(t):
    """the target ends a host's controllers under load, softly and by force: it comes back"""
    target, controller, block = t.serve_and_connect(queues=2)
    load = Load(t, block)
    for how in (HOST_NQN, HOST_NQN + " force", "ID"):
        done = t.host.writes_done(block)
        before = int(t.guest.text(f"echo {done}"))
        t.guest.wait(f"[ {done} -gt {before + 200} ]", "writes arrive")
        answer = target.command("disconnect " + how.replace("ID", controller.attribute("cntlid")))
        check("controllers=1" in answer, f"disconnect {how} ended one controller: {answer}")
        t.guest.wait(f"[ \"$(cat /sys/class/nvme/{controller.device}/state)\" = live ] && "
                     f"[ {done} -gt {before + 600} ]", "the host is back at work")
    load.end()
