# SPDX-License-Identifier: Apache-2.0
"""Linux' own NVMe/TCP target, in the guest, steered through configfs.

It serves two ends. `run --target nvmet' puts it in Ashlar's place, to check the cases. And it is
the peer of Ashlar's initiator: its ports are reached from this machine through Nvmet.reach, and all
that a target may do to its hosts is a method here: ANA states, resize, disable and enable, a port
that goes and comes.

Every port listens on all addresses of the guest, on a TCP port of its own, so that each is a path;
each has the same ANA groups, with states of its own. A namespace is in group 1 until set_group.
"""

import itertools

from targets import Target

CONFIGFS = "/sys/kernel/config"
ANA_STATES = ("optimized", "non-optimized", "inaccessible", "persistent-loss", "change")

# What a namespace lies on, by the scheme of targets.Namespace; other schemes mean `loop'.
#   loop  a loop device over a file in tmpfs: any block size, discard and write zeroes, resize
#   file  nvmet's file backend over ext4 (it zeroes with ZERO_RANGE, which tmpfs lacks although the
#         target offers it): blocks of 4096, resize
#   null  null_blk with memory: any block size, discard, no resize
BACKENDS = ("loop", "file", "null")


class Nvmet(Target):
    """One subsystem, with as many ports as asked for."""

    can = frozenset({"kill", "resize", "add", "fua", "ana", "multi-block-size"})
    address = "127.0.0.1"
    numbers = itertools.count(1)

    def __init__(self, guest):
        super().__init__()
        self.guest = guest
        self.subsystem = f"{CONFIGFS}/nvmet/subsystems/{self.nqn}"
        self.ports = []

    @staticmethod
    def tcp_port(number):
        return 4420 + number

    @staticmethod
    def port_dir(number):
        return f"{CONFIGFS}/nvmet/ports/{number}"

    def namespace_dir(self, nsid):
        return f"{self.subsystem}/namespaces/{nsid}"

    @staticmethod
    def backend(ns):
        return ns.scheme if ns.scheme in BACKENDS else "loop"

    def start(self, namespaces, options=(), listen="127.0.0.1", ports=1, ana=True,
              groups=1):
        """Serve `namespaces' on `ports' ports, each with ANA groups 1 to `groups'. It always
        reports asymmetric access, whatever `ana' says."""
        self.namespaces = []
        self.ports = [next(self.numbers) for _ in range(ports)]
        self.port = self.tcp_port(self.ports[0])
        self.guest.run(f"""set -e
            modprobe loop; modprobe nvmet-tcp
            grep -q ' {CONFIGFS} ' /proc/mounts || mount -t configfs none {CONFIGFS}
            mkdir {self.subsystem}; echo 1 > {self.subsystem}/attr_allow_any_host
            for n in {" ".join(map(str, self.ports))}; do
                d={CONFIGFS}/nvmet/ports/$n
                mkdir $d
                echo tcp > $d/addr_trtype; echo ipv4 > $d/addr_adrfam
                echo 0.0.0.0 > $d/addr_traddr; echo $((4420 + n)) > $d/addr_trsvcid
                for g in $(seq 2 {groups}); do
                    mkdir $d/ana_groups/$g; echo optimized > $d/ana_groups/$g/ana_state
                done
            done""")
        for ns in namespaces:
            self.add(ns)
        self.run()

    def run(self):
        """Serve on all ports; ports that do already stay."""
        for index in range(len(self.ports)):
            self.start_port(index)

    def start_port(self, index):
        link = f"{self.port_dir(self.ports[index])}/subsystems/{self.nqn}"
        self.guest.run(f"[ -e {link} ] || ln -s {self.subsystem} {link}")

    def stop_port(self, index):
        """The port stops to listen, and its connections end."""
        self.guest.run(f"rm -f {self.port_dir(self.ports[index])}/subsystems/{self.nqn}")

    def endpoint(self, index):
        return self.address, self.tcp_port(self.ports[index])

    def reach(self, index=0, card=0):
        """HOST:PORT at which this machine reaches port `index' of the target."""
        return f"127.0.0.1:{self.guest.forward(self.tcp_port(self.ports[index]), card)}"

    def add(self, ns):
        nsid = len(self.namespaces) + 1
        ns.path, d = f"/tmp/disk-{ns.uuid}", self.namespace_dir(nsid)
        self.guest.run(f"""set -e
            {getattr(self, "make_" + self.backend(ns))(ns)}
            mkdir {d}; cat {ns.path}.dev > {d}/device_path
            [ {self.backend(ns)} != file ] || echo 1 > {d}/buffered_io
            echo {ns.uuid} > {d}/device_uuid; echo {ns.uuid} > {d}/device_nguid
            echo 1 > {d}/enable""")
        self.namespaces.append(ns)

    @staticmethod
    def make_loop(ns):
        return f"""truncate -s {ns.size_mb}M {ns.path}
            losetup -f --show --sector-size {ns.block_size} {ns.path} > {ns.path}.dev"""

    @staticmethod
    def make_file(ns):
        assert ns.block_size == 4096, "nvmet gives a file its file system's blocks"
        return f"""truncate -s {ns.size_mb + 8}M {ns.path}.fs; mkfs.ext4 -q -F -b 4096 {ns.path}.fs
            mkdir -p {ns.path}.mnt; mount -o loop {ns.path}.fs {ns.path}.mnt
            truncate -s {ns.size_mb}M {ns.path}.mnt/disk
            ln -s {ns.path}.mnt/disk {ns.path}; echo {ns.path}.mnt/disk > {ns.path}.dev"""

    @staticmethod
    def make_null(ns):
        # Its name in configfs becomes its name in /dev from 6.3 on; before that, index decides.
        return f"""[ -d {CONFIGFS}/nullb ] || modprobe null_blk nr_devices=0
            d={CONFIGFS}/nullb/n{ns.uuid[:8]}; mkdir $d
            echo {ns.size_mb} > $d/size; echo {ns.block_size} > $d/blocksize
            echo 1 > $d/memory_backed; echo 1 > $d/discard; echo 1 > $d/power
            for f in /dev/n{ns.uuid[:8]} /dev/nullb$(cat $d/index); do
                [ ! -b $f ] || break; done
            [ -b $f ]; echo $f > {ns.path}.dev"""

    def remove_backend(self, ns):
        remove = {"loop": f"losetup -d $(cat {ns.path}.dev);",
                  "file": f"umount {ns.path}.mnt; rmdir {ns.path}.mnt;",
                  "null": f"echo 0 > {CONFIGFS}/nullb/n{ns.uuid[:8]}/power; "
                          f"rmdir {CONFIGFS}/nullb/n{ns.uuid[:8]};"}
        self.guest.run(f"{remove[self.backend(ns)]} rm -f {ns.path}*")

    def remove(self, nsid):
        d = self.namespace_dir(nsid)
        self.guest.run(f"echo 0 > {d}/enable; rmdir {d}")

    def disable(self, nsid):
        """Hosts lose the namespace until it is enabled again."""
        self.guest.run(f"echo 0 > {self.namespace_dir(nsid)}/enable")

    def enable(self, nsid):
        self.guest.run(f"echo 1 > {self.namespace_dir(nsid)}/enable")

    def set_group(self, nsid, group):
        """Put a namespace into another ANA group."""
        self.guest.run(f"echo {group} > {self.namespace_dir(nsid)}/ana_grpid")

    def set_ana(self, index, state, group=1):
        """The state of an ANA group as hosts see it through port `index'."""
        assert state in ANA_STATES, state
        self.guest.run(f"echo {state} > "
                       f"{self.port_dir(self.ports[index])}/ana_groups/{group}/ana_state")

    def stop(self):
        self.kill()
        self.guest.run(f"""
            for n in {" ".join(map(str, self.ports))}; do
                d={CONFIGFS}/nvmet/ports/$n
                for g in $d/ana_groups/*; do [ ${{g##*/}} = 1 ] || rmdir $g; done
                rmdir $d
            done
            for d in {self.subsystem}/namespaces/*; do
                [ -d $d ] || continue
                echo 0 > $d/enable; rmdir $d
            done
            rmdir {self.subsystem}""")
        for ns in self.namespaces:
            self.remove_backend(ns)

    def kill(self):
        for index in range(len(self.ports)):
            self.stop_port(index)

    def resize(self, nsid, size_mb):
        ns = self.namespaces[nsid - 1]
        assert self.backend(ns) != "null", "null_blk keeps its size"
        again = f"losetup -c $(cat {ns.path}.dev)" if self.backend(ns) == "loop" else "true"
        self.guest.run(f"truncate -s {size_mb}M {ns.path} && {again} && "
                       f"echo 1 > {self.namespace_dir(nsid)}/revalidate_size")

    def allocated_bytes(self, nsid):
        return int(self.guest.text(f"stat -c %b {self.path_of(nsid)}")) * 512

    def sha256(self, nsid, offset, length):
        """Digest of a part of the backing store; of a block device, past the guest's cache."""
        ns = self.namespaces[nsid - 1]
        store, more = (f"$(cat {ns.path}.dev)", ",direct") if self.backend(ns) == "null" \
            else (ns.path, "")
        return self.guest.text(f"dd if={store} bs=4096 skip={offset} count={length} "
                               f"iflag=skip_bytes,count_bytes{more} status=none | "
                               "sha256sum").split()[0]
