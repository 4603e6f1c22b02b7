# SPDX-License-Identifier: Apache-2.0
"""What more than one path, more than one host and more than one namespace make possible."""

import hashlib

from harness import case, check, check_equal
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
