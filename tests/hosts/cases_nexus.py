# SPDX-License-Identifier: Apache-2.0
"""A nexus as a Linux host sees it: when replicas fail, when it fails itself, over two paths."""

import hashlib
import itertools
import json
import re
import time
from random import Random

from cables import Cable, Place, why_not
from cases_paths import Load, wait_for_traffic
from guest import HOST_ADDRESS, wait_until
from harness import Skip, case, check, check_equal
from mirror import MIB, REBUILD_TIMEOUT_S, Log, Mirror, Site

# A host whose only path is gone for a while.
NEXUS_SAYS = "nvme"


def connect(t, mirror, nexus=None, **options):
    controller = t.host.connect(nexus or mirror.nexus, queues=2, **options)
    return controller, t.host.block(controller)


@case("nexus-zeroes", needs=["engine"])
def nexus_zeroes(t):
    """writes, zeroes and discards of a host are on every replica"""
    mirror = Mirror(t, [Site()] * 3)
    mirror.start()
    _, block = connect(t, mirror)
    written = t.host.write_random(block, 0, 4 * MIB)
    check_equal(mirror.digests(0, 4 * MIB), [written] * 3, "what was written")
    t.guest.run(f"blkdiscard -z -o {MIB} -l {MIB} {block} && "
                f"blkdiscard -o {2 * MIB} -l {MIB} {block}")
    zeroes = hashlib.sha256(bytes(MIB)).hexdigest()
    for offset, what in ((1, "zeroes"), (2, "discarded blocks")):
        check_equal(mirror.digests(offset * MIB, MIB), [zeroes] * 3, what)
        check_equal(t.host.sha256(block, offset * MIB, MIB), zeroes, what + " as read")
    mirror.check_equal()


@case("nexus-frozen", needs=["engine"], kernel_may_say=NEXUS_SAYS)
def nexus_frozen(t):
    """no replica is left: I/O waits, none fails, until the nexus is made again; it verifies"""
    mirror = Mirror(t, [Site()] * 2)
    mirror.start()
    controller, block = connect(t, mirror, more="--ctrl-loss-tmo=600")
    load = Load(t, block, size_mb=4)
    wait_for_traffic(t, block, controller)
    for replica in mirror.replicas:
        replica.kill()
    mirror.wait_status("Faulted")
    check(mirror.state()["frozen"], "a nexus without a healthy child is frozen")
    done = t.host.path_done(block, controller)
    t.guest.run(f"a={done}; usleep 3000000; b={done}; [ $a = $b ] || {{ echo $a $b; exit 1; }}")
    check(load.running(), "the load ended while the nexus was frozen")
    mirror.nexus.stop()
    for replica in mirror.replicas:
        replica.run()
    mirror.nexus.run()
    controller.wait_live(60)
    mirror.wait_status("Online")
    wait_for_traffic(t, block, controller, 200)
    load.end()
    complaints = t.guest.text("dmesg | grep -iE 'I/O error|critical' || true")
    check_equal(complaints, "", "errors that reached the host's block layer")
    mirror.check_equal()


@case("nexus-retry-delay", needs=["engine"], kernel_may_say=NEXUS_SAYS + "|I/O error|critical")
def nexus_retry_delay(t):
    """an error that passes: without a retry delay the host gives up, with 2 s it survives"""
    for crdt, survives in ((0, False), (20, True)):
        mirror = Mirror(t, [Site()])
        nexus = mirror.start("--crdt", str(crdt))
        controller, block = connect(t, mirror)
        name = mirror.state()["name"]
        fault = f"inject://{name}?op=write"
        write = t.guest.spawn("usleep 300000; " + "dd if=/dev/urandom bs=4k count=1 oflag=direct "
                              f"of={block}")
        nexus.command(f"inject {fault}")
        # Without a delay all repetitions of the write meet the fault, with one only the first try.
        wait_until(lambda: namespace_errors(nexus) > 0, "the write meets the fault")
        if not survives:
            wait_until(lambda: not write.running(), "the host gives up")
        nexus.command(f"uninject {fault}")
        check_equal(write.wait(30, check=False).status == 0, survives,
                    f"the write survives with delay {crdt}")
        controller.disconnect()
        nexus.stop()


@case("nexus-no-space", needs=["engine"], kernel_may_say=NEXUS_SAYS + "|critical|I/O error")
def nexus_no_space(t):
    """a full thin replica leaves the mirror; the host is told when the last is, and recovers"""
    devices = [f"malloc:///thin{n}?size_mb=72&capacity_mb={capacity}"
               for n, capacity in enumerate((24, 40))]
    mirror = Mirror(t, [Site()] * 2, devices=devices)
    mirror.start()
    _, block = connect(t, mirror)
    t.host.write_random(block, 0, 8 * MIB)
    check_equal(mirror.state()["status"], "Online", "with room on both")
    written = t.host.write_random(block, 8 * MIB, 20 * MIB)
    mirror.wait_child(0, "Degraded")
    check_equal((mirror.child(0)["reason"], mirror.state()["status"]), ("NoSpace", "Degraded"),
                "the full replica and its nexus")
    said = t.guest.run(f"dd if=/dev/urandom of={block} bs=1M seek=32 count=24 oflag=direct",
                       check=False)
    check(said.status != 0 and "No space left" in said.out,
          f"the host learns that there is no space: {said.out}")
    check_equal(mirror.state()["frozen"], False, "the nexus without space is frozen")
    check_equal(t.host.sha256(block, 8 * MIB, 20 * MIB), written, "what was written before")
    t.guest.run(f"blkdiscard -o 0 -l {8 * MIB} {block}; blkdiscard -o {32 * MIB} {block}")
    t.guest.run(f"dd if=/dev/urandom of={block} bs=1M seek=40 count=1 oflag=direct")
    mirror.online(0)
    mirror.wait_status("Online")
    check_equal(t.host.sha256(block, 8 * MIB, 20 * MIB), written, "what was written, in the end")


@case("nexus-two-paths", needs=["engine"], kernel_may_say=NEXUS_SAYS + "|no usable path")
def nexus_two_paths(t):
    """two nexuses of one volume, with controller ids of their own, are two paths of one host"""
    mirror = Mirror(t, [Site()] * 2)
    one = mirror.start("--ana", "--cntlid-range", "1-1000")
    two = mirror.start("--ana", "--ana-state", "non-optimized", "--cntlid-range", "1001-2000",
                       store=mirror.store + "-two", nqn=one.nqn)
    first, block = connect(t, mirror, one)
    second, same = connect(t, mirror, two)
    check_equal(same, block, "the block device over both paths")
    check_equal([int(c.attribute("cntlid")) > 1000 for c in (first, second)], [False, True],
                "controller ids in the ranges of their nexuses")
    t.host.wait_ana(block, first, "optimized")
    t.host.wait_ana(block, second, "non-optimized")
    load = Load(t, block)
    wait_for_traffic(t, block, first)
    one.set_ana(0, "inaccessible")
    t.host.wait_ana(block, first, "inaccessible")
    two.set_ana(0, "optimized")
    t.host.wait_ana(block, second, "optimized")
    wait_for_traffic(t, block, second)
    load.end()
    for nexus in (one, two):
        check_equal(mirror.state(nexus)["status"], "Online", "state of a nexus")
    mirror.check_equal()


def namespace_errors(target):
    """How many requests of the first namespace ended badly."""
    stats = json.loads(target.command("stats").split(" ", 1)[1])
    return sum(op["errors"] for op in stats["namespaces"][0].values() if isinstance(op, dict))


# ---- a network whose cables are pulled

# What must never reach the host's file system, whatever it says of its connection.
HURT = "EXT4-fs (error|warning)|I/O error|critical|Aborting journal|Remounting filesystem"
REPLICAS = 3
NEXUS, REPLICA = 0, 1  # ends of a cable
VOLUME_MB = 192


class Network:
    """A nexus with a Linux guest at one place, three replicas at places of their own."""

    def __init__(self, t):
        self.t = t
        self.home = Place("nexus")
        self.places = [Place(f"replica{n}") for n in range(REPLICAS)]
        self.cables = [Cable(n + 1, self.home, place) for n, place in enumerate(self.places)]
        self.home.tap("guest0")
        self.mirror = Mirror(t, [Site(place, cable.addresses[REPLICA])
                                 for place, cable in zip(self.places, self.cables)],
                             nexus=Site(self.home, HOST_ADDRESS), size_mb=VOLUME_MB)
        self.mirror.start()
        self.host = t.guest_at(self.home, "guest0")

    def close(self):
        for place in (self.home, *self.places):
            place.close()

    def peer(self, n):
        """How logs call the connection to a replica."""
        return re.escape(f"{self.cables[n].addresses[REPLICA]}:{self.mirror.replicas[n].port}")


class Ledger:
    """A file system in the guest, and what was acknowledged there. fio writes and verifies one file
    of it; beside that small files are made, made durable, noted in the guest's memory, and compared
    with the note later, at the latest after the file system was mounted anew."""

    KEPT = 64

    def __init__(self, host, block):
        self.guest, self.block = host.guest, block
        self.guest.run(f"mkfs.ext4 -q {block} && mkdir -p /mnt && mount {block} /mnt && "
                       "mkdir /mnt/ledger && rm -f /tmp/load.* && : > /tmp/ledger", timeout_s=120)
        self.kept = self.guest.text("head -c 4194304 /dev/urandom > /tmp/kept; "
                                    "dd if=/tmp/kept of=/mnt/kept bs=64k conv=fsync status=none; "
                                    "sha256sum < /tmp/kept")
        self.fio = self.guest.spawn("""cd /tmp; n=0
            until [ -e load.end ]; do
                n=$((n + 1))
                fio --name=load --filename=/mnt/load --direct=1 --ioengine=libaio --rw=randwrite \\
                    --bs=4k --size=16m --io_size=3m --rate_iops=,300 --iodepth=16 --randseed=$n \\
                    --verify=crc32c --do_verify=1 --verify_fatal=1 || exit 1
                while [ -e load.pause ]; do touch fio.paused; usleep 20000; done
                rm -f fio.paused
            done""")
        self.files = self.guest.spawn(f"""cd /tmp; n=0; set -o pipefail
            check() {{
                sum=$(dd if=/mnt/ledger/$1 bs=64k iflag=direct status=none | sha256sum)
                [ "$1 $sum" = "$(grep "^$1 " ledger)" ] || {{ echo "file $1: $sum"; exit 1; }}
            }}
            until [ -e load.end ]; do
                n=$((n + 1))
                head -c $((RANDOM % 30000 + 1)) /dev/urandom > entry
                dd if=entry of=/mnt/ledger/$n bs=64k conv=fsync status=none || exit 1
                echo "$n $(sha256sum < entry)" >> ledger
                check $((n > {self.KEPT} ? n - RANDOM % {self.KEPT} : RANDOM % n + 1)) || exit 1
                [ $n -le {self.KEPT} ] || rm /mnt/ledger/$((n - {self.KEPT}))
                while [ -e load.pause ]; do touch files.paused; usleep 20000; done
                rm -f files.paused
                usleep 50000
            done""")

    def count(self):
        return int(self.guest.text("wc -l < /tmp/ledger"))

    def wait_more(self, files=3, timeout_s=60):
        before = self.count()
        self.guest.wait(f"[ $(wc -l < /tmp/ledger) -ge {before + files} ]",
                        f"{files} more files are durable", timeout_s)

    def pause(self):
        """Nothing is written any more."""
        self.guest.run("touch /tmp/load.pause")
        self.guest.wait("[ -e /tmp/fio.paused -a -e /tmp/files.paused ]", "the load pauses", 60)
        self.guest.run("sync")

    def go_on(self):
        self.guest.run("rm /tmp/load.pause")

    def check_running(self):
        for job in (self.fio, self.files):
            check(job.running(), f"the load ended early: {job.output()[-2000:]}")
        check_equal(self.guest.text(f"dmesg | grep -E '{HURT}' || true"), "", "the kernel's words")

    def end(self):
        """Everything that was acknowledged is there, after the file system was mounted anew."""
        self.check_running()
        self.guest.run("touch /tmp/load.end")
        for job in (self.fio, self.files):
            job.wait(90)
        self.guest.run(f"umount /mnt && e2fsck -fn {self.block} && mount {self.block} /mnt",
                       timeout_s=120)
        self.guest.run(f"""cd /tmp; set -e
            [ "$(sha256sum < /mnt/kept)" = "{self.kept}" ]
            tail -n {self.KEPT} ledger | while read -r n sum; do
                [ "$(sha256sum < /mnt/ledger/$n)" = "$sum" ] || {{ echo "$n is lost"; exit 1; }}
            done
            umount /mnt""", timeout_s=120)
        return self.count()


class Faults:
    """What is done to a network, and how the nexus's log must account for it."""

    def __init__(self, network, ledger, random):
        self.network, self.mirror, self.ledger = network, network.mirror, ledger
        self.random = random
        self.count = {}
        self.lost = 0  # connections, by us
        self.moved = []  # bytes, by rebuilds

    def note(self, kind):
        self.count[kind] = self.count.get(kind, 0) + 1

    # ---- what must be in the log

    def wait_fallen(self, log, n):
        """The log names the child, why its connection was lost, and what that meant."""
        child = re.escape(self.mirror.children[n])
        peer = self.network.peer(n)
        log.wait(rf"nexus \S+ child {child} is \w+ \((AdminFailed|IoFailure|TimedOut)\)",
                 f"the nexus retires child {n}", 40)
        log.wait(rf"{peer}\S*: (connection lost|no answer to keep alive)", f"why child {n} fell")
        log.wait(rf"nexus \S+ child {child} is recorded as stale", f"child {n} is recorded")
        self.lost += 1

    def heal(self, log, victims):
        """Bring replicas back in sync; the log tells of each rebuild."""
        for n in victims:
            self.mirror.wait_child(n, "Faulted")
            self.mirror.online(n)
        for n in victims:
            child = re.escape(self.mirror.children[n])
            log.wait(rf"rebuild of child {child} starts, partial", f"rebuild of child {n}")
            log.wait(rf"rebuild of child {child} completed", f"child {n} is rebuilt",
                     REBUILD_TIMEOUT_S)
            last = self.mirror.last_rebuild(n)
            check(last["partial"], f"a rebuild was not partial: {last}")
            self.moved.append(last["bytes_transferred"] + last["bytes_cleared"])
        self.mirror.wait_status("Online")

    # ---- kinds of faults

    def cut(self, end):
        n = self.random.randrange(REPLICAS)
        log = Log(self.mirror.nexus)
        self.network.cables[n].cut(end)
        self.wait_fallen(log, n)
        self.ledger.wait_more()
        self.network.cables[n].mend()
        self.heal(log, [n])

    def cut_there(self):
        """A cable at the replica's end: the nexus hears nothing."""
        self.cut(REPLICA)

    def cut_here(self):
        """A cable at the nexus' end: it has no route any more."""
        self.cut(NEXUS)

    def kill(self):
        """A replica's process."""
        n = self.random.randrange(REPLICAS)
        log = Log(self.mirror.nexus)
        self.mirror.replicas[n].kill()
        self.wait_fallen(log, n)
        self.ledger.wait_more()
        self.mirror.replicas[n].run()
        self.heal(log, [n])

    def two(self):
        """Two of three at once: one killed, one cut off."""
        a, b = self.random.sample(range(REPLICAS), 2)
        log = Log(self.mirror.nexus)
        self.mirror.replicas[a].kill()
        self.network.cables[b].cut(REPLICA)
        for n in (a, b):
            self.wait_fallen(log, n)
        self.ledger.wait_more()
        self.network.cables[b].mend()
        self.mirror.replicas[a].run()
        self.heal(log, [a, b])

    def kill_in_rebuild(self):
        """A replica that is being rebuilt is lost once more: then it needs all of it."""
        n = self.random.randrange(REPLICAS)
        log = Log(self.mirror.nexus)
        self.mirror.replicas[n].kill()
        self.wait_fallen(log, n)
        self.ledger.wait_more(6)
        self.mirror.replicas[n].run()
        self.mirror.wait_child(n, "Faulted")
        again = Log(self.mirror.nexus)
        self.mirror.online(n)
        self.mirror.replicas[n].kill()
        again.wait(rf"{self.network.peer(n)}\S*: connection lost", f"why child {n} fell again")
        again.wait(rf"nexus \S+ child {re.escape(self.mirror.children[n])} is Faulted \(",
                   f"child {n} is retired again")
        self.lost += 1
        self.mirror.replicas[n].run()
        self.mirror.online(n)
        again.wait(rf"rebuild of child {re.escape(self.mirror.children[n])} completed",
                   f"child {n} is rebuilt in the end", REBUILD_TIMEOUT_S)
        self.mirror.wait_status("Online")

    def exact(self):
        """Without load a rebuild moves what was missed, and nothing else."""
        n = self.random.randrange(REPLICAS)
        log = Log(self.mirror.nexus)
        self.mirror.replicas[n].kill()
        self.wait_fallen(log, n)
        self.ledger.wait_more()
        self.ledger.pause()
        self.mirror.replicas[n].run()
        self.mirror.wait_child(n, "Faulted")
        missed = self.mirror.child(n)["missed_segments"]
        self.heal(log, [n])
        segment = self.mirror.state()["segment_size"]
        check(0 < self.moved[-1] <= missed * segment,  # holes in them stay holes
              f"{self.moved[-1]} bytes were moved for {missed} missed segments of {segment}")
        self.ledger.go_on()

    def kill_nexus(self, with_replica=False):
        """The nexus' own process, under load; made again from its record and its notes."""
        victim = self.random.randrange(REPLICAS)
        if with_replica:
            log = Log(self.mirror.nexus)
            self.mirror.replicas[victim].kill()
            self.wait_fallen(log, victim)
            self.ledger.wait_more()
        self.mirror.nexus.kill()
        if with_replica:
            self.mirror.replicas[victim].run()
        report = self.mirror.check_disks()
        source = report["source"]
        log = Log(self.mirror.nexus)
        self.mirror.nexus.run()
        self.mirror.wait_status("Online")
        for n, said in enumerate(report["replicas"]):
            child = re.escape(self.mirror.children[n])
            if said["uri"] == source:
                continue
            check_equal(said["rebuild"], "partial", f"the rebuild that replica {n} needs: {said}")
            log.wait(rf"child {child} is out of sync, what it lacks is recorded", "who is stale")
            log.wait(rf"rebuild of child {child} completed", f"child {n} is rebuilt")
            last = self.mirror.last_rebuild(n)
            moved = last["bytes_transferred"] + last["bytes_cleared"]
            check(last["partial"] and moved <= said["rebuild_bytes"],
                  f"a rebuild moved {moved} bytes, missed or in flight were "
                  f"{said['rebuild_bytes']}: {last}")
            check(moved < self.mirror.size // 2, f"{moved} bytes are as good as everything")
            self.moved.append(moved)
        self.ledger.wait_more(timeout_s=90)

    def kill_nexus_and_replica(self):
        """A replica's process, then the nexus' own."""
        self.kill_nexus(with_replica=True)

    ALL = (cut_there, kill, kill_nexus_and_replica, two, cut_here, exact, kill_in_rebuild,
           kill_nexus)


def check_explained(mirror):
    """No child ever left the nexus without a reason in its log; how many connections were lost."""
    lines = Log.whole(mirror.nexus).text().splitlines()
    for i, line in enumerate(lines):
        fallen = re.search(r"nexus \S+ child nvmf://([^/]+)/\S+ is Unknown \(", line)
        check(not fallen or any(fallen[1] in other and "connection lost" in other
                                for other in lines[max(0, i - 40):i + 40]), f"unexplained: {line}")
    return sum("connection lost: " in line for line in lines)


@case("nexus-network", needs=["engine"], kernel_may_say=NEXUS_SAYS)
def nexus_network(t):
    """ext4 over three replicas in networks of their own: cables are cut, processes killed"""
    reason = why_not()
    if reason:
        raise Skip(reason)
    seed = Random().randrange(1 << 32)
    t.note(f"seed {seed}")
    network = Network(t)
    try:
        run_faults(t, network, Random(seed))
    finally:
        network.close()


def run_faults(t, network, random):
    mirror, host = network.mirror, network.host
    controller = host.connect(mirror.nexus, queues=2, more="--ctrl-loss-tmo=1800")
    ledger = Ledger(host, host.block(controller))
    faults = Faults(network, ledger, random)
    end = time.monotonic() + t.run.seconds
    ledger.wait_more()
    for kind in itertools.cycle(Faults.ALL):
        if time.monotonic() > end and len(faults.count) == len(Faults.ALL):
            break
        faults.note(kind.__name__)
        kind(faults)
        ledger.check_running()
    files = ledger.end()
    controller.disconnect()
    mirror.wait_status("Online")
    mirror.check_equal()
    lost = check_explained(mirror)
    check(lost >= faults.lost, f"{faults.lost} connections were cut, the log has {lost}")
    t.note(" ".join(f"{kind}={n}" for kind, n in faults.count.items()))
    t.note(f"{files} files, {lost} connections lost, {faults.lost} of them by us, largest rebuild "
           f"{max(faults.moved) >> 10} KiB of {mirror.size >> 10}")
