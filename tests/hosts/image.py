# SPDX-License-Identifier: Apache-2.0
"""Guest images: a kernel that boots at once, and an initramfs with what the cases need.

A Debian kernel package becomes two files in the cache, made once and kept until a package, a tool
or this file changes:

  vmlinux    the ELF kernel, unpacked from the bzImage: QEMU enters it through PVH, which saves the
             emulated CPU the decompression (2 s instead of 5 s to the first command)
  base.cpio  the initramfs: busybox, the modules of MODULES with what they depend on, the programs
             of TOOLS with their libraries, guest-init and guest-agent

What a single run adds (the engine's binary, say) is a second cpio behind the first: the kernel
unpacks them one after the other. Both are written here in the `newc' format, so that neither cpio
nor root is needed and every file belongs to root in the guest.

Rejected: depmod and a module tree on disk (the `depends' field inside each module says the same);
compressing the initramfs (the emulated CPU would pay for it); a disk image (needs mkfs, a mount).
"""

import fcntl
import hashlib
import io
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent

KERNELS = {
    "k61": "Linux 6.1, Debian 12's own",
    "k612": "Linux 6.12, from bookworm-backports",
}

# Wanted modules. One that a kernel does not have as a module is built in or absent: the cases that
# need it find out by themselves.
MODULES = """
    virtio_pci virtio_net virtio_console
    nvme_core nvme_fabrics nvme_tcp nvmet nvmet_tcp
    loop brd null_blk configfs zram
    ext4 xfs crc32c_generic crc32c_intel libcrc32c
    sha256_generic sha512_generic hmac dh_generic
""".split()

# Where under lib/modules/VERSION/kernel wanted modules and those they depend on lie.
MODULE_FOLDERS = re.compile(
    r"kernel/(arch|block|crypto|fs|lib|mm|security|net/(core|tls)|"
    r"drivers/(nvme|block|virtio|char|base|net/(virtio_net|net_failover)))")

# Programs of the guest and the Debian package that brings each. Scripts run in bash, because
# busybox's own shell prefers its small versions of dd, losetup and others over these.
TOOLS = {
    "nvme": "nvme-cli",
    "fio": "fio",
    "mkfs.ext4": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "resize2fs": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "xfs_repair": "xfsprogs",
    "blkdiscard": "util-linux",
    "blockdev": "util-linux",
    "fallocate": "util-linux",
    "fstrim": "util-linux",
    "losetup": "mount",
    "bash": "bash",
    "dd": "coreutils",
    "sha256sum": "coreutils",
    "cmp": "diffutils",
}

HOST_TOOLS = {"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static",
              "dpkg-deb": "dpkg", "ldd": "libc-bin", "zstd": "zstd"}

NQN_OF_UUID = "nqn.2014-08.org.nvmexpress:uuid:"
HOST_ID = "6a1f2e5c-0d4b-4c38-9a57-3b8e1d90c7f4"
HOST_NQN = NQN_OF_UUID + HOST_ID


class Unavailable(Exception):
    """The machine lacks something; the text says what and how to get it."""


def identity(host_id):
    """The files that make a guest this host."""
    return {"/etc/nvme/hostnqn": f"{NQN_OF_UUID}{host_id}\n".encode(),
            "/etc/nvme/hostid": f"{host_id}\n".encode()}


def cache_dir():
    """The cache folder, overridable with ASHLAR_HOSTS_CACHE."""
    named = os.environ.get("ASHLAR_HOSTS_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ashlar" / "hosts"


def which(program):
    """Absolute path of `program`, also where the user's PATH leaves out sbin, or None."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return shutil.which(program, path=path)


def missing_packages():
    """Debian packages to install before a guest can be built and booted, sorted."""
    wanted = {**HOST_TOOLS, **TOOLS}
    return sorted({package for program, package in wanted.items() if not which(program)})


def is_static(program):
    out = subprocess.run(["ldd", program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         text=True, check=False).stdout
    return "not a dynamic executable" in out or "statically linked" in out


def libraries(program):
    """Paths of the shared libraries (and the loader) `program` needs; none for a script."""
    run = subprocess.run(["ldd", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                         text=True, check=False)
    found = []
    for line in run.stdout.splitlines():
        m = re.match(r"\s*(?:\S+ => )?(/\S+) \(0x", line)
        if m:
            found.append(m.group(1))
        elif "not found" in line:
            raise Unavailable(f"{program} needs a library that is not installed: {line.strip()}")
    return found


class Cpio:
    """Collects files and writes a `newc' archive (Documentation/driver-api/early-userspace/
    buffer-format.rst of the kernel describes it)."""

    def __init__(self):
        self.entries = {}

    def add_dir(self, path):
        path = path.strip("/")
        if not path or path in self.entries:
            return
        self.add_dir(os.path.dirname(path))
        self.entries[path] = (stat.S_IFDIR | 0o755, b"")

    def add(self, path, data, mode=0o644):
        path = path.strip("/")
        self.add_dir(os.path.dirname(path))
        self.entries[path] = (stat.S_IFREG | mode, data)

    def add_link(self, path, target):
        path = path.strip("/")
        self.add_dir(os.path.dirname(path))
        self.entries.setdefault(path, (stat.S_IFLNK | 0o777, target.encode()))

    def add_program(self, program, at):
        """A host program with its libraries, each library at its own path."""
        self.add(at, Path(program).read_bytes(), 0o755)
        for lib in libraries(program):
            self.add(lib, Path(lib).read_bytes(), 0o755)

    def write(self, out):
        for number, (path, (mode, data)) in enumerate(self.entries.items(), 1):
            self._record(out, number, path, mode, data)
        self._record(out, 0, "TRAILER!!!", 0, b"")

    @staticmethod
    def _record(out, inode, path, mode, data):
        name = path.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % f for f in fields) + name
        out.write(head + b"\0" * (-len(head) % 4))
        out.write(data)
        out.write(b"\0" * (-len(data) % 4))


def extract_vmlinux(bzimage):
    """The ELF kernel inside a bzImage. Offsets are those of the x86 boot protocol:
    setup_sects at 0x1f1, payload_offset at 0x248, payload_length at 0x24c."""
    setup_sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = bzimage[start:start + length]
    if payload.startswith(b"\xfd7zXZ"):
        elf = lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(payload)
    else:
        for magic, command in ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"),
                               (b"\x02\x21\x4c\x18", "lz4")):
            if payload.startswith(magic):
                elf = subprocess.run([command, "-dc"], input=payload, stdout=subprocess.PIPE,
                                     stderr=subprocess.DEVNULL, check=False).stdout
                break
        else:
            raise Unavailable(f"unknown kernel compression {payload[:6].hex()}")
    if elf[:4] != b"\x7fELF":
        raise Unavailable("the kernel's payload is not an ELF file")
    return elf


def read_kernel_packages(debs):
    """(vmlinuz bytes, {module name: (path below lib/modules, bytes)}) out of kernel packages."""
    vmlinuz, modules = None, {}
    for deb in debs:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as dpkg:
            archive = tarfile.open(fileobj=dpkg.stdout, mode="r|")
            for member in archive:
                name = member.name.lstrip("./")
                if member.isfile() and os.path.basename(name).startswith("vmlinuz"):
                    vmlinuz = archive.extractfile(member).read()
                m = re.match(r"(?:usr/)?lib/modules/([^/]+/(kernel/.*)/([^/]+)\.ko)(\.\w+)?$", name)
                if m and MODULE_FOLDERS.match(f"{m[2]}/{m[3]}"):
                    data = archive.extractfile(member).read()
                    modules[m[3].replace("-", "_")] = (m[1], uncompressed(data))
        if dpkg.returncode:
            raise Unavailable(f"{deb} cannot be unpacked; remove it and run again")
    if vmlinuz is None or not modules:
        raise Unavailable(f"no kernel in {', '.join(map(str, debs))}")
    return vmlinuz, modules


def uncompressed(module):
    if module.startswith(b"\xfd7zXZ"):
        return lzma.decompress(module)
    if module.startswith(b"\x28\xb5\x2f\xfd"):
        return subprocess.run(["zstd", "-dcq"], input=module, stdout=subprocess.PIPE,
                              check=True).stdout
    return module


def module_depends(data):
    """Names a module depends on, out of its .modinfo section."""
    m = re.search(rb"\0depends=([^\0]*)\0", data)
    return m[1].decode().replace("-", "_").split(",") if m and m[1] else []


def add_modules(cpio, modules):
    """Put MODULES and their closure into `cpio`, with the modules.dep that modprobe reads."""
    wanted, closure = [m for m in MODULES if m in modules], {}
    while wanted:
        name = wanted.pop()
        if name not in closure:
            if name not in modules:
                raise Unavailable(f"kernel module {name} is needed but not in MODULE_FOLDERS")
            closure[name] = module_depends(modules[name][1])
            wanted += closure[name]

    def below(name, seen):
        for dep in closure[name]:
            if dep not in seen:
                below(dep, seen)
                seen.append(dep)
        return seen

    lines, version = [], None
    for name in sorted(closure):
        path, data = modules[name]
        version = path.split("/", 1)[0]
        cpio.add(f"lib/modules/{path}", data)
        deps = [modules[d][0].split("/", 1)[1] for d in reversed(below(name, []))]
        lines.append(f"{path.split('/', 1)[1]}: {' '.join(deps)}\n")
    cpio.add(f"lib/modules/{version}/modules.dep", "".join(lines).encode())


def build_base(modules):
    cpio = Cpio()
    for folder in ("dev", "proc", "sys", "tmp", "run", "mnt", "root", "sbin", "var/lib"):
        cpio.add_dir(folder)
    cpio.add_link("var/run", "/run")
    busybox = which("busybox")
    if not is_static(busybox):
        raise Unavailable("busybox must be the static one: apt-get install busybox-static")
    cpio.add("bin/busybox", Path(busybox).read_bytes(), 0o755)
    for program in TOOLS:
        cpio.add_program(which(program), "/bin/" + program)
    applets = subprocess.run([busybox, "--list"], stdout=subprocess.PIPE, text=True, check=True)
    for applet in applets.stdout.split():
        cpio.add_link(f"bin/{applet}", "busybox")
    cpio.add_link("sbin/modprobe", "/bin/busybox")
    cpio.add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    cpio.add("etc/group", b"root:x:0:\n")
    for path, text in identity(HOST_ID).items():
        cpio.add(path, text)
    cpio.add("init", (HERE / "guest-init").read_bytes(), 0o755)
    cpio.add("bin/guest-agent", (HERE / "guest-agent").read_bytes(), 0o755)
    add_modules(cpio, modules)
    return cpio


def fingerprint(debs):
    """Changes whenever anything does that goes into vmlinux or base.cpio."""
    h = hashlib.sha256()
    for own in ("image.py", "guest-init", "guest-agent"):
        h.update((HERE / own).read_bytes())
    for path in (*debs, which("busybox"), *(which(t) for t in TOOLS)):
        st = os.stat(path)
        h.update(f"{path} {st.st_size} {st.st_mtime_ns}\n".encode())
    return h.hexdigest()


def prepare(kernel, log=lambda text: None):
    """Folder with `vmlinux' and `base.cpio' of `kernel' (a key of KERNELS); fetches and builds what
    the cache lacks. Raises Unavailable."""
    packages = missing_packages()
    if packages:
        raise Unavailable("programs are missing: apt-get install --no-install-recommends "
                          + " ".join(packages))
    cache = cache_dir()
    folder = cache / "image" / kernel
    folder.mkdir(parents=True, exist_ok=True)
    if not any((cache / "deb" / kernel).glob("*.deb")):
        fetch = subprocess.run([HERE / "fetch", kernel], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, check=False)
        if fetch.returncode:
            raise Unavailable(fetch.stdout.strip() or "fetch failed")
    debs = sorted((cache / "deb" / kernel).glob("*.deb"))
    mark, stamp = fingerprint(debs), folder / "stamp"
    with open(folder / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == mark:
            return folder
        log(f"building the guest image of {kernel}")
        stamp.unlink(missing_ok=True)
        vmlinuz, modules = read_kernel_packages(debs)
        (folder / "vmlinux").write_bytes(extract_vmlinux(vmlinuz))
        with open(folder / "base.cpio", "wb") as out:
            build_base(modules).write(out)
        stamp.write_text(mark)
    return folder


def overlay(programs=None, files=None):
    """Bytes of a cpio to append to base.cpio: `programs' maps guest paths to programs here, which
    bring their libraries, `files' maps guest paths to bytes."""
    cpio, out = Cpio(), io.BytesIO()
    for path, program in (programs or {}).items():
        cpio.add_program(str(program), path)
    for path, data in (files or {}).items():
        cpio.add(path, data)
    cpio.write(out)
    return out.getvalue()
