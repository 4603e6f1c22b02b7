# SPDX-License-Identifier: Apache-2.0
"""`ashlar bench`: figures that add up, and verification that tells every kind of damage apart."""

import json
import re
import signal

import pytest

NULL = "null:///n?size_mb=64&blk_size=4096"
MEMORY = "malloc:///mi?size_mb=16&blk_size=4096"
BLOCK = 4096
BLOCKS = 256


def test_json_has_the_promised_fields(ashlar):
    got = ashlar.json("bench", NULL, "--time", "0.3")
    assert got["iops"] > 0 and got["errors"] == 0
    assert got["bytes_per_s"] == pytest.approx(got["iops"] * BLOCK, rel=1e-6)
    assert set(got["lat_ns"]) == {"mean", "p50", "p99", "p999", "max"}
    assert got["lat_ns"]["p50"] <= got["lat_ns"]["p99"] <= got["lat_ns"]["p999"]
    assert got["lat_ns"]["p999"] <= got["lat_ns"]["max"]
    assert 0 < got["cpu_ns_per_io"] < 10000
    assert got["reads"] > 0 and got["writes"] == 0
    assert 0.3 <= got["seconds"] < 2  # a busy machine stops late
    assert got["config"]["qd"] == 32 and got["config"]["bs"] == BLOCK


@pytest.mark.parametrize("mode, reads, writes", [
    ("randread", 1000, 0), ("read", 1000, 0), ("randwrite", 0, 1000), ("write", 0, 1000),
])
def test_ops_are_counted_exactly(ashlar, mode, reads, writes):
    got = ashlar.json("bench", NULL, "--rw", mode, "--ops", "1000")
    assert (got["reads"], got["writes"]) == (reads, writes)


def test_mix_of_reads_and_writes(ashlar):
    got = ashlar.json("bench", NULL, "--rw", "randrw", "--rwmix", "25", "--ops", "40000")
    assert got["reads"] + got["writes"] == 40000
    assert got["reads"] / 40000 == pytest.approx(0.25, abs=0.02)


def test_several_devices_are_told_apart_and_added(ashlar):
    got = ashlar.json("bench", "null:///a?size_mb=8", "malloc:///b?size_mb=8", "--ops", "5001")
    assert [d["uri"] for d in got["devices"]] == ["null:///a?size_mb=8", "malloc:///b?size_mb=8"]
    assert [d["reads"] for d in got["devices"]] == [2501, 2500]
    assert got["reads"] == 5001


def test_rate_is_kept(ashlar):
    got = ashlar.json("bench", NULL, "--rate", "2000", "--time", "1")
    assert got["iops"] == pytest.approx(2000, rel=0.1)


def test_interrupt_reports_what_was_measured(ashlar):
    process = ashlar.start("bench", NULL, "--time", "60", "--rate", "100")
    with pytest.raises(Exception):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "(interrupted)" in out


class Disk:
    """A file that a verifying benchmark has written once, every block of it."""

    def __init__(self, ashlar, name="disk"):
        self.ashlar = ashlar
        self.path = ashlar.file(name, BLOCKS * BLOCK)
        self.uri = f"aio://{self.path}?blk_size={BLOCK}"
        self.state = ashlar.dir / f"{name}.gen"
        self.write()

    def write(self, count=BLOCKS):
        got = self.ashlar.json("bench", self.uri, "--rw", "write", "--ops", count, "--verify",
                               "--state", self.state)
        assert got["verify"]["bad_blocks"] == 0
        assert got["verify"]["checked_blocks"] >= count
        return got

    def read(self, status):
        """What the pass over all blocks finds (the one read before it is of block 0)."""
        return self.ashlar.json("bench", self.uri, "--rw", "read", "--ops", "1", "--verify",
                                "--state", self.state, status=status)

    def block(self, number):
        with self.path.open("rb") as file:
            file.seek(number * BLOCK)
            return file.read(BLOCK)

    def put(self, number, data, offset=0):
        with self.path.open("r+b") as file:
            file.seek(number * BLOCK + offset)
            file.write(data)


@pytest.fixture
def disk(ashlar):
    return Disk(ashlar)


def found(got):
    names = ("misplaced", "stale", "future", "foreign", "zero", "corrupt")
    return {name: got["verify"][name] for name in names if got["verify"][name]}


def test_sound_data_passes(disk):
    got = disk.read(status=0)
    assert got["verify"]["checked_blocks"] == BLOCKS + 1
    assert found(got) == {} and got["failures"] == []


def test_garbage_is_corrupt(disk):
    disk.put(7, b"garbage", offset=100)
    got = disk.read(status=1)
    assert found(got) == {"corrupt": 1}
    assert disk.uri in got["failures"][0] and "block 7 " in got["failures"][0]


def test_swapped_blocks_are_misplaced(disk):
    ten, twenty = disk.block(10), disk.block(20)
    disk.put(10, twenty)
    disk.put(20, ten)
    got = disk.read(status=1)
    assert found(got) == {"misplaced": 2}
    text = "\n".join(got["failures"])
    assert "block 10 " in text and "block 20" in text


def test_an_old_copy_is_stale(disk):
    old = disk.block(30)
    disk.write()
    assert disk.block(30) != old
    disk.put(30, old)
    got = disk.read(status=1)
    assert found(got) == {"stale": 1}
    assert "block 30 " in got["failures"][0]


def test_data_of_another_run_is_foreign(disk, ashlar):
    other = Disk(ashlar, "other")
    disk.put(40, other.block(40))
    assert found(disk.read(status=1)) == {"foreign": 1}


def test_a_hole_is_zero(disk):
    disk.put(50, bytes(BLOCK))
    assert found(disk.read(status=1)) == {"zero": 1}


def test_a_lost_generation_table_is_noticed(disk):
    disk.state.write_bytes(disk.state.read_bytes()[:-1] + b"!")
    done = disk.ashlar("bench", disk.uri, "--rw", "read", "--verify", "--state", disk.state)
    assert done.returncode == 1 and "check sum" in done.stderr
    disk.state.unlink()
    done = disk.ashlar("bench", disk.uri, "--rw", "read", "--verify", "--state", disk.state)
    assert done.returncode == 1 and "there is no such file" in done.stderr


def test_every_kind_is_told_in_text(disk):
    disk.put(1, b"x", offset=2000)
    done = disk.ashlar("bench", disk.uri, "--rw", "read", "--ops", "1", "--verify", "--state",
                       disk.state)
    assert done.returncode == 1
    assert "1 corrupt" in done.stdout and "block 1 " in done.stderr


@pytest.mark.parametrize("uri", ["malloc:///m?size_mb=8", "malloc:///m?size_mb=8&blk_size=4096"])
@pytest.mark.parametrize("bs", ["4k", "64k"])
def test_random_mix_verifies(ashlar, uri, bs):
    got = ashlar.json("bench", uri, "--rw", "randrw", "--verify", "--bs", bs, "--ops", "3000")
    assert got["verify"]["bad_blocks"] == 0 and got["errors"] == 0
    assert got["verify"]["checked_blocks"] > 0


def test_a_device_that_forgets_is_caught(ashlar):
    done = ashlar("bench", "null:///n?size_mb=1", "--rw", "randwrite", "--ops", "10", "--verify")
    assert done.returncode == 1
    wrong = re.search(r"^verified: \d+ blocks, (\d+) WRONG: \d+ [a-z]+", done.stdout, re.M)
    assert wrong and done.stdout.splitlines()[1].split()[-1] == wrong[1]


@pytest.mark.parametrize("fault, kinds", [
    ("op=write&method=drop&retries=50", {"zero", "stale"}),
    ("op=read&method=corrupt&retries=5", {"corrupt"}),
    ("op=read&method=data&retries=5", {"corrupt"}),
])
def test_faults_are_caught_by_verification(ashlar, fault, kinds):
    got = ashlar.json("bench", "malloc:///m?size_mb=8", "--rw", "randwrite", "--ops", "1000",
                      "--verify", "--inject", f"inject://m?{fault}", status=1)
    assert got["errors"] == 0
    assert found(got) and set(found(got)) <= kinds


def test_errors_are_counted_and_told(ashlar):
    done = ashlar("bench", "malloc:///m?size_mb=8", "--rw", "write", "--ops", "100", "--inject",
                  "inject://m?op=write&method=status&offset=80&num_blk=1")
    assert done.returncode == 1
    assert "write of 8 blocks at block 80: " in done.stderr


def test_requests_that_failed_are_no_throughput(ashlar):
    """A device that refuses at once would be the fastest of all."""
    got = ashlar.json("bench", "malloc:///m?size_mb=8", "--rw", "randwrite", "--ops", "1000",
                      "--inject", "inject://m?op=write&retries=30", status=1)
    assert got["writes"] == 970 and got["errors"] == 30
    got = ashlar.json("bench", "malloc:///m?size_mb=8", "--ops", "1000", "--inject",
                      "inject://m?op=read", status=1)
    assert got["iops"] == 0 and got["bytes_per_s"] == 0 and got["errors"] == 1000
    assert got["lat_ns"]["max"] == 0 and got["cpu_ns_per_io"] > 0


def test_a_failed_write_may_have_happened_or_not(ashlar):
    got = ashlar.json("bench", "malloc:///m?size_mb=1", "--rw", "randwrite", "--bs", "64k", "--ops",
                      "200", "--verify", "--inject", "inject://m?op=write&retries=20", status=1)
    assert got["errors"] == 20 and got["verify"]["bad_blocks"] == 0


def test_writes_that_fail_again_and_again_but_arrive(ashlar):
    """A unit may fail several times in a row: what arrived of it is known to verification."""
    got = ashlar.json("bench", "malloc:///m?size_mb=1", "--rw", "randrw", "--ops", "20000",
                      "--verify", "--inject",
                      "inject://m?op=write&stage=compl&method=status&probability=0.5", status=1)
    assert got["errors"] > 1000 and got["verify"]["checked_blocks"] > 0
    assert got["verify"]["bad_blocks"] == 0


def test_two_cores_verify(ashlar):
    got = ashlar.json("bench", "malloc:///m?size_mb=8", "null:///n?size_mb=8", "--cores", "0x3",
                      "--ops", "2000")
    assert got["reads"] == 2000 and got["config"]["cores"] == 2
    got = ashlar.json("bench", "malloc:///m?size_mb=8", "--cores", "0x3", "--rw", "randrw",
                      "--ops", "4000", "--verify")
    assert got["verify"]["bad_blocks"] == 0 and got["verify"]["checked_blocks"] > 0


def test_fill_writes_everything_before(ashlar):
    path = ashlar.file("disk", 1 << 20)
    got = ashlar.json("bench", f"aio://{path}", "--fill", "--ops", "10")
    assert (got["reads"], got["writes"]) == (10, 0)
    data = path.read_bytes()
    assert all(any(data[i:i + 512]) for i in range(0, len(data), 512))
    got = ashlar.json("bench", "malloc:///m?size_mb=1", "--fill", "--verify", "--ops", "10")
    assert got["verify"]["checked_blocks"] == 2048 + 80


def test_intervals_add_up_to_the_run(ashlar):
    done = ashlar("bench", MEMORY, "--rw", "randwrite", "--fill", "--time", "1",
                  "--interval", "0.2", "--json")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n{\n", 1)
    seen = [json.loads(line)["interval"] for line in lines[0].splitlines()]
    result = json.loads("{" + lines[1])
    assert 2 <= len(seen) <= 5
    ends = [0] + [i["end_s"] for i in seen]
    assert all(b - a > 0.19 for a, b in zip(ends, ends[1:]))
    ops = sum(i["iops"] * (b - a) for i, a, b in zip(seen, ends, ends[1:]))
    assert 0 < ops <= result["writes"] * 1.001  # what --fill wrote is not among them
    assert all(0 < i["p50_ns"] <= i["p99_ns"] and i["errors"] == 0 for i in seen)


def test_an_interval_without_requests_is_told(ashlar):
    done = ashlar("bench", MEMORY, "--time", "1", "--interval", "0.2", "--inject",
                  "inject://mi?op=read&method=delay&delay_us=600000&retries=1000")
    assert "  0.00 IOPS" in done.stdout or "  0 IOPS" in done.stdout, done.stdout + done.stderr
