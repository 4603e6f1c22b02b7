# SPDX-License-Identifier: Apache-2.0
"""`ashlar export`: start and stop, what it prints, the control socket, resize, limits."""

import json
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import threading
import time
from urllib.parse import quote

import pytest
from conftest import ASHLAR, wait_until
from nvmetcp import FLUSH, HOSTNQN, Host, NvmeError, sqe

MIB = 1 << 20
NQN = "nqn.2019-05.io.openebs:export-test"
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Export:
    """A running export with two namespaces: a file and memory."""

    def __init__(self, ashlar, *words, uris=None, nqn=NQN):
        self.ashlar = ashlar
        self.disk = ashlar.file("disk", 16 * MIB)
        self.control = ashlar.dir / "control"
        self.port_file = ashlar.dir / "port"
        self.port_file.unlink(missing_ok=True)
        self.uris = uris or [f"aio://{self.disk}?blk_size=512",
                             "malloc:///m?size_mb=8&blk_size=4096"]
        words = list(words) + (["--nqn", nqn] if nqn else [])
        if "--listen" not in words:
            words += ["--listen", "127.0.0.1:0"]
        self.started_s = time.monotonic()
        self.process = ashlar.start("export", *self.uris, "--control", self.control,
                                    "--port-file", self.port_file, *words)
        wait_until(lambda: self.port_file.exists() or self.process.poll() is not None,
                   what="the port file")
        assert self.process.poll() is None, self.process.communicate()
        self.ready_s = time.monotonic() - self.started_s
        self.port = int(self.port_file.read_text())
        wait_until(self.control.exists, what="the control socket")

    def __call__(self, *lines):
        """Answers to command lines, in order."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect(str(self.control))
            s.sendall("".join(line + "\n" for line in lines).encode())
            s.shutdown(socket.SHUT_WR)
            answer = b""
            while more := s.recv(65536):
                answer += more
        return answer.decode().splitlines()

    def one(self, line):
        answers = self(line)
        assert len(answers) == 1
        return answers[0]

    def ok(self, line):
        answer = self.one(line)
        assert answer.split(" ")[0] == "ok", answer
        return answer[3:]

    def blocks(self, nsid):
        return {ns["nsid"]: ns["blocks"] for ns in json.loads(self.ok("list"))}[nsid]

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err

    def cpu_ticks(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            words = stat.read().rsplit(")", 1)[1].split()
        return int(words[11]) + int(words[12])

    def rss(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+) kB", status.read())[1]) * 1024


@pytest.fixture
def export(ashlar):
    return Export(ashlar)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_start_tell_stop(export, how):
    status, out, err = export.stop(how)
    assert status == 0, err
    assert f"listening on 127.0.0.1:{export.port}\n" in out
    assert f"nvme connect -t tcp -a 127.0.0.1 -s {export.port} -n {NQN}\n" in out
    assert "namespace 1: aio://" in out and "namespace 2: malloc://" in out
    assert not export.control.exists() and not export.port_file.exists()


def test_a_host_reads_and_writes_both_namespaces(export):
    data = os.urandom(4096)
    with Host(export.port, NQN) as host:
        queue = host.queue(1)
        queue.write(1, 8, data)
        queue.write(2, 1, data, bs=4096)
        queue.flush(1)
        assert queue.read(2, 1, 1, bs=4096) == data
        stats = json.loads(export.ok("stats"))
        assert stats["controllers"] == 1 and stats["connections"] == 2
        assert stats["namespaces"][0]["write"]["bytes"] == 4096
    assert export.disk.read_bytes()[4096:8192] == data


def test_name_after_the_first_device(ashlar):
    export = Export(ashlar, nqn=None)
    assert f"-n nqn.2019-05.io.openebs:{export.disk}\n" in export.stop()[1]


def test_only_allowed_hosts(ashlar):
    friend = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-0000000000aa"
    export = Export(ashlar, "--allow-host", friend)
    with Host(export.port, NQN, hostnqn=friend):
        pass
    with pytest.raises(NvmeError):
        Host(export.port, NQN)


def test_hosts_change_while_it_runs(ashlar):
    export = Export(ashlar)
    friend = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-0000000000aa"
    assert json.loads(export.ok("hosts")) == {"any": True, "hosts": []}
    with Host(export.port, NQN) as host, Host(export.port, NQN, hostnqn=friend) as other:
        export.ok(f"host-add {friend}")
        host.admin.expect_end()
        assert json.loads(export.ok("hosts")) == {"any": False, "hosts": [friend]}
        other.queue(1)
        listed = json.loads(export.ok("controllers"))
        assert listed == [{"cntlid": other.cntlid, "host": friend,
                           "listener": f"127.0.0.1:{export.port}", "io_queues": 1, "kato_ms": 0,
                           "closing": False}]
        export.ok(f"host-del {friend}")
        other.admin.expect_end()
        assert json.loads(export.ok("stats"))["connection_bytes"] == 0
        with pytest.raises(NvmeError):
            Host(export.port, NQN, hostnqn=friend)
    export.ok("host-add any")
    with Host(export.port, NQN) as host:
        assert export.ok(f"disconnect {host.cntlid}") == "controllers=1"
        host.admin.expect_end()
    with Host(export.port, NQN, hostnqn=friend) as host:
        assert export.ok(f"disconnect {friend} force") == "controllers=1"
        host.admin.expect_end()
    assert json.loads(export.ok("controllers")) == []


def test_paths(ashlar):
    export = Export(ashlar, "--ana", "--ana-state", "inaccessible", "--cntlid-range", "40-41",
                    "--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--crdt", "7")
    paths = json.loads(export.ok("ana"))
    assert [p["state"] for p in paths] == ["inaccessible"] * 2
    assert paths[0]["listener"] == f"127.0.0.1:{export.port}"
    with Host(export.port, NQN) as host:
        assert host.cntlid == 40
        assert host.admin.identify(1)[128:134] == b"\7\0" * 3
        queue = host.queue(1)
        with pytest.raises(NvmeError) as failed:
            queue.read(1, 0, 1)
        assert failed.value.status == 0x302
        export.ok("ana optimized 0")
        queue.read(1, 0, 1)
        export.ok(f"ana non-optimized {paths[1]['listener']}")
    assert [p["state"] for p in json.loads(export.ok("ana"))] == ["optimized", "non-optimized"]
    export.ok("ana change")
    assert [p["state"] for p in json.loads(export.ok("ana"))] == ["change"] * 2


def test_limits(ashlar):
    export = Export(ashlar, "--limit", "connections=3", "--limit", "connections-per-host=2",
                    "--limit", "connections-per-subsystem=3", "--limit", "hosts=1", "--limit",
                    "memory=8MiB", "--limit", "connect-time=500ms", "--limit", "idle-time=1s")
    with Host(export.port, NQN) as host:
        host.queue(1)
        with pytest.raises(NvmeError):
            host.queue(2)
        stats = json.loads(export.ok("stats"))
        assert stats["connects_refused"] == 1
        assert 0 < stats["connection_bytes"] <= stats["connection_bytes_peak"] < 8 * MIB
        assert stats["connection_bytes_each"] > 128 * 4096
        wait_until(lambda: json.loads(export.ok("stats"))["idle_timeouts"] == 1, what="idleness")
        host.admin.expect_end()
    export.ok(f"host-add {HOSTNQN}")
    assert "hosts_max" in export.one(f"host-add {HOSTNQN}x")


def test_ipv6_and_several_listeners(ashlar):
    export = Export(ashlar, "--listen", "[::1]:0", "--listen", "127.0.0.1:0")
    with Host(export.port, NQN, host="::1"):
        pass
    _, out, _ = export.stop()
    assert f"listening on [::1]:{export.port}\n" in out
    assert f"-a ::1 -s {export.port} " in out
    assert out.count("listening on ") == 2


def test_a_port_in_use_is_told(ashlar, export):
    done = ashlar("export", "null:///n?size_mb=1", "--listen", f"127.0.0.1:{export.port}")
    assert done.returncode == 1
    assert str(export.port) in done.stderr and "port 0" in done.stderr


def test_hosts_wait_for_what_is_being_made(ashlar, tmp_path):
    """The port is taken before a device is touched; who connects early sees all namespaces."""
    replica = Export(ashlar, uris=["malloc:///far?size_mb=8&blk_size=4096"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    replica.process.send_signal(signal.SIGSTOP)
    control, reached, sizes = tmp_path / "second", [], {1: 4096, 2: 512}
    ashlar.start("export", f"nvmf://127.0.0.1:{replica.port}/{NQN}", "null:///n?size_mb=1", "--nqn",
                 NQN + "2", "--listen", f"127.0.0.1:{port}", "--control", control)

    def knock():
        with Host(port, NQN + "2") as host:
            queue = host.queue(1)
            reached.extend(len(queue.read(nsid, 0, 1, bs=size)) for nsid, size in sizes.items())
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(20)
        wait_until(control.exists, what="the control socket")
        asking.connect(str(control))
        asking.sendall(b"list\n")
        host = threading.Thread(target=knock)
        host.start()
        try:
            host.join(0.3)
            assert host.is_alive() and not reached  # let in by nobody yet, and not refused
        finally:
            replica.process.send_signal(signal.SIGCONT)
        host.join(20)
        assert reached == [4096, 512]
        assert [ns["nsid"] for ns in json.loads(asking.recv(65536)[3:])] == [1, 2]


def test_a_file_that_is_served_is_locked(ashlar, export):
    done = ashlar("bench", export.uris[0], "--rw", "randwrite", "--ops", "1")
    assert done.returncode == 1 and "disk" in done.stderr


def test_rescan_by_command_and_by_signal(export):
    os.truncate(export.disk, 20 * MIB)
    export.ok("rescan")
    assert export.blocks(1) == 20 * MIB // 512
    os.truncate(export.disk, 24 * MIB)
    export.process.send_signal(signal.SIGHUP)
    wait_until(lambda: export.blocks(1) == 24 * MIB // 512, what="the new size")
    assert "size changed nsid=1" in export.stop()[2]


def test_add_and_remove(ashlar, export):
    second = ashlar.file("second", MIB)
    assert export.ok(f"add uring://{second}") == "nsid=3"
    with Host(export.port, NQN) as host:
        queue = host.queue(1)
        queue.write(3, 0, b"x" * 512)
        export.ok("remove 3")
        with pytest.raises(NvmeError):
            queue.read(3, 0, 1)
        assert queue.read(1, 0, 1) == bytes(512)
    assert second.read_bytes()[:512] == b"x" * 512
    assert export.ok(f"add uring://{second}") == "nsid=3"


def test_adding_what_is_served_harms_nobody(export):
    """`resize` and `rescan` give the device that exists; that it cannot be added twice is no
    reason to destroy it."""
    data = os.urandom(4096)
    with Host(export.port, NQN) as host:
        queue = host.queue(1)
        queue.write(1, 0, data)
        queue.write(2, 0, data, bs=4096)
        for uri in (f"aio://{export.disk}?rescan", "malloc:///m?size_mb=8&blk_size=4096&resize",
                    "bdev:///m"):
            assert export.one(f"add {uri}").startswith("error "), uri
        assert queue.read(1, 0, 8) == data
        assert queue.read(2, 0, 1, bs=4096) == data
    assert {ns["nsid"] for ns in json.loads(export.ok("list"))} == {1, 2}


def test_a_device_goes_with_its_base(ashlar):
    ashlar.env["MALLOC_PERTURB_"] = "90"  # what is freed is not to be read as if it were there
    export = Export(ashlar, uris=["malloc:///m?size_mb=8", "passthru:///p?base=m"])
    export.ok("remove 1")
    wait_until(lambda: json.loads(export.ok("list")) == [], what="an empty list")
    export.ok("stats")
    export.ok("rescan")
    assert export.one("remove 2").startswith("error ")
    assert export.ok("add malloc:///m?size_mb=8") == "nsid=1"
    status, _, err = export.stop()
    assert status == 0, err


def test_pause_holds_io(export):
    with Host(export.port, NQN) as host:
        queue = host.queue(1)
        export.ok("pause")
        cid = queue.submit(sqe(FLUSH, nsid=1))
        queue.sock.settimeout(0.3)
        with pytest.raises((TimeoutError, socket.timeout)):
            queue.wait(cid)
        queue.sock.settimeout(10)
        export.ok("resume")
        queue.wait(cid)
    assert export.one("resume").startswith("error it is not paused")


def test_faults_are_armed_and_disarmed(export):
    fault = f"inject://{export.disk}?op=read&method=status"
    with Host(export.port, NQN) as host:
        queue = host.queue(1)
        queue.read(1, 0, 1)
        export.ok(f"inject {fault}")
        with pytest.raises(NvmeError):
            queue.read(1, 0, 1)
        export.ok(f"uninject {fault}")
        queue.read(1, 0, 1)


@pytest.mark.parametrize("line, says", [
    ("quark", "unknown command 'quark'"),
    ("", "unknown command"),
    ("add", "add URI"),
    ("add nope:///x", "unknown scheme"),
    ("add malloc:///m?size_mb=8", "exists"),
    ("remove 9", "no namespace 9"),
    ("remove x", "not a number"),
    ("remove 0", "1 to"),
    ("list all", "takes no argument"),
    ("inject inject:///no?op=quark", "quark"),
    ("uninject inject:///no", "not armed"),
    ("resume", "not paused"),
    ("ana inaccessible", "start the export with --ana"),
    ("ana sideways", "persistent-loss"),
    ("ana optimized 7", "no listener '7'"),
    ("host-add quark", "NVMe qualified name"),
    ("host-del nqn.x:y", "any host may connect"),
    ("disconnect", "disconnect NQN|CNTLID"),
    ("disconnect x", "neither the NQN"),
    ("disconnect 5 gently", "'gently' is not known"),
    ("disconnect 5", "no controller 5"),
    ("disconnect nqn.x:y force", "not connected"),
])
def test_control_mistakes(export, line, says):
    answer = export.one(line)
    assert answer.startswith("error ") and says in answer
    assert export.one("list").startswith("ok ")


def test_control_serves_several_clients_and_survives_bad_ones(export):
    clients = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for client in clients:
        client.settimeout(20)
        client.connect(str(export.control))
    assert b"too many clients" in clients[-1].recv(100)
    for client in clients[1:]:
        client.close()
    clients[0].sendall(b"x" * 10000)
    assert b"too long" in clients[0].recv(100)
    clients[0].close()
    wait_until(lambda: export.one("help").startswith("ok "), what="an answer")
    assert export("list", "help", "list")[1].startswith('ok [{"verb":"status"')


def test_control_rests_while_there_is_no_descriptor_for_a_client(export):
    """A client that cannot be let in waits; nothing spins meanwhile."""
    pid = export.process.pid
    used = max(int(fd) for fd in os.listdir(f"/proc/{pid}/fd")) + 1
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, limits[1]))
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10)
        s.connect(str(export.control))
        s.sendall(b"list\n")
        before = export.cpu_ticks()
        time.sleep(1)
        assert export.cpu_ticks() - before < 20
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        assert s.recv(65536).startswith(b"ok ")


def test_control_socket_is_the_owners_and_replaced_when_stale(ashlar, export):
    assert os.stat(export.control).st_mode & 0o777 == 0o600
    done = ashlar("export", "null:///n?size_mb=1", "--listen", "127.0.0.1:0", "--control",
                  export.control)
    assert done.returncode == 1 and "another process listens" in done.stderr
    export.stop(signal.SIGKILL)
    assert export.control.exists()
    again = Export(ashlar)
    assert again.blocks(1) == 16 * MIB // 512


def test_bad_device_ends_it(ashlar):
    done = ashlar("export", "null:///n?size_mb=1", "aio:///no/such/file", "--listen",
                  "127.0.0.1:0")
    assert done.returncode == 1 and "no/such/file" in done.stderr
    assert "listening on" not in done.stdout


def test_stop_while_a_host_is_busy(export):
    with Host(export.port, NQN) as host:
        queue = host.queue(1)
        queue.write(1, 0, b"y" * 512)
        export.ok("pause")
        status, _, err = export.stop()
    assert status == 0, err


def test_idle_costs_nothing(export):
    """With a host connected; the bounds are the promised ones, start-up with room for a busy CI."""
    assert export.ready_s < 1.0
    with Host(export.port, NQN, kato_ms=0) as host:
        host.queue(1)
        before, since = export.cpu_ticks(), time.monotonic()
        wait_until(lambda: time.monotonic() - since > 3, what="three seconds")
        used_s = (export.cpu_ticks() - before) * TICK_S
    assert used_s <= 0.01 + TICK_S
    assert export.rss() < 48 * MIB


def test_faults_from_the_start(ashlar):
    export = Export(ashlar, "--inject", "inject://m?op=read")
    with Host(export.port, NQN) as host:
        queue = host.queue(1)
        queue.read(1, 0, 1)
        with pytest.raises(NvmeError):
            queue.read(2, 0, 1, bs=4096)


def test_reservations_are_shown_and_kept(ashlar):
    folder = ashlar.dir / "resv"
    export = Export(ashlar, "--ptpl-dir", folder)
    one, two = json.loads(export.ok("reservations"))
    assert one == {"nsid": 1, "type": "none", "persistent": False, "generation": 0,
                   "registrants": []}
    with Host(export.port, NQN) as host:
        queue = host.queue(1)
        queue.register(1, 0xABC, cptpl=3)
        queue.acquire(1, 1, 0xABC)
        queue.register(2, 0xABC)
    before = json.loads(export.ok("reservations"))
    assert before[0]["type"] == "write exclusive" and before[0]["persistent"]
    assert before[0]["registrants"] == [{"host": "11111111-1111-1111-1111-111111111111",
                                         "key": "0xabc", "holds": True}]
    assert before[1]["registrants"][0]["holds"] is False
    export.process.kill()
    export.process.wait()
    # A file's uuid comes from its path: it is found again. That of memory is made up.
    export = Export(ashlar, "--ptpl-dir", folder)
    after = json.loads(export.ok("reservations"))
    assert after[0] == before[0] | {"generation": 0}
    assert after[1]["registrants"] == []
    export.stop()
    [file] = folder.glob("*.json")
    file.write_text(file.read_text().replace('"type": 1', '"type": 2'))
    status = ashlar("export", *export.uris, "--ptpl-dir", folder, "--listen", "127.0.0.1:0")
    assert status.returncode == 1
    assert str(file) in status.stderr and "remove it if no host" in status.stderr


def test_a_reservation_that_goes_to_and_fro_fills_no_log(export):
    with Host(export.port, NQN) as one, Host(export.port, NQN, hostid=bytes(range(16)),
                                             hostnqn="nqn.2014-08.org.example:two") as two:
        queues = [one.queue(1), two.queue(1)]
        for key, queue in enumerate(queues):
            queue.register(1, key + 1)
        queues[0].acquire(1, 1, 1)
        for turn in range(20):
            mine = (turn + 1) % 2
            queues[mine].preempt(1, 1, mine + 1, 2 - mine)
            queues[1 - mine].register(1, 2 - mine)
    _, _, err = export.stop()
    assert err.count("reservation changed") == 5, err


def test_one_process_keeps_the_reservations_of_a_device(ashlar):
    uri = "malloc:///m?size_mb=1&uuid=12345678-9abc-4def-8012-3456789abcde"
    words = ["--ptpl-dir", ashlar.dir / "resv"]
    export = Export(ashlar, *words, uris=[uri])
    second = ashlar("export", uri, *words, "--listen", "127.0.0.1:0")
    assert second.returncode == 1
    assert "another process serves this device" in second.stderr
    export.process.kill()
    export.process.wait()
    Export(ashlar, *words, uris=[uri]).stop()


# ---- what a person is told -----------------------------------------------------------------------

def test_discover_tells_uris_that_work(ashlar, tmp_path):
    """Also where the name is a path, as it is by default; they stay readable."""
    disk = tmp_path / "a disk.img"
    disk.touch()
    os.truncate(disk, MIB)
    export = Export(ashlar, uris=[f"aio://{quote(str(disk))}"], nqn=None)
    place = f"127.0.0.1:{export.port}"
    listed = json.loads(ashlar("discover", place, "--json").stdout)
    assert listed == json.loads(ashlar("discover", place, "-o", "json").stdout)
    uri = listed["entries"][0]["uri"]
    assert uri.startswith(f"nvmf://{place}/nqn.2019-05.io.openebs:%2F") and "a%20disk" in uri
    assert uri in ashlar("discover", place).stdout
    assert ashlar("bench", uri, "--ops", "10").returncode == 0


def test_discover_says_that_there_is_nothing(ashlar):
    export = Export(ashlar, "--allow-host", "nqn.2026-11.invalid.ashlar:friend")
    place = f"127.0.0.1:{export.port}"
    done = ashlar("discover", place)
    assert done.returncode == 0 and done.stdout == "" and "offers nothing" in done.stderr
    done = ashlar("discover", place, "--hostnqn", "nqn.2026-11.invalid.ashlar:friend")
    assert NQN in done.stdout and done.stderr == ""


def test_what_is_printed_can_be_pasted(ashlar, tmp_path):
    disk = tmp_path / "it's a disk.img"
    disk.touch()
    os.truncate(disk, MIB)
    export = Export(ashlar, "--listen", "[::1]:0", uris=[f"aio://{quote(str(disk))}"], nqn=None)
    uri = json.loads(ashlar("discover", f"[::1]:{export.port}", "--json").stdout)["entries"][0]
    _, out, _ = export.stop()
    words = shlex.split(re.search(r"^connect with: (.*)$", out, re.M)[1])
    assert words[-2:] == ["-n", uri["subsystem"]] and words[5] == "::1"
    assert f"\nor use {uri['uri']}\n" in out


def test_a_device_that_cannot_be_written_is_told(ashlar):
    disk, control = ashlar.file("ro", MIB), ashlar.dir / "control"
    disk.chmod(0o444)
    ordinary = ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []
    front = subprocess.Popen([*ordinary, ASHLAR, "export", f"aio://{disk}", "--nqn", NQN,
                              "--listen", "127.0.0.1:0", "--control", control, "--port-file",
                              ashlar.dir / "port"], text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
    ashlar.started.append(front)
    wait_until(lambda: control.exists() or front.poll() is not None, what="the control socket")
    export = Export.__new__(Export)
    export.control = control
    assert [ns["read_only"] for ns in json.loads(export.ok("list"))] == [True]
    port = (ashlar.dir / "port").read_text().strip()
    done = ashlar("bench", f"nvmf://127.0.0.1:{port}/{NQN}", "--rw", "write", "--ops", "1")
    assert done.returncode == 1 and "its target serves it so" in done.stderr
    front.terminate()
    assert ", read-only\n" in front.communicate(timeout=20)[0]


@pytest.mark.parametrize("words, says", [
    (["--nqn", "nqn.2014-08.org.nvmexpress.discovery"], "the name of discovery itself"),
    (["--limit", "memory=1"], "error: the limit of memory must let one connection in"),
    (["--control", "/dev/null"], "is no socket"),
    (["--control", "/no/such/folder/control"], "the folder has to exist"),
    (["--inject", "m"], "write inject://DEVICE"),
])
def test_refusals_say_what_to_do(ashlar, words, says):
    done = ashlar("export", "malloc:///m?size_mb=1", "--listen", "127.0.0.1:0", *words)
    assert done.returncode in (1, 2) and says in done.stderr
