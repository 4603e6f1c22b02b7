# SPDX-License-Identifier: Apache-2.0
"""The guest as an NVMe host: connect, find the block device, read what nvme-cli says.

Block devices are found by subsystem NQN and namespace identifier in sysfs, never by name: the
kernel numbers them as it likes, and since 6.12 it scans namespaces in parallel.
"""

import json
import re

import image

# Fails I/O after this long without a connection, so that a broken target cannot hold a case up.
LOSS_TIMEOUT_S = 20

# What must not appear in the kernel's log. Stalls are left out: an emulated CPU on a busy machine
# may stall without anybody being at fault.
SUSPECT = re.compile(
    r"nvme.*(error|fail|timeout|timed out|invalid|abort|unexpected|reset|duplicate|mismatch|"
    r"\bbad\b)|"
    r"blk_update|I/O error|EXT4-fs (error|warning)|XFS.*(orrupt|rror|bad)|"
    r"BUG:|WARNING:|Call Trace|Oops|hung task|blocked for more", re.I)


class Controller:
    """A connection of the guest to a subsystem."""

    def __init__(self, host, nqn, device):
        self.host = host
        self.nqn = nqn
        self.device = device

    @property
    def path(self):
        return "/dev/" + self.device

    def attribute(self, name):
        return self.host.guest.text(f"cat /sys/class/nvme/{self.device}/{name}")

    def disconnect(self):
        self.host.guest.run(f"nvme disconnect -d {self.device}")

    def wait_live(self, timeout_s=30):
        self.host.guest.wait(f"[ \"$(cat /sys/class/nvme/{self.device}/state)\" = live ]",
                             f"{self.device} is live", timeout_s)

    def wait_lost(self, timeout_s=30):
        self.host.guest.wait(f"[ \"$(cat /sys/class/nvme/{self.device}/state)\" != live ]",
                             f"{self.device} has lost its connection", timeout_s)


class HostSide:
    """NVMe/TCP host in a guest."""

    def __init__(self, guest):
        self.guest = guest

    def connect(self, target, queues=None, header_digest=False, data_digest=False, more="",
                address=None, listener=0, check=True):
        """`nvme connect' to `target'; None when it is refused and `check' is not set."""
        there, port = target.endpoint(listener) if listener else (target.address, target.port)
        options = f"-t tcp -a {address or there} -s {port} -n {target.nqn} -o json"
        options += f" --reconnect-delay=1 --ctrl-loss-tmo={LOSS_TIMEOUT_S} {more}"
        if queues:
            options += f" --nr-io-queues={queues}"
        if header_digest:
            options += " --hdr-digest"
        if data_digest:
            options += " --data-digest"
        result = self.guest.run(f"nvme connect {options}", check=check)
        if result.status:
            return None
        return Controller(self, target.nqn, json.loads(result.out)["device"])

    def connect_raw(self, target, options):
        """Connect through /dev/nvme-fabrics with its own options."""
        text = (f"transport=tcp,traddr={target.address},trsvcid={target.port},nqn={target.nqn},"
                f"hostnqn={image.HOST_NQN},hostid={image.HOST_ID},{options}")
        out = self.guest.text(f"exec 4<> /dev/nvme-fabrics; echo {text} >&4; cat <&4")
        return Controller(self, target.nqn, "nvme" + re.search(r"instance=(\d+)", out)[1])

    def controller_of(self, nqn):
        """The controller that something else connected to `nqn'."""
        out = self.guest.text(f"grep -l '^{nqn}$' /sys/class/nvme/nvme*/subsysnqn")
        return Controller(self, nqn, out.split("/")[4])

    def block(self, controller, nsid=1, timeout_s=15):
        """Path of the block device of a namespace, once the kernel has it."""
        script = f"""find_block() {{
            for b in /sys/block/nvme*; do
                [ "$(cat $b/nsid 2>/dev/null)" = {nsid} ] || continue
                [ "$(cat $(realpath $b)/../subsysnqn)" = {controller.nqn} ] || continue
                [ -b /dev/${{b##*/}} ] && [ $(cat $b/size) -gt 0 ] || continue
                block=/dev/${{b##*/}}; return 0
            done; return 1; }}
            """
        return self.guest.text(script + self._until("find_block", timeout_s) + "\necho $block",
                               timeout_s + 10)

    @staticmethod
    def path_of(block, controller):
        """Name in sysfs of the path that `controller' is to `block'."""
        subsystem, name = re.match(r"/dev/(nvme\d+)(n\d+)$", block).groups()
        return f"{subsystem}c{controller.device[4:]}{name}"

    def wait_ana(self, block, controller, state, timeout_s=15):
        """Wait until the kernel has seen this ANA state of a path."""
        path = self.path_of(block, controller)
        self.guest.wait(f"[ \"$(cat /sys/class/block/{path}/ana_state)\" = {state} ]",
                        f"{path} is {state}", timeout_s)

    def path_done(self, block, controller):
        """A shell expression: requests that ended on this path."""
        path = self.path_of(block, controller)
        return f"$(awk '{{ print $1 + $5 }}' /sys/class/block/{path}/stat)"

    def wait_no_block(self, controller, nsid, timeout_s=15):
        """Wait until a namespace is gone."""
        script = f"""gone() {{
            for b in /sys/block/nvme*; do
                [ "$(cat $b/nsid 2>/dev/null)" = {nsid} ] || continue
                [ "$(cat $(realpath $b)/../subsysnqn)" = {controller.nqn} ] && return 1
            done; return 0; }}
            """
        self.guest.run(script + self._until("gone", timeout_s), timeout_s + 10)

    @staticmethod
    def _until(condition, timeout_s):
        return f"""n=0; until {condition}; do n=$((n + 1))
            [ $n -lt {timeout_s * 50} ] || {{ echo "not in time: {condition}"
            cat /sys/block/nvme*/nsid; exit 1; }}
            usleep 20000; done"""

    def disconnect_all(self):
        """Whatever is still connected."""
        self.guest.run("""for c in /sys/class/nvme/nvme*; do
            [ -e $c ] && echo 1 > $c/delete_controller; done; true""", timeout_s=90)

    @staticmethod
    def counter(block, file, fields):
        """A shell expression: fields of /sys/block/BLOCK/FILE, summed over the multipath device and
        its paths (6.1 counts only on the paths)."""
        subsystem, name = re.match(r"/dev/(nvme\d+)(n\d+)$", block).groups()
        head, paths = f"{subsystem}{name}/{file}", f"{subsystem}c*{name}/{file}"
        return (f"$(cd /sys/class/block; cat {head} {paths} 2>/dev/null | "
                f"awk '{{ sum += {fields} }} END {{ print sum + 0 }}')")

    def in_flight(self, block):
        return self.counter(block, "inflight", "$1 + $2")

    def writes_done(self, block):
        return self.counter(block, "stat", "$5")

    def nvme_json(self, arguments):
        return json.loads(self.guest.text(f"nvme {arguments} -o json"))

    def size(self, block):
        return int(self.guest.text(f"blockdev --getsize64 {block}"))

    def write_random(self, block, offset, length, flags="direct"):
        """Fill a range with random bytes; returns their SHA-256."""
        return self.guest.text(f"""set -e
            head -c {length} /dev/urandom > /tmp/random
            dd if=/tmp/random of={block} bs=64k seek={offset} oflag={flags},seek_bytes \
                conv=notrunc,fsync status=none
            sha256sum < /tmp/random""").split()[0]

    def sha256(self, block, offset, length):
        """SHA-256 of a range, read past the guest's cache."""
        return self.guest.text(
            f"set -o pipefail; dd if={block} bs=64k skip={offset} count={length} "
            "iflag=direct,fullblock,skip_bytes,count_bytes status=none | sha256sum").split()[0]

    def fio(self, block, *jobs, timeout_s=120):
        """Run fio jobs one after the other (options as text); their JSON results."""
        command = " ".join(f"--name=job{n} {options} --stonewall" for n, options in enumerate(jobs))
        out = self.guest.run(f"cd /tmp && fio --filename={block} --direct=1 --ioengine=libaio "
                             f"--output-format=json --output=/tmp/fio.json {command}; s=$?; "
                             "cat /tmp/fio.json; exit $s", timeout_s).out
        results = json.loads(out[out.index("{"):])["jobs"]
        for job in results:
            if job["error"]:
                raise AssertionError(f"fio reports error {job['error']}")
            if job["read"]["total_ios"] + job["write"]["total_ios"] == 0:
                raise AssertionError(f"fio did nothing in {job['jobname']}")
        return results

    def mark(self, text):
        """Put a line into the kernel's log, from which kernel_complaints counts."""
        self.guest.run(f"dmesg -c > /dev/null; echo '{text}' > /dev/kmsg")

    def kernel_log(self, mark):
        log = self.guest.run("dmesg").out
        return log[log.rfind(mark):].splitlines()[1:]

    def kernel_complaints(self, mark, allowed=None):
        """Suspect lines since `mark' that do not match the pattern `allowed'."""
        return [line for line in self.kernel_log(mark)
                if SUSPECT.search(line) and not (allowed and re.search(allowed, line, re.I))]
