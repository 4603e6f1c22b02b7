# SPDX-License-Identifier: Apache-2.0
"""The engine itself on the guest's kernel: bench, copy, export, and a connection to itself.

This is where a kernel that is older than the build machine's shows: io_uring opcodes and flags that
are missing there, O_DIRECT that tmpfs refuses, file systems and block devices of the time.
"""

import json

from harness import case, check, check_equal
from targets import Namespace

MIB = 1 << 20

# Room that takes direct I/O: an ext4 on a RAM disk; a second RAM disk to be used bare.
MAKE_ROOM = """set -e
    [ -b /dev/ram1 ] || modprobe brd rd_nr=2 rd_size=131072
    grep -q ' /root ' /proc/mounts || { mkfs.ext4 -q -F /dev/ram0; mount -t ext4 /dev/ram0 /root; }
    rm -rf /root/*
"""


def bench(t, uri, more=""):
    """Bench a device for a second; the JSON it printed."""
    out = t.guest.text(f"ashlar bench '{uri}' --time 1 --bs 4096 --json {more}", timeout_s=60)
    result = json.loads(out[out.index("{"):])
    check_equal(result["errors"], 0, f"errors of {uri}")
    check(result["iops"] > 0, f"no I/O on {uri}: {result}")
    return result


@case("bench-memory", in_guest=True, needs=["engine"])
def bench_memory(t):
    """bench of null and malloc on this kernel"""
    for uri in ("null:///n0?size_mb=64&blk_size=4096", "malloc:///m0?size_mb=64&blk_size=4096"):
        for rw in ("randread", "randwrite"):
            result = bench(t, uri, f"--rw {rw} --qd 32")
        t.note(f"{uri.split(':')[0]} {result['iops'] / 1000:.0f} k")
    bench(t, "malloc:///m0?size_mb=32", "--rw randrw --qd 16 --verify")


@case("bench-files", in_guest=True, needs=["engine"])
def bench_files(t):
    """bench of aio and uring on ext4, tmpfs and a block device, with verification"""
    t.guest.run(MAKE_ROOM + "truncate -s 32M /root/disk /tmp/disk")
    for scheme in ("aio", "uring"):
        for path in ("/root/disk", "/tmp/disk", "/dev/ram1"):
            uri = f"{scheme}://{path}" + ("" if path.startswith("/dev") else "?blk_size=4096")
            bench(t, uri, "--rw randrw --qd 32 --verify")
        t.note(f"{scheme} {bench(t, f'{scheme}:///root/disk', '--qd 32')['iops'] / 1000:.0f} k")


@case("copy-inside", in_guest=True, needs=["engine"])
def copy_inside(t):
    """copy between files, a block device and memory, verified; holes stay holes"""
    t.guest.run(MAKE_ROOM + f"""
        head -c {8 * MIB} /dev/urandom > /root/src; truncate -s {64 * MIB} /root/src
        truncate -s {64 * MIB} /root/dst
        ashlar copy uring:///root/src aio:///root/dst --verify
        cmp /root/src /root/dst
        [ $(stat -c %b /root/dst) -lt $(( {16 * MIB} / 512 )) ]
        ashlar copy aio:///root/src uring:///dev/ram1 --verify
        cmp -n {64 * MIB} /root/src /dev/ram1
        ashlar copy uring:///dev/ram1 'malloc:///m?size_mb=128' --verify""", timeout_s=120)


@case("export-inside", in_guest=True, needs=["engine"], quick=True)
def export_inside(t):
    """export, discovery and connect-all over 127.0.0.1 in one kernel; ext4 and fio on it"""
    t.guest.run(MAKE_ROOM + "truncate -s 96M /root/disk")
    target = t.serve_inside(Namespace(size_mb=96), Namespace(size_mb=16, scheme="malloc"))
    found = t.guest.text(f"nvme discover -t tcp -a 127.0.0.1 -s {target.port}")
    check(target.nqn in found, f"discovery says {found}")
    t.guest.run(f"nvme connect-all -t tcp -a 127.0.0.1 -s {target.port} --nr-io-queues=2 "
                "--ctrl-loss-tmo=20")
    controller = t.host.controller_of(target.nqn)
    block = t.host.block(controller)
    t.host.fio(block, "--rw=randrw --bs=16k --size=32m --number_ios=500 --iodepth=8 "
                      "--verify=crc32c --verify_fatal=1")
    t.guest.run(f"""set -e
        mkfs.ext4 -q -F {block}; mount -t ext4 {block} /mnt; cp -r /lib/modules /mnt
        cd /mnt; find . -type f | xargs sha256sum > /tmp/sums; cd /; umount /mnt
        mount -t ext4 {block} /mnt; cd /mnt; sha256sum -c --quiet /tmp/sums; cd /; umount /mnt
        e2fsck -fn {block}""")
    t.host.block(controller, 2)


@case("initiator-inside", in_guest=True, needs=["engine"], kernel_may_say="nvmet")
def initiator_inside(t):
    """the initiator on this kernel: discover, bench and copy over our target and Linux' own"""
    ours = t.serve_inside(Namespace(size_mb=32, scheme="malloc"))
    linux = t.linux_target(Namespace(size_mb=32))
    found = t.guest.text(f"ashlar discover 127.0.0.1:{ours.port}")
    check(ours.nqn in found, f"discovery says {found}")
    for target in (ours, linux):
        uri = f"nvmf://127.0.0.1:{target.port}/{target.nqn}"
        for digests in ("", "?hdgst=1&ddgst=1"):
            bench(t, uri + digests, "--rw randrw --qd 16 --verify")
        t.guest.run(f"""set -e
            head -c {MIB} /dev/urandom > /tmp/src; truncate -s {32 * MIB} /tmp/src
            truncate -s {32 * MIB} /tmp/dst
            ashlar copy uring:///tmp/src '{uri}' --verify
            ashlar copy '{uri}' uring:///tmp/dst --verify
            cmp /tmp/src /tmp/dst; rm /tmp/src /tmp/dst""", timeout_s=120)
    t.note(f"{bench(t, uri, '--qd 32')['iops'] / 1000:.0f} k on Linux' target")
