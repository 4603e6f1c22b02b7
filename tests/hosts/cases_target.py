# SPDX-License-Identifier: Apache-2.0
"""Ashlar's initiator against Linux' own target: nvmet-tcp of the guest under bench, copy, export.

The target runs in the guest (nvmet.py), the initiator on this machine. Load is `bench --verify',
whose blocks carry their address and generation: a lost, stale or misplaced write shows when it is
read. With --ops it ends by itself, and a completion that got lost keeps it from ending, which the
limit of Program.wait turns into a failure. What the initiator noticed is in its log.
"""

import hashlib
import os

from guest import WaitTimeout, wait_until
from harness import case, check, check_equal
from targets import Ashlar, Namespace

MIB = 1 << 20

# Words of the initiator's log.
LOST, BACK, RESIZED = "connection lost", "back after", "resized from"
GONE, RETURNED, PATHS = "is gone", "is back", "paths in use"

# What the kernel's target says about commands of which a path was taken away.
TARGET_SAYS = r"nvmet|loop\d|nullb?"


def uri(target, nsid=1, listener=0, card=0, scheme="nvmf+tcp", **parameters):
    """The namespace as Ashlar's initiator names it."""
    words = {"nsid": nsid, "keep_alive": "2s", "reconnect_delay": "200ms", **parameters}
    query = "&".join(f"{key}={value}" for key, value in words.items())
    return f"{scheme}://{target.reach(listener, card)}/{target.nqn}?{query}"


def bench(t, *words, ops=3000):
    """Start verified load of so many requests over the whole device."""
    return t.ashlar("bench", "--verify", "--rw", "randrw", "--rwmix", "40", "--json", "--ops",
                    str(ops), *words)


def finish(program, timeout_s=90):
    """The load's report: it ended, without an error, and what it wrote verifies."""
    report = program.json(timeout_s)
    check_equal(report["errors"], 0, f"errors of {program}")
    return report


def wait_for_words(program, words, count=1, timeout_s=20):
    """Wait until the program's log has said `words' so often."""
    try:
        wait_until(lambda: program.output().count(words) >= count, words, timeout_s)
    except WaitTimeout as e:
        raise WaitTimeout(f"{e}\n{program}") from None


class Traffic:
    """What arrives at a namespace on a loop device: its fields in /sys/block/X/stat, which
    Documentation/block/stat.rst of the kernel numbers from 1 on."""

    READS, WRITES, DISCARDS, FLUSHES = 1, 5, 12, 16

    def __init__(self, target, nsid=1):
        self.guest = target.guest
        path = target.path_of(nsid)
        self.stat = f"/sys/block/$(basename $(cat {path}.dev))/stat"

    def count(self, field=WRITES):
        return int(self.guest.text(f"awk '{{ print ${field} }}' {self.stat}"))

    def wait_more(self, requests=100, what="writes arrive"):
        before = self.count()
        self.guest.wait(f"[ $(awk '{{ print $5 }}' {self.stat}) -gt {before + requests} ]", what)

    def wait_still(self):
        """Until nothing arrives: the count is the same half a second later."""
        count = f"$(awk '{{ print $5 }}' {self.stat})"
        self.guest.wait(f"a={count}; usleep 500000; [ $a = {count} ]", "writes arrive no more")


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


@case("nvmet-basic", needs=["engine"], quick=True, kernel_may_say=TARGET_SAYS)
def nvmet_basic(t):
    """bench and copy to Linux' target and back; discovery; the data is in its store"""
    target = t.linux_target(Namespace(size_mb=32), Namespace(size_mb=32, block_size=4096))
    for nsid in (1, 2):
        finish(bench(t, uri(target, nsid), "--bs", "4096", "--qd", "16", ops=1000))
    source = os.path.join(t.run.folder, "source")
    with open(source, "wb") as file:
        file.write(os.urandom(3 * MIB))
        file.seek(9 * MIB)
        file.write(os.urandom(MIB))
        file.truncate(32 * MIB)
    t.ashlar("copy", f"uring://{source}", uri(target, scheme="nvmf"), "--verify").wait()
    check_equal(target.sha256(1, 0, 32 * MIB), digest(source), "the store in the guest")
    back = os.path.join(t.run.folder, "back")
    with open(back, "wb") as file:
        file.truncate(32 * MIB)
    t.ashlar("copy", uri(target), f"uring://{back}", "--verify").wait()
    check_equal(digest(back), digest(source), "what was copied back")


@case("nvmet-operations", needs=["engine"], kernel_may_say=TARGET_SAYS)
def nvmet_operations(t):
    """every operation at random against an array of bytes, on each kind of store; digests"""
    target = t.linux_target(Namespace(size_mb=16), Namespace(size_mb=16, block_size=4096),
                            Namespace(size_mb=16, block_size=4096, scheme="file"),
                            Namespace(size_mb=16, scheme="null"))
    traffic = Traffic(target)
    before = [traffic.count(f) for f in (traffic.DISCARDS, traffic.FLUSHES)]
    for nsid in range(1, 5):
        for header, data in ((0, 0), (1, 1)):
            t.tool("oracle", "--scale", "20", "--uri",
                   uri(target, nsid, hdgst=header, ddgst=data)).wait(120)
    after = [traffic.count(f) for f in (traffic.DISCARDS, traffic.FLUSHES)]
    check(all(a > b for a, b in zip(after, before)),
          f"discards and flushes reached the disk: {before}, {after}")


# ---- what a target does to its hosts, under load

@case("nvmet-ana", needs=["engine"], kernel_may_say=TARGET_SAYS)
def nvmet_ana(t):
    """ANA states of two paths change under load: the initiator follows at once, without an error"""
    target = t.linux_target(Namespace(size_mb=32), ports=2)
    paths = [uri(target, listener=n, card=n) for n in (0, 1)]
    load, traffic = bench(t, *paths, "--rate", "1000", ops=20000), Traffic(target)
    traffic.wait_more()
    one, both = (f"{PATHS}: {n}" for n in (1, 2))
    for turn, (path, state) in enumerate(((0, "non-optimized"), (1, "inaccessible"),
                                          (0, "persistent-loss"), (1, "change")), 1):
        target.set_ana(path, state)
        wait_for_words(load, one, turn)
        traffic.wait_more()
        target.set_ana(path, "optimized")
        wait_for_words(load, both, turn)
    for path in (0, 1):
        target.set_ana(path, "inaccessible")
    traffic.wait_still()
    check(load.running(), "the load ended while no path could be used")
    target.set_ana(1, "optimized")
    traffic.wait_more()
    target.set_ana(0, "optimized")
    check(load.running(), "the load ended before the last change")
    finish(load)


@case("nvmet-restart", needs=["engine"], kernel_may_say=TARGET_SAYS)
def nvmet_restart(t):
    """the target stops and starts under load: the initiator comes back, the data verifies"""
    target = t.linux_target(Namespace(size_mb=32))
    load, traffic = bench(t, uri(target), "--rate", "1000", ops=12000), Traffic(target)
    for turn in (1, 2):
        traffic.wait_more()
        target.stop_port(0)
        wait_for_words(load, LOST, turn)
        target.start_port(0)
        wait_for_words(load, BACK, turn)
    traffic.wait_more()
    check(load.running(), "the load ended before the last restart")
    report = finish(load)
    t.note(f"longest wait {report['lat_ns']['max'] / 1e9:.1f} s")


@case("nvmet-path-lost", needs=["engine"], kernel_may_say=TARGET_SAYS)
def nvmet_path_lost(t):
    """one path ends, then one goes silent, under load: the other one carries on"""
    target = t.linux_target(Namespace(size_mb=32), ports=2)
    both = uri(target, paths=target.reach(1, card=1))
    load, traffic = bench(t, both, "--rate", "1000", ops=20000), Traffic(target)
    traffic.wait_more()
    target.stop_port(0)
    wait_for_words(load, LOST)
    traffic.wait_more(500)
    target.start_port(0)
    wait_for_words(load, BACK)
    t.guest.cut(1)
    try:
        wait_for_words(load, LOST, 2)
        traffic.wait_more(500)
    finally:
        t.guest.mend(1)
    wait_for_words(load, BACK, 2)
    check(load.running(), "the load ended before the last path was back")
    finish(load)


@case("nvmet-namespace", needs=["engine"], kernel_may_say=TARGET_SAYS + r"|I/O error|nvme")
def nvmet_namespace(t):
    """a remote namespace that is exported again: grown, disabled and enabled under its host"""
    linux = t.linux_target(Namespace(size_mb=32))
    target = Ashlar(t.run.engine, t.run.folder, t.run.log_dir)
    t.targets.insert(0, target)
    target.start_uris([uri(linux)])
    controller = t.host.connect(target, queues=2)
    block = t.host.block(controller)
    written = t.host.write_random(block, 0, 4 * MIB)
    check_equal(linux.sha256(1, 0, 4 * MIB), written, "the store behind two targets")
    linux.resize(1, 48)
    t.guest.wait(f"[ $(blockdev --getsize64 {block}) = {48 * MIB} ]", "the new size")
    target.wait_for_words(RESIZED)
    job = t.guest.spawn(f"while dd if=/dev/urandom of={block} bs=64k seek=64 count=32 "
                        "oflag=direct status=none; do :; done")
    linux.disable(1)
    target.wait_for_words(GONE)
    job.wait(30, check=False)
    linux.enable(1)
    target.wait_for_words(RETURNED)
    t.guest.wait(f"dd if={block} of=/dev/null bs=4k count=1 iflag=direct status=none",
                 "reads work again")
    check_equal(t.host.sha256(block, 0, 4 * MIB), written, "data after the namespace was away")
    again = t.host.write_random(block, 40 * MIB, MIB)
    check_equal(linux.sha256(1, 40 * MIB, MIB), again, "data in what was added")


@case("nvmet-copy", needs=["engine"], kernel_may_say=TARGET_SAYS)
def nvmet_copy(t):
    """a copy outlives a restart of the target; one that was given up is resumed"""
    target = t.linux_target(Namespace(size_mb=64))
    source = os.path.join(t.run.folder, "source-copy")
    with open(source, "wb") as file:
        file.write(os.urandom(64 * MIB))
    slow = ("copy", f"uring://{source}", "--rate", str(8 * MIB))
    traffic = Traffic(target)
    copy = t.ashlar(*slow, uri(target))
    traffic.wait_more(10)
    target.stop_port(0)
    wait_for_words(copy, LOST)
    target.start_port(0)
    copy.wait(60)
    check_equal(target.sha256(1, 0, 64 * MIB), digest(source), "the copy")
    t.guest.run(f"blkdiscard $(cat {target.path_of(1)}.dev)")
    state = os.path.join(t.run.folder, "copy-state")
    impatient = uri(target, ctrl_loss="0")
    copy = t.ashlar(*slow, impatient, "--state", state)
    traffic.wait_more(10)
    target.stop_port(0)
    copy.wait(60, status=1)
    target.start_port(0)
    t.ashlar("copy", f"uring://{source}", impatient, "--state", state, "--resume",
             "--verify").wait(60)
    check_equal(target.sha256(1, 0, 64 * MIB), digest(source), "the resumed copy")
