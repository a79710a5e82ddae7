"""Leases of work: one at a time, void when their holder is gone."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from byzjax.storage import leases
from byzjax.storage.leases import Leases

# Leases.


def test_one_claim_at_a_time(tmp_path):
    with Leases(tmp_path) as mine, Leases(tmp_path) as theirs:
        assert mine.acquire("k")
        assert not theirs.acquire("k")
        assert theirs.held_by_others() == {"k"}
        assert mine.held_by_others() == set()
        mine.release("k")
        assert theirs.acquire("k")
    assert list(tmp_path.iterdir()) == [], "released at the end"


def elsewhere(monkeypatch, **holder):
    """Leases made from now on are those of a process of another machine."""
    monkeypatch.setattr(leases, "_process", lambda: {"machine": "elsewhere", "pid": 1, "started": None, **holder})


def test_a_claim_of_another_machine_is_void_when_it_is_stale(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        elsewhere(patch)
        assert Leases(tmp_path, ttl=60).acquire("k")
    mine = Leases(tmp_path, ttl=60)
    assert not mine.acquire("k")
    (path,) = tmp_path.iterdir()
    os.utime(path, (time.time() - 59, time.time() - 59))
    assert not mine.acquire("k")
    os.utime(path, (time.time() - 61, time.time() - 61))
    assert mine.held_by_others() == set()
    assert mine.acquire("k")
    assert mine.held_by_others() == set()
    mine.release("k")
    assert list(tmp_path.iterdir()) == [], "the void lease is cleared away too"


def test_a_held_claim_is_kept_fresh(tmp_path, monkeypatch):
    elsewhere(monkeypatch)
    with Leases(tmp_path, ttl=0.8) as holder:
        assert holder.acquire("k")
        until = time.monotonic() + 1.6
        while time.monotonic() < until:
            assert not Leases(tmp_path, ttl=0.8).acquire("k")
            time.sleep(0.05)


def test_a_claim_of_a_dead_process_is_void_at_once(tmp_path):
    code = f"from byzjax.storage.leases import Leases; assert Leases({str(tmp_path)!r}).acquire('k')"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["k.0"]
    assert Leases(tmp_path).acquire("k")


def test_the_number_of_a_dead_process_may_be_in_use_again(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "_started", lambda pid: "long ago")
    assert Leases(tmp_path).acquire("k")
    monkeypatch.setattr(leases, "_started", lambda pid: "now")
    assert Leases(tmp_path).acquire("k")


def test_of_many_who_see_a_void_claim_one_takes_it(tmp_path, monkeypatch):
    for attempt in range(30):
        key = f"k{attempt}"
        with monkeypatch.context() as patch:
            elsewhere(patch)
            assert Leases(tmp_path).acquire(key)
        os.utime(tmp_path / f"{key}.0", (0, 0))
        takers = [Leases(tmp_path) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(lambda taker, key=key: taker.acquire(key), takers)) == 1


def test_a_claim_cut_off_while_written_counts_as_anybody_elses(tmp_path):
    (tmp_path / "k.0").write_text("")
    assert not Leases(tmp_path).acquire("k")
    os.utime(tmp_path / "k.0", (0, 0))
    assert Leases(tmp_path).acquire("k")
