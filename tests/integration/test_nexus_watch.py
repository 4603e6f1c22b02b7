# SPDX-License-Identifier: Apache-2.0
"""What a person watches a mirror with: ctl PATH status, events --follow, --wait, help."""

import json
import os
import pty
import re
import signal
import socket
import subprocess

import pytest
from conftest import ASHLAR, wait_until
from nvmetcp import Host
from test_nexus_ctl import Frozen
from test_nexus_cli import MIB, NQN, SIZE_MB, Mirror


@pytest.fixture
def mirror(ashlar):
    return Mirror(ashlar)


def new_child(ashlar):
    return f"aio://{ashlar.file('new', (SIZE_MB + 16) * MIB)}?blk_size=4096"


def damage(mirror):
    """Other bytes in one copy, behind the mirror's back."""
    mirror.write(0, b"a" * (64 << 10))
    with mirror.paths[1].open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"b" * 4096)


# ---- status -----------------------------------------------------------------------------

def test_status_is_a_summary(mirror):
    told = mirror.ok("status")
    assert told.startswith(NQN + "\n")
    assert f"listens on 127.0.0.1:{mirror.port}, path optimized\n" in told
    assert "namespace 1: vol0, 32.0 MiB, blocks of 4096\n" in told
    assert "mirror vol0: Online, 2 of 2 replicas in sync\n" in told
    assert all(f"  in sync  {uri}\n" in told for uri in mirror.uris)
    assert "no host is connected" in told and "next:" not in told and "scrub" not in told
    with Host(mirror.port, NQN) as host:
        host.queue(1)
        assert re.search(r"host nqn\S+, controller 1, 1 queue, on 127", mirror.ok("status"))
    mirror.ok("child-offline", mirror.uris[1])
    told = mirror.ok("status")
    assert "mirror vol0: Degraded, 1 of 2 replicas in sync\n" in told
    assert f"  Faulted, ByClient  {mirror.uris[1]}\n" in told
    next_words = re.search(f"next: {ASHLAR} (.*)", told)[1].replace("'", "").split()
    done = mirror.ashlar(*next_words)  # what it says works as it stands
    assert done.returncode == 0 and "is in sync" in done.stdout, done.stderr
    assert "Online, 2 of 2" in mirror.ok("status")


def test_status_as_json_is_one_line_with_everything(mirror):
    mirror.ok("rebuild-limits", "rate=1M")
    mirror.write(0, os.urandom(8 * MIB))
    uri = new_child(mirror.ashlar)
    mirror.ok("child-add", uri)
    done = mirror.ctl("status", "-o", "json")
    assert done.stdout.count("\n") == 1
    seen = json.loads(done.stdout)
    assert seen["nqn"] == NQN and seen["allowed"]["any"] and not seen["paused"]
    assert [n["name"] for n in seen["namespaces"]] == ["vol0"]
    assert seen["listeners"][0]["listener"] == f"127.0.0.1:{mirror.port}"
    vol = seen["mirrors"][0]
    assert [c["rebuild"] for c in vol["children"][:2]] == [None, None]
    assert vol["children"][2]["rebuild"]["state"] in ("init", "running")
    assert vol["scrub"]["state"] == "none"
    text = mirror.ok("status")
    assert re.search(rf"  rebuild \d+ %, .*  {re.escape(uri)}\n", text), text
    mirror.ok("rebuild-limits", "rate=0")


# ---- --wait -----------------------------------------------------------------------------

def test_wait_ends_with_the_rebuild(mirror):
    mirror.write(0, os.urandom(2 * MIB))
    mirror.ok("rebuild-limits", "rate=4M")
    uri = new_child(mirror.ashlar)
    done = mirror.ctl("child-add", "--wait", uri)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lines = done.stdout.splitlines()
    assert all(re.match(r"\d+ %, ", line) for line in lines[:-1]) and len(lines) > 1
    assert lines[-1].startswith(f"{uri} is in sync: 2 MiB copied in ")
    assert mirror.nexus()["status"] == "Online"
    mirror.ok("child-offline", uri)
    done = mirror.ctl("@vol0", "child-online", "--wait", uri, "-o", "json")
    assert done.returncode == 1 and "unknown command '@vol0'" in done.stderr
    record = json.loads(mirror.ctl("child-online", "--wait", "@vol0", uri, "-o", "json").stdout)
    assert record["state"] == "completed" and record["child"] == uri


def test_wait_tells_that_a_rebuild_failed(mirror):
    mirror.write(0, os.urandom(30 * MIB))  # what is read first is not held back by the rate
    mirror.ok("rebuild-limits", "rate=256k")  # it is not over before it is stopped
    uri = f"malloc:///m?size_mb={SIZE_MB + 16}&blk_size=4096"
    waiting = mirror.ashlar.start("ctl", mirror.control, "child-add", uri, "--wait")
    wait_until(lambda: mirror.ok("rebuilds")["jobs"], what="the rebuild")
    mirror.ok("rebuild", uri, "stop")
    out, err = waiting.communicate(timeout=20)
    assert waiting.returncode == 1 and f"{uri} is not in sync: its rebuild is stopped" in err, out
    waiting = mirror.ashlar.start("ctl", mirror.control, "rebuild", uri, "start", "--wait")
    wait_until(lambda: mirror.ok("rebuilds")["jobs"], what="the rebuild")
    mirror.ok("child-remove", uri)
    out, err = waiting.communicate(timeout=20)
    assert waiting.returncode == 1, out + err
    assert re.search("was removed meanwhile|rebuild is failed|taken out after", err), err


def test_wait_ends_with_the_scrub(mirror):
    done = mirror.ctl("scrub", "start", "--wait")
    assert done.returncode == 0 and "all copies are equal: 32.0 MiB compared" in done.stdout
    damage(mirror)
    done = mirror.ctl("scrub", "start", "--wait")
    assert done.returncode == 1 and "1 blocks differ, 0 of them were repaired" in done.stderr
    told = mirror.ok("status")
    assert "2 of 2 replicas in sync, but a scrub found differences\n" in told
    words = re.search(f"  next: {ASHLAR} (.* --wait), with the replica that is right", told)[1]
    assert "start repair --wait" not in told  # two copies cannot vote
    words = words.replace("'", "").replace("URI", mirror.uris[0]).split()
    done = mirror.ashlar(*words)  # what it says works as it stands
    assert done.returncode == 0 and "1 blocks repaired" in done.stdout, done.stderr
    told = mirror.ok("status")
    assert "scrub 100 %, completed, 1 blocks differ, 1 repaired" in told
    assert "next:" not in told and "found differences" not in told


def test_three_copies_vote_after_a_scrub(ashlar):
    mirror = Mirror(ashlar, count=3)
    damage(mirror)
    assert mirror.ctl("scrub", "start", "--wait").returncode == 1
    told = mirror.ok("status")
    assert "  or, where no two agree: " in told
    done = mirror.ashlar(*re.search(f"next: {ASHLAR} (.*)", told)[1].replace("'", "").split())
    assert done.returncode == 0 and "1 blocks repaired" in done.stdout, done.stderr
    assert "next:" not in mirror.ok("status")


def test_wait_shows_a_bar_on_a_terminal(mirror):
    mirror.write(0, os.urandom(2 * MIB))
    mirror.ok("rebuild-limits", "rate=4M")
    outside, inside = pty.openpty()
    process = subprocess.Popen([ASHLAR, "ctl", mirror.control, "child-add", "--wait",
                                new_child(mirror.ashlar)], stdout=subprocess.PIPE, stderr=inside)
    os.close(inside)
    out, _ = process.communicate(timeout=20)
    bar = os.read(outside, 65536).decode()
    os.close(outside)
    assert process.returncode == 0 and re.search(r"\r\[#*\.*\] +\d+%", bar), bar
    assert out.count(b"\n") == 1, out  # the end only


def test_only_what_begins_something_can_be_waited_for(mirror):
    for words in (["list"], ["child-offline", mirror.uris[0]], ["scrub", "stop"],
                  ["child-add", "null:///n", "norebuild"]):
        done = mirror.ctl(*words, "--wait")
        assert done.returncode == 2 and "nothing begins with that" in done.stderr
    assert mirror.ctl("list", "--follow").returncode == 2
    assert mirror.nexus()["status"] == "Online"  # nothing was sent


# ---- events -----------------------------------------------------------------------------

def test_events_are_followed(mirror):
    text = mirror.ashlar.start("ctl", mirror.control, "events", "--follow")
    lines = mirror.ashlar.start("ctl", mirror.control, "events", "2", "--follow", "-o", "json")
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z vol0 created Open, Online\n",
                    text.stdout.readline())
    mirror.ok("child-offline", mirror.uris[1])
    assert mirror.ctl("child-online", mirror.uris[1], "--wait").returncode == 0
    seen = [json.loads(lines.stdout.readline())]
    while seen[-1]["status"] != "Online" or seen[-1].get("job") != "completed":
        seen.append(json.loads(lines.stdout.readline()))
    assert [e["number"] for e in seen] == list(range(3, 3 + len(seen)))
    assert [e["job"] for e in seen if e["type"] == "rebuild"] == ["running", "completed"]
    while f" rebuild {mirror.uris[1]} completed" not in text.stdout.readline():
        pass
    mirror.stop()
    for process in (text, lines):
        _, err = process.communicate(timeout=20)
        assert process.returncode == 1 and "the export ended" in err


def test_who_reads_slowly_is_told_what_was_lost(mirror):
    follower = mirror.ashlar.start("ctl", mirror.control, "events", "--follow", "-o", "json")
    first = json.loads(follower.stdout.readline())
    follower.send_signal(signal.SIGSTOP)
    with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as answers:
        client.connect(str(mirror.control))
        for _ in range(200):  # two events each, and the export does not wait for the follower
            client.sendall(b"scrub start\nscrub stop\n")
            assert answers.readline().startswith(b"ok") and answers.readline().startswith(b"ok")
    last = mirror.ok("events")[-1]["number"]
    follower.send_signal(signal.SIGCONT)
    number, lost = first["number"], 0
    while number < last:
        line = json.loads(follower.stdout.readline())
        if "lost" in line:
            lost += line["lost"]
            number += line["lost"]
        else:
            assert line["number"] == number + 1
            number += 1
    assert last > 400 and lost >= last - 256 - 10


def test_a_follower_that_goes_leaves_nothing_behind(mirror):
    for _ in range(20):  # more than there are places
        follower = mirror.ashlar.start("ctl", mirror.control, "events", "--follow")
        follower.stdout.readline()
        follower.kill()
        follower.wait()
    wait_until(lambda: mirror.ctl("list").returncode == 0, timeout_s=2, what="a place")


def test_events_wait_is_for_programs_too(mirror):
    last = mirror.ok("events")[-1]["number"]
    assert mirror.ok("events", "1", "wait")[0]["number"] == 2
    waiting = mirror.ashlar.start("ctl", mirror.control, "events", last, "wait")
    mirror.ok("child-offline", mirror.uris[1])
    out, _ = waiting.communicate(timeout=20)
    assert json.loads(out)[0]["number"] == last + 1
    assert "write: events [AFTER] [wait]" in mirror.refused("events", "wait", "5")
    assert "counts from 1" in mirror.refused("events", "1000", "wait")  # of an earlier export
    last = mirror.ok("events")[-1]["number"]
    waiting = mirror.ashlar.start("ctl", mirror.control, "events", last, "wait")
    mirror.nexus()
    mirror.stop()
    waiting.communicate(timeout=20)


# ---- help and mistakes ------------------------------------------------------------------

def test_help_has_an_example_for_every_verb(ashlar, mirror):
    here, there = ashlar("ctl", "help").stdout, mirror.ok("help")
    assert here == there
    verbs = json.loads(ashlar("ctl", "help", "-o", "json").stdout)
    assert verbs == json.loads(mirror.ctl("help", "-o", "json").stdout)
    for verb in verbs:
        words = verb["example"].split()
        assert verb["verb"] in words and verb["help"], verb
        one = ashlar("ctl", "help", verb["verb"])
        assert one.stdout.count("\n") == 2 and one.stdout in here
    assert "as JSON" not in ashlar("ctl", "help", "status").stdout
    assert all(line == line.rstrip() for line in here.splitlines())
    assert ashlar("ctl", "help", "child-onlin").returncode == 2


def test_mistakes_have_a_next_step(ashlar, mirror):
    assert "did you mean 'child-online'?" in mirror.refused("child-onlin", "x")
    assert "'status' shows them" in mirror.refused("child-offline", str(mirror.paths[0]))
    assert "for example: rebuild " in mirror.refused("rebuild", mirror.uris[0])
    mirror.ok("child-fault", mirror.uris[1])
    assert f"next: {ASHLAR} ctl {mirror.control} child-remove '{mirror.uris[1]}'" in mirror.ok(
        "status")
    assert "'remove NSID'" in mirror.refused("child-offline", mirror.uris[0])
    assert "remove it first" in mirror.refused("nexus-resize", "40MiB")
    done = ashlar("ctl", mirror.control)
    assert done.returncode == 2 and "status tells most" in done.stderr
    done = mirror.ctl("-o", "json", "rebuild-limits", "rate=0")
    assert json.loads(done.stdout)["rate"] == 0
    done = mirror.ctl("child-remove", mirror.uris[1], "-o", "json")
    assert "is gone" in json.loads(done.stdout)["message"]
    mirror.ok("remove", 1)
    assert "nothing is served: 'add URI'" in mirror.ok("status")


def test_status_of_a_mirror_that_lost_all(ashlar):
    mirror = Frozen(ashlar)
    told = mirror.ok("status")
    assert "mirror vol0: Faulted, 0 of 2 replicas in sync, I/O is held\n" in told
    assert f"  Faulted, IoFailure  {mirror.uris[0]}\n" in told
    assert "child-online" not in told and "stop the export and start it again" in told
    mirror.stop()
