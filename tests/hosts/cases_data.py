# SPDX-License-Identifier: Apache-2.0
"""File systems, fio, discards, and what happens while the engine changes or dies."""

import hashlib
import os
import signal

from harness import case, check, check_equal, expect_status
from guest import wait_until
from targets import Namespace

MIB = 1 << 20

# Files of many sizes with known digests, made anew by every case.
MAKE_TREE = """
    mkdir -p /mnt/a/b && cd /mnt
    for n in 0 1 17 511 4096 4097 65536 300001 2000003 5000011; do
        head -c $n /dev/urandom > a/b/file$n; done
    cp -r /lib/modules a/
    find . -type f | xargs sha256sum > /tmp/tree.sums
    cd /
"""
CHECK_TREE = "cd /mnt && sha256sum -c --quiet /tmp/tree.sums 2>&1 | tail -5; cd /mnt && " \
             "sha256sum -c --quiet /tmp/tree.sums > /dev/null 2>&1; s=$?; cd /; [ $s = 0 ]"


def file_system(t, make, kind, fsck, namespace, **connect_options):
    """Make, fill, remount, verify, check."""
    _, _, block = t.serve_and_connect(namespace, **connect_options)
    t.guest.run(f"set -e; {make} {block}; mount -t {kind} {block} /mnt; {MAKE_TREE}\numount /mnt",
                timeout_s=120)
    try:
        t.guest.run(f"echo 3 > /proc/sys/vm/drop_caches; mount -t {kind} {block} /mnt && "
                    f"{CHECK_TREE}", timeout_s=120)
    finally:
        t.guest.run("umount /mnt", check=False)
    t.guest.run(f"{fsck} {block}", timeout_s=120)


@case("ext4", quick=True)
def ext4(t):
    """mkfs.ext4, files verified after a remount, e2fsck"""
    file_system(t, "mkfs.ext4 -q -F", "ext4", "e2fsck -fn", Namespace(size_mb=96))


@case("xfs", quick=True)
def xfs(t):
    """mkfs.xfs, files verified after a remount, xfs_repair -n"""
    file_system(t, "mkfs.xfs -q -f", "xfs", "xfs_repair -n", Namespace(size_mb=320))


@case("ext4-4096", needs=["multi-block-size"])
def ext4_4096(t):
    """ext4 on 4096-byte blocks with aio and both digests"""
    file_system(t, "mkfs.ext4 -q -F", "ext4", "e2fsck -fn",
                Namespace(size_mb=96, block_size=4096, scheme="aio"),
                header_digest=True, data_digest=True)


@case("xfs-4096", needs=["multi-block-size"])
def xfs_4096(t):
    """xfs on 4096-byte blocks"""
    file_system(t, "mkfs.xfs -q -f", "xfs", "xfs_repair -n",
                Namespace(size_mb=320, block_size=4096))


@case("fio-verify", quick=True)
def fio_verify(t):
    """fio randrw with crc32c verification at several block sizes"""
    _, _, block = t.serve_and_connect(queues=4)
    sizes = (("512", 600), ("4k", 600), ("16k", 400), ("128k", 100), ("1m", 16))
    results = t.host.fio(block, *(
        f"--rw=randrw --bs={size} --size=48m --number_ios={number} --iodepth=16 --verify=crc32c "
        "--verify_fatal=1" for size, number in sizes))
    for (size, _), job in zip(sizes, results):
        check(job["write"]["total_ios"] > 0, f"fio wrote nothing at {size}")
    t.note("512 B to 1 MiB")


@case("fio-mixed")
def fio_mixed(t):
    """fio with random lengths and offsets, four jobs over four queues, both digests"""
    _, _, block = t.serve_and_connect(queues=4, header_digest=True, data_digest=True)
    t.host.fio(block, "--rw=randwrite --bsrange=512-256k --bs_unaligned=0 --size=12m "
                      "--offset_increment=16m --numjobs=4 --iodepth=32 --verify=crc32c "
                      "--do_verify=1 --verify_fatal=1 --thread")


@case("fio-4096", needs=["multi-block-size"])
def fio_4096(t):
    """fio with verification on 4096-byte blocks and aio"""
    _, _, block = t.serve_and_connect(Namespace(block_size=4096, scheme="aio"), queues=2)
    t.host.fio(block, "--rw=randrw --bssplit=4k/50:8k/20:64k/20:512k/10 --size=48m --io_size=16m "
                      "--iodepth=32 --verify=crc32c --verify_fatal=1")


@case("fio-trim")
def fio_trim(t):
    """fio with trims among verified writes"""
    _, _, block = t.serve_and_connect(queues=2)
    t.host.fio(block, "--rw=randtrimwrite --bs=16k --size=16m --iodepth=16 --verify=crc32c "
                      "--do_verify=1 --verify_fatal=1")


@case("fstrim", quick=True)
def fstrim(t):
    """fstrim on a mounted ext4 gives the space back to the file"""
    target, _, block = t.serve_and_connect(Namespace(size_mb=96))
    t.guest.run(f"""set -e
        mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 {block}
        mount -t ext4 {block} /mnt; head -c {32 * MIB} /dev/urandom > /mnt/big; sync""")
    full = target.allocated_bytes(1)
    check(full >= 32 * MIB, f"only {full} bytes are allocated after writing 32 MiB")
    t.guest.run("rm /mnt/big; sync; fstrim -v /mnt; umount /mnt")
    left = target.allocated_bytes(1)
    check(full - left >= 30 * MIB, f"fstrim freed {full - left} bytes of 32 MiB")
    t.guest.run(f"e2fsck -fn {block}")
    t.note(f"{(full - left) >> 20} MiB given back")


@case("blkdiscard", quick=True)
def blkdiscard(t):
    """blkdiscard: reads zero, neighbours stay, the file shrinks"""
    target, _, block = t.serve_and_connect()
    t.host.write_random(block, 0, 10 * MIB)
    before = [t.host.sha256(block, o, MIB) for o in (0, 9 * MIB)]
    full = target.allocated_bytes(1)
    t.guest.run(f"blkdiscard -o {MIB} -l {8 * MIB} {block}")
    zero = hashlib.sha256(bytes(8 * MIB)).hexdigest()
    check_equal(t.host.sha256(block, MIB, 8 * MIB), zero, "the discarded range")
    check_equal([t.host.sha256(block, o, MIB) for o in (0, 9 * MIB)], before, "neighbours")
    left = target.allocated_bytes(1)
    check(full - left >= 7 * MIB, f"only {full - left} bytes of 8 MiB came back")


@case("write-zeroes", quick=True)
def write_zeroes(t):
    """write-zeroes by blkdiscard -z and nvme write-zeroes"""
    target, _, block = t.serve_and_connect()
    t.host.write_random(block, 0, 12 * MIB)
    before = [t.host.sha256(block, o, MIB) for o in (0, 8 * MIB, 11 * MIB)]
    check(int(t.guest.text(f"cat /sys/block/{block[5:]}/queue/write_zeroes_max_bytes")) > 0,
          "the host does not see write-zeroes")
    t.guest.run(f"blkdiscard -z -o {MIB} -l {7 * MIB} {block}")
    t.guest.run(f"nvme write-zeroes {block} -s {9 * MIB // 512} -c {MIB // 512 - 1}")
    t.guest.run(f"nvme write-zeroes {block} -s {10 * MIB // 512} -c {MIB // 512 - 1} --deac")
    for offset, length in ((MIB, 7 * MIB), (9 * MIB, 2 * MIB)):
        zero = hashlib.sha256(bytes(length)).hexdigest()
        check_equal(t.host.sha256(block, offset, length), zero, f"zeroes at {offset}")
        check_equal(target.sha256(1, offset, length), zero, f"zeroes in the file at {offset}")
    check_equal([t.host.sha256(block, o, MIB) for o in (0, 8 * MIB, 11 * MIB)], before,
                "neighbours")


@case("dsm")
def dataset_management(t):
    """one deallocate command with many ranges"""
    _, _, block = t.serve_and_connect()
    t.host.write_random(block, 0, 4 * MIB)
    ranges = range(0, 4 * MIB // 512, 64)
    starts, lengths = ",".join(map(str, ranges)), ",".join("32" for _ in ranges)
    kept = t.host.sha256(block, 32 * 512, 32 * 512)
    t.guest.run(f"nvme dsm {block} -n 1 --ad --slbs={starts} --blocks={lengths} "
                f"--ctx-attrs={','.join('0' for _ in ranges)}")
    zero = hashlib.sha256(bytes(32 * 512)).hexdigest()
    for start in (0, 64, ranges[-1]):
        check_equal(t.host.sha256(block, start * 512, 32 * 512), zero, f"range at {start}")
    check_equal(t.host.sha256(block, 32 * 512, 32 * 512), kept, "between the ranges")


@case("large-io")
def large_io(t):
    """I/O far beyond the largest transfer is split by the host and arrives whole"""
    target, _, block = t.serve_and_connect(Namespace(size_mb=128))
    t.host.fio(block, "--rw=write --bs=8m --size=64m --iodepth=4 --verify=crc32c --do_verify=1")
    largest = int(t.guest.text(f"cat /sys/block/{block[5:]}/queue/max_hw_sectors_kb"))
    check(largest >= 128, f"the largest transfer is only {largest} KiB")
    check(target.allocated_bytes(1) >= 64 * MIB, "the file holds less than was written")
    t.note(f"largest transfer {largest} KiB")


@case("resize", quick=True, needs=["resize"], kernel_may_say="rescanning")
def resize(t):
    """a grown file is seen by the connected host, and ext4 grows with it"""
    target, _, block = t.serve_and_connect(Namespace(size_mb=48))
    t.guest.run(f"set -e; mkfs.ext4 -q -F {block}; mount -t ext4 {block} /mnt; {MAKE_TREE}")
    target.resize(1, 80)
    t.guest.wait(f"[ $(blockdev --getsize64 {block}) = {80 * MIB} ]", "the new size", 20)
    t.guest.run(f"resize2fs {block} 2>&1; {CHECK_TREE}; head -c {40 * MIB} /dev/zero > /mnt/large; "
                "s=$?; sync; umount /mnt; exit $s")
    t.guest.run(f"e2fsck -fn {block}")


@case("resize-sighup", needs=["process"], kernel_may_say="rescanning")
def resize_sighup(t):
    """SIGHUP makes the engine look at its files again"""
    target, _, block = t.serve_and_connect(Namespace(size_mb=16, scheme="aio"))
    os.truncate(target.path_of(1), 40 * MIB)
    target.process.send_signal(signal.SIGHUP)
    t.guest.wait(f"[ $(blockdev --getsize64 {block}) = {40 * MIB} ]", "the new size", 20)


@case("new-namespace", quick=True, needs=["add"], kernel_may_say="rescanning")
def new_namespace(t):
    """a namespace that is added, and removed again, is seen by the connected host"""
    target, controller, first = t.serve_and_connect()
    kept = t.host.write_random(first, 0, MIB)
    target.add(Namespace(size_mb=16))
    second = t.host.block(controller, 2)
    check_equal(t.host.size(second), 16 * MIB, "size of the new namespace")
    written = t.host.write_random(second, 0, MIB)
    check_equal(t.host.sha256(second, 0, MIB), written, "data of the new namespace")
    target.remove(2)
    t.host.wait_no_block(controller, 2)
    check_equal(t.host.sha256(first, 0, MIB), kept, "data of the first namespace")


@case("pause", needs=["pause"])
def pause(t):
    """I/O waits while the subsystem is paused and goes on when it is resumed"""
    target, _, block = t.serve_and_connect()
    written = t.host.write_random(block, 0, MIB)
    target.pause()
    job = t.guest.spawn(f"dd if={block} bs=4k count=1 iflag=direct of=/tmp/paused")
    # The command must be in flight, and stay there: a fast answer would be wrong.
    t.guest.wait(f"[ {t.host.in_flight(block)} -gt 0 ]", "the read is in flight")
    t.guest.run("n=0; while [ $n -lt 10 ]; do [ ! -e %s.status ] || exit 1; usleep 50000; "
                "n=$((n + 1)); done" % job.files)
    target.resume()
    job.wait(20)
    check_equal(t.host.sha256(block, 0, MIB), written, "data after the pause")


@case("reset", kernel_may_say="resetting controller|rescanning")
def reset(t):
    """nvme reset under load: the host reconnects at once, and the data verifies"""
    _, controller, block = t.serve_and_connect(queues=4)
    job = t.guest.spawn(
        f"cd /tmp && fio --name=job --filename={block} --direct=1 --ioengine=libaio --rw=randwrite "
        "--bs=8k --size=24m --rate_iops=,800 --iodepth=16 --verify=crc32c --do_verify=1 "
        "--verify_fatal=1")
    done = t.host.writes_done(block)
    for _ in range(3):
        before = int(t.guest.text(f"echo {done}"))
        t.guest.wait(f"[ {done} -gt {before + 100} ]", "writes arrive")
        t.guest.run(f"nvme reset {controller.path}")
        controller.wait_live()
    job.wait(300)


@case("two-reactors", needs=["cores"])
def two_reactors(t):
    """an engine on two cores: queues on both, load while namespaces come, go and grow"""
    target = t.serve(Namespace(size_mb=64), options=["--cores", "0x3"])
    controller = t.host.connect(target, queues=4, header_digest=True)
    block = t.host.block(controller)
    job = t.guest.spawn(
        f"cd /tmp && fio --name=job --filename={block} --direct=1 --ioengine=libaio --rw=randwrite "
        "--bsrange=4k-64k --size=12m --offset_increment=16m --numjobs=4 --thread --iodepth=16 "
        "--verify=crc32c --do_verify=1 --verify_fatal=1")
    target.add(Namespace(size_mb=16, scheme="malloc"))
    t.host.block(controller, 2)
    target.pause()
    target.resume()
    target.remove(2)
    t.host.wait_no_block(controller, 2)
    target.resize(1, 96)
    t.guest.wait(f"[ $(blockdev --getsize64 {block}) = {96 * MIB} ]", "the new size", 20)
    job.wait(300)


@case("inject", needs=["inject"], kernel_may_say="I/O error|nvme.*error|critical medium")
def inject(t):
    """a fault that is armed below reaches the host as what it is, and goes when disarmed"""
    ns = Namespace(size_mb=16, scheme="malloc")
    target, _, block = t.serve_and_connect(ns)
    written = t.host.write_random(block, 0, MIB)
    read = f"nvme read {block} -c 7 -z 4096 -d /tmp/x"
    disarm = target.inject(ns, "op=read&offset=64&num_blk=8&method=status-nvme-2-81&stage=compl")
    expect_status(t, f"{read} -s 64", 0x281)
    t.guest.run(f"{read} -s 72")
    check(t.guest.run(f"dd if={block} bs=4k skip=8 count=1 iflag=direct", check=False).status != 0,
          "dd read a block that cannot be read")
    disarm()
    check_equal(t.host.sha256(block, 0, MIB), written, "data once the fault is gone")
    disarm = target.inject(ns, "op=read&method=corrupt&bits=1&offset=0&num_blk=64&retries=1")
    check(t.host.sha256(block, 0, 32768) != t.host.sha256(block, 0, 32768),
          "a flipped bit was not seen: these tests would not notice corruption")
    disarm()
    check_equal(t.host.sha256(block, 0, MIB), written, "data in the end")


@case("kill-9", quick=True, needs=["kill"], kernel_may_say="nvme")
def kill_nine(t):
    """kill -9 under load and a restart: the host reconnects, fio and old data verify"""
    target, controller, block = t.serve_and_connect(Namespace(size_mb=96), queues=4)
    kept = t.host.write_random(block, 64 * MIB, 4 * MIB)
    job = t.guest.spawn(
        f"cd /tmp && fio --name=job --filename={block} --direct=1 --ioengine=libaio --rw=randwrite "
        "--bs=4k --size=16m --rate_iops=,1500 --iodepth=16 --verify=crc32c --do_verify=1 "
        "--verify_fatal=1")
    for _ in range(2):
        # Under load means: writes arrive right now.
        done = t.host.writes_done(block)
        before = int(t.guest.text(f"echo {done}"))
        t.guest.wait(f"[ {done} -gt {before + 300} ]", "writes arrive")
        check(job.running(), "the load ended before the kill")
        target.kill()
        controller.wait_lost()
        target.run()
        controller.wait_live()
    job.wait(300)
    check_equal(t.host.sha256(block, 64 * MIB, 4 * MIB), kept, "data from before the kill")
    check_equal(target.sha256(1, 64 * MIB, 4 * MIB), kept, "data in the file")


@case("kill-9-ext4", needs=["kill"], kernel_may_say="nvme")
def kill_nine_ext4(t):
    """kill -9 under a mounted ext4 that is being written"""
    target, controller, block = t.serve_and_connect(Namespace(size_mb=128))
    t.guest.run(f"set -e; mkfs.ext4 -q -F {block}; mount -t ext4 {block} /mnt; {MAKE_TREE} sync")
    job = t.guest.spawn("n=0; while [ $n -lt 40 ]; do head -c 1000000 /dev/urandom > /mnt/w$n; "
                        "sync; n=$((n + 1)); done")
    t.guest.wait("[ -e /mnt/w3 ]", "the writer is at work")
    target.kill()
    controller.wait_lost()
    target.run()
    controller.wait_live()
    job.wait(300)
    t.guest.run(f"umount /mnt; mount -t ext4 {block} /mnt && {CHECK_TREE}; s=$?; umount /mnt; "
                "exit $s", timeout_s=120)
    t.guest.run(f"e2fsck -fn {block}")


@case("shutdown", needs=["shutdown"], kernel_may_say="nvme")
def shutdown(t):
    """SIGTERM with a connected host: a clean end at once; the host comes back after a restart"""
    target, controller, block = t.serve_and_connect()
    written = t.host.write_random(block, 0, MIB)
    target.stop()
    controller.wait_lost()
    target.run()
    controller.wait_live()
    check_equal(t.host.sha256(block, 0, MIB), written, "data after the restart")


@case("stopped", needs=["shutdown"], kernel_may_say="nvme")
def stopped(t):
    """an engine that stands still (SIGSTOP) delays I/O and loses none of it"""
    target, _, block = t.serve_and_connect()
    written = t.host.write_random(block, 0, MIB)
    target.process.send_signal(signal.SIGSTOP)
    try:
        job = t.guest.spawn(f"dd if={block} bs=64k count=16 iflag=direct status=none | "
                            "sha256sum")
        t.guest.wait(f"[ {t.host.in_flight(block)} -gt 0 ]", "a read is in flight")
    finally:
        target.process.send_signal(signal.SIGCONT)
    check_equal(job.wait(30).out.split()[0], written, "data")
    wait_until(lambda: target.process.poll() is None, "the engine lives", 1)
