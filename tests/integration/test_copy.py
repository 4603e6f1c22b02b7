# SPDX-License-Identifier: Apache-2.0
"""`ashlar copy`: holes, sizes, interruption, and what it refuses."""

import filecmp
import json
import os
import random
import signal

import pytest
from conftest import wait_until

MIB = 1 << 20


@pytest.fixture
def source(ashlar):
    """16 MiB with some data between holes."""
    path = ashlar.file("src", 16 * MIB)
    rng = random.Random(7)
    with path.open("r+b") as file:
        for offset in (0, 1 * MIB, 5 * MIB + 4096, 9 * MIB, 16 * MIB - 8192):
            file.seek(offset)
            file.write(rng.randbytes(8192 if offset > 9 * MIB else 300 * 1024))
    return path


def garbage(path, size):
    path.write_bytes(random.Random(8).randbytes(size))
    return path


def allocated(path):
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("scheme_from, scheme_to", [
    ("aio", "aio"), ("uring", "uring"), ("aio", "uring"),
])
def test_file_to_file(ashlar, source, scheme_from, scheme_to):
    target = ashlar.file("dst", 16 * MIB)
    got = ashlar.json("copy", f"{scheme_from}://{source}", f"{scheme_to}://{target}", "--verify")
    assert got["ok"] and got["verify"]["done"] and got["verify"]["differing_chunks"] == 0
    assert got["copied_bytes"] + got["zeroed_bytes"] + got["skipped_bytes"] == 16 * MIB
    assert filecmp.cmp(source, target, shallow=False)


def test_holes_are_skipped_and_stay_holes(ashlar, source):
    if allocated(source) > 4 * MIB:
        pytest.skip("the file system of the temporary directory knows no holes")
    target = ashlar.file("dst", 16 * MIB)
    got = ashlar.json("copy", f"aio://{source}", f"aio://{target}")
    assert got["copied_bytes"] < 3 * MIB
    assert allocated(target) < 4 * MIB


def test_stale_data_under_holes_is_cleared(ashlar, source):
    target = garbage(ashlar.dir / "dst", 16 * MIB)
    got = ashlar.json("copy", f"aio://{source}", f"aio://{target}", "--verify")
    assert got["ok"] and got["zeroed_bytes"] > 0
    assert filecmp.cmp(source, target, shallow=False)


def test_stale_memory_under_holes_is_cleared(ashlar, source):
    """Through a device without holes to ask for: everything is written."""
    target = garbage(ashlar.dir / "dst", 16 * MIB)
    got = ashlar.json("copy", f"aio://{source}?blk_size=512", f"uring://{target}?blk_size=4096",
                      "--verify", "--bs", "64k", "--qd", "3")
    assert got["ok"]
    assert filecmp.cmp(source, target, shallow=False)


def test_larger_destination_keeps_its_tail(ashlar):
    source = garbage(ashlar.dir / "src", 5 * 512)
    target = garbage(ashlar.dir / "dst", 3 * 4096)
    before = target.read_bytes()
    got = ashlar.json("copy", f"aio://{source}?blk_size=512", f"aio://{target}?blk_size=4096",
                      "--verify")
    assert got["ok"] and got["bytes"] == 5 * 512
    after = target.read_bytes()
    assert after[:2560] == source.read_bytes()
    assert after[2560:] == before[2560:]


def test_smaller_destination_is_refused_with_numbers(ashlar, source):
    target = garbage(ashlar.dir / "dst", 4 * MIB)
    before = target.read_bytes()
    done = ashlar("copy", f"aio://{source}", f"aio://{target}")
    assert done.returncode == 1
    assert "too small" in done.stderr
    assert str(16 * MIB) in done.stderr and str(4 * MIB) in done.stderr
    assert target.read_bytes() == before


def test_verify_finds_a_destination_that_lies(ashlar, source):
    done = ashlar("copy", f"aio://{source}", "null:///n?size_mb=16", "--verify")
    assert done.returncode == 1
    assert "differ, first at byte 0 " in done.stderr


def journals(ashlar):
    return list((ashlar.dir / "state").rglob("*.json"))


class Slow:
    """A copy of 8 MiB of data that takes long enough to be interrupted."""

    SIZE = 8 * MIB

    def __init__(self, ashlar):
        self.ashlar = ashlar
        self.source = garbage(ashlar.dir / "src", self.SIZE)
        self.target = ashlar.file("dst", self.SIZE)
        self.words = ["copy", f"aio://{self.source}", f"aio://{self.target}", "--bs", "64k"]

    def position(self):
        found = journals(self.ashlar)
        return json.loads(found[0].read_text())["position"] if found else 0

    def interrupt(self, how):
        process = self.ashlar.start(*self.words, "--rate", "2M")
        wait_until(lambda: self.position() > 0, what="a checkpoint")
        process.send_signal(how)
        _, err = process.communicate(timeout=20)
        position = self.position()
        assert 0 < position < self.SIZE
        return process.returncode, err, position


@pytest.fixture
def slow(ashlar):
    return Slow(ashlar)


def test_resume_after_kill(ashlar, slow):
    _, _, position = slow.interrupt(signal.SIGKILL)
    got = ashlar.json(*slow.words, "--resume", "--verify")
    assert got["resumed_from"] == position
    assert got["copied_bytes"] == slow.SIZE - position
    assert filecmp.cmp(slow.source, slow.target, shallow=False)
    assert journals(ashlar) == []


def test_interrupt_says_how_to_go_on(ashlar, slow):
    status, err, position = slow.interrupt(signal.SIGINT)
    assert status == 1
    assert "--resume" in err and str(position) in err
    assert ashlar.json(*slow.words, "--resume")["resumed_from"] == position
    assert filecmp.cmp(slow.source, slow.target, shallow=False)


def test_json_of_a_failed_copy_says_why(ashlar, source):
    target = ashlar.file("dst", 16 * MIB)
    got = ashlar.json("copy", f"aio://{source}", f"aio://{target}", "--bs", "64k", "--inject",
                      f"inject://{target}?op=write&method=status-lvol-nospace", status=1)
    assert not got["ok"] and "no space" in got["error"] and got["resume_at"] < 16 * MIB


def test_without_resume_it_starts_over(ashlar, slow):
    slow.interrupt(signal.SIGKILL)
    got = ashlar.json(*slow.words)
    assert got["resumed_from"] == 0 and got["copied_bytes"] == slow.SIZE


def test_resume_refuses_changed_data(ashlar, slow):
    slow.interrupt(signal.SIGKILL)
    before = slow.target.read_bytes()
    with slow.source.open("r+b") as file:
        file.write(b"another image")
    done = ashlar(*slow.words, "--resume")
    assert done.returncode == 1
    assert "differ at byte 0" in done.stderr
    assert slow.target.read_bytes() == before


def test_resume_refuses_a_changed_size(ashlar, slow):
    slow.interrupt(signal.SIGKILL)
    os.truncate(slow.source, slow.SIZE - 4096)
    done = ashlar(*slow.words, "--resume")
    assert done.returncode == 1 and "changed its size" in done.stderr


def test_resume_refuses_a_damaged_journal(ashlar, slow):
    _, _, position = slow.interrupt(signal.SIGKILL)
    journal = journals(ashlar)[0]
    journal.write_text(journal.read_text().replace(str(position), str(position + 65536)))
    done = ashlar(*slow.words, "--resume")
    assert done.returncode == 1 and "check sum" in done.stderr


def test_nothing_to_resume(ashlar, source):
    target = ashlar.file("dst", 16 * MIB)
    done = ashlar("copy", f"aio://{source}", f"aio://{target}", "--resume")
    assert done.returncode == 0 and "nothing to resume for these two URIs" in done.stderr
    assert filecmp.cmp(source, target, shallow=False)


def test_journal_where_the_user_wants_it(ashlar, slow):
    place = ashlar.dir / "position"
    slow.words += ["--state", place]
    process = ashlar.start(*slow.words, "--rate", "2M")
    wait_until(place.exists, what="the journal")
    process.kill()
    process.communicate(timeout=20)
    assert journals(ashlar) == []
    assert ashlar.json(*slow.words, "--resume")["resumed_from"] > 0
    assert not place.exists()


@pytest.mark.parametrize("device, op, said", [("src", "read", "read"), ("dst", "write", "write")])
def test_an_error_is_told_and_what_was_done_is_kept(ashlar, slow, device, op, said):
    path = ashlar.dir / device
    first_bad = 6 * MIB
    done = ashlar(*slow.words, "--qd", "1", "--inject",
                  f"inject://{path}?op={op}&offset={first_bad // 512}&num_blk=1")
    assert done.returncode == 1
    assert f"{said} of 65536 bytes at byte {first_bad} failed" in done.stderr
    assert f"--resume goes on at byte {first_bad}" in done.stderr
    assert ashlar.json(*slow.words, "--resume", "--verify")["resumed_from"] == first_bad
    assert filecmp.cmp(slow.source, slow.target, shallow=False)


def test_a_failed_flush_is_a_failed_copy(ashlar, source):
    target = ashlar.file("dst", 16 * MIB)
    done = ashlar("copy", f"aio://{source}", f"aio://{target}", "--inject",
                  f"inject://{target}?op=flush")
    assert done.returncode == 1
    assert "flush failed" in done.stderr


def test_a_write_that_was_lost_is_found(ashlar, slow):
    done = ashlar(*slow.words, "--verify", "--inject",
                  f"inject://{slow.target}?op=write&method=drop&offset={4 * MIB // 512}&num_blk=1")
    assert done.returncode == 1
    assert f"differ, first at byte {4 * MIB} " in done.stderr


def random_disk(rng, path, size):
    """A file of one of several kinds: full, crumbs between holes, written zeroes, one hole."""
    kind = rng.choice(["full", "crumbs", "crumbs", "zeroes", "hole"])
    with path.open("wb") as file:
        file.truncate(size)
        if kind == "full":
            file.write(rng.randbytes(size))
        elif kind == "zeroes":
            file.write(bytes(size))
        elif kind == "crumbs":
            for _ in range(rng.randrange(30)):
                offset = file.seek(rng.randrange(size))
                file.write(rng.randbytes(rng.choice([1, 512, 4096, 70000]))[:size - offset])
    return path.read_bytes()


@pytest.mark.parametrize("seed", range(25))
def test_any_shape_is_copied_exactly(ashlar, seed):
    rng = random.Random(seed)
    block_from, block_to = rng.choice([512, 4096]), rng.choice([512, 1024, 4096])
    size = rng.randrange(block_from, 3 * MIB) // block_from * block_from
    room = size + rng.choice([0, 0, 1, 4096, 100000])
    room = (room + block_to - 1) // block_to * block_to
    source = random_disk(rng, ashlar.dir / "src", size)
    before = random_disk(rng, ashlar.dir / "dst", room)
    got = ashlar.json("copy", f"aio://{ashlar.dir}/src?blk_size={block_from}",
                      f"uring://{ashlar.dir}/dst?blk_size={block_to}", "--verify", "--bs",
                      rng.choice([4096, 8192, 65536, MIB]), "--qd", rng.choice([1, 2, 16]))
    assert got["ok"]
    assert (ashlar.dir / "dst").read_bytes() == source + before[size:]
