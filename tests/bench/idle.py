#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""idle.py - what an exported volume costs while its host does nothing.

Starts `ashlar export`, measures how long it takes from exec to a listening port, connects a host
with an admin and an I/O queue that only keeps itself alive, and reads the processor time of the
engine's threads over an interval (60 s; --time shortens it), and its resident memory.
"""
import argparse
import os
import pathlib
import select
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "integration"))
import nvmetcp  # noqa: E402  (found through the path set above)

ASHLAR = os.environ.get("ASHLAR", "build/ashlar")
KEEP_ALIVE = 0x18
KEEP_ALIVE_S = 5  # what Linux uses by default
START_LIMIT_S = 10


def cpu_ns(pid):
    """Processor time of all threads so far (Linux, Documentation/scheduler/sched-stats.rst)."""
    return sum(int(task.joinpath("schedstat").read_text().split()[0])
               for task in pathlib.Path(f"/proc/{pid}/task").iterdir())


def resident_kib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("no VmRSS")


def wait_for_port(process, port_file, started):
    """The port and the milliseconds until a connection was accepted by the kernel."""
    while time.monotonic() - started < START_LIMIT_S:
        if process.poll() is not None:
            sys.exit(f"export ended with {process.returncode}")
        try:
            port = int(port_file.read_text().strip().rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port)):
                return port, (time.monotonic() - started) * 1e3
        except (OSError, ValueError):
            continue  # not there yet: look again at once, the time is what is measured
    sys.exit("export did not listen in time")


def stay_idle(host, seconds):
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        host.admin.command(nvmetcp.sqe(KEEP_ALIVE))
        readable, _, _ = select.select([host.admin.sock], [], [], min(left, KEEP_ALIVE_S))
        if readable:
            sys.exit("the target spoke to an idle host")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--time", type=float, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        port_file = pathlib.Path(folder, "port")
        started = time.monotonic()
        process = subprocess.Popen(
            [ASHLAR, "export", "malloc:///m0?size_mb=256&blk_size=4096", "--listen", "127.0.0.1:0",
             "--nqn", nvmetcp.NQN, "--port-file", str(port_file)], stdout=subprocess.DEVNULL)
        try:
            port, listening_ms = wait_for_port(process, port_file, started)
            with nvmetcp.Host(port, kato_ms=KEEP_ALIVE_S * 3000) as host:
                host.queue(1)
                before = cpu_ns(process.pid)
                stay_idle(host, options.time)
                share = (cpu_ns(process.pid) - before) / (options.time * 1e9) * 100
                resident = resident_kib(process.pid) / 1024
        finally:
            process.terminate()
            process.wait()
    print(f"claim idle-listening value={listening_ms:.1f} unit=ms target=<=:100 from exec")
    print(f"claim idle-cpu value={share:.3f} unit=% target=<=:0.3 of one core")
    print(f"claim idle-memory value={resident:.1f} unit=MiB target=<=:48 resident")


if __name__ == "__main__":
    main()
