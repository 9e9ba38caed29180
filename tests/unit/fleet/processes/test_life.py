"""When a replica is silent, when it is given up, when it is started anew, and whether there is room for one more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llcuda.engine import DeviceReport, DeviceUse
from llcuda.errors import UsageError
from llcuda.fleet.processes import heartbeat, socket_folder
from llcuda.fleet.processes.heartbeat import Pulse
from llcuda.fleet.processes.machine_shares import has_room
from llcuda.fleet.processes.process_usage import read_seconds_without_core
from llcuda.fleet.processes.replica import Restarts
from llcuda.fleet.processes.socket_folder import SocketFolder, choose_parent, parse_owner, remove_leftovers

MIB = 1 << 20


def pulse(*, hang_timeout: float = 10.0) -> Pulse:
    return Pulse(100.0, hang_timeout)


def test_a_server_that_was_not_asked_is_not_silent() -> None:
    one = pulse()
    assert not one.judge(1000.0)
    assert not one.is_silent


@pytest.mark.parametrize(
    ("asked", "now", "is_silent"),
    [
        (100.25, 100.74, False),
        (100.25, 100.75, True),
        (100.7, 100.8, False),
        (100.7, 101.09, False),
        (100.7, 101.15, True),
    ],
)
def test_it_is_silent_after_750_ms_if_it_was_asked_long_enough(asked: float, now: float, *, is_silent: bool) -> None:
    one = pulse()
    one.note_question(asked)
    assert not one.judge(now)
    assert one.is_silent is is_silent


def test_it_is_back_after_two_good_answers() -> None:
    one = pulse()
    one.note_question(100.25)
    one.judge(101.0)
    one.note_answer(102.0)
    assert one.is_silent
    one.note_question(102.25)
    one.note_answer(102.3)
    assert not one.is_silent


def test_silence_between_two_answers_begins_the_count_again() -> None:
    one = pulse()
    one.note_question(100.25)
    one.judge(101.0)
    one.note_answer(102.0)
    one.note_question(102.25)
    one.judge(103.0)
    one.note_answer(104.0)
    assert one.is_silent


def test_bytes_that_come_put_silence_off() -> None:
    one = pulse()
    one.note_question(100.25)
    for at in (100.7, 101.4, 102.1):
        one.note_life(at)
        assert not one.judge(at + 0.7)
        assert not one.is_silent
    one.judge(102.85)
    assert one.is_silent


def test_a_time_in_which_nothing_could_be_seen_does_not_count() -> None:
    one = pulse(hang_timeout=1.0)
    one.note_question(100.25)
    one.skip(5.0)
    assert not one.judge(105.7)
    assert not one.is_silent


def test_it_is_given_up_after_the_time_for_that() -> None:
    one = pulse(hang_timeout=3.0)
    one.note_question(100.25)
    assert not one.judge(102.9)
    assert one.judge(103.0)


@pytest.mark.parametrize(
    ("silence", "starved", "is_lost"),
    [
        (9.9, 0.0, False), (10.0, 0.0, True), (14.0, 4.1, False), (14.0, 4.0, True),
        (59.9, 99.0, False), (60.0, 99.0, True),
    ],
)  # fmt: skip
def test_a_server_that_has_no_core_is_given_up_after_six_times_as_long(
    silence: float, starved: float, *, is_lost: bool
) -> None:
    one = pulse()
    one.note_question(100.25)
    one.judge(101.0)
    assert one.judge(100.0 + silence, starved=starved) is is_lost


def test_the_time_without_a_core_is_that_of_all_threads(tmp_path: Path) -> None:
    for number, told in enumerate(("1 2000000000 3", "5 500000000 7", "nonsense", "")):
        (tmp_path / f"42/task/{number}").mkdir(parents=True)
        (tmp_path / f"42/task/{number}/schedstat").write_text(told)
    assert read_seconds_without_core(42, root=tmp_path) == 2.5
    assert read_seconds_without_core(43, root=tmp_path) == 0
    assert read_seconds_without_core(None, root=tmp_path) == 0


def test_the_next_look_is_when_the_judgement_changes() -> None:
    one = pulse(hang_timeout=3.0)
    one.note_question(100.25)
    assert one.next_look(100.25) == pytest.approx(0.5)
    assert one.next_look(100.8) == 0
    one.judge(100.8)
    assert one.next_look(100.8) == heartbeat.PROBE_INTERVAL


def test_the_delays_double_and_the_budget_ends_them() -> None:
    restarts = Restarts()
    delays = []
    for at in range(5):
        restarts.note_start(float(at))
        delays.append(restarts.choose_delay(at + 0.5))
    assert delays == [0.1, 0.2, 0.4, 0.8, None]


def test_slow_deaths_are_never_too_many_and_the_delay_has_an_end() -> None:
    restarts = Restarts()
    delays = []
    for number in range(2000):
        restarts.note_start(number * 20.0)
        delays.append(restarts.choose_delay(number * 20.0 + 19))
    assert delays[:8] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0]
    assert set(delays[8:]) == {10.0}


def test_a_minute_of_life_forgets_the_past() -> None:
    restarts = Restarts()
    for at in (0.0, 1.0, 2.0):
        restarts.note_start(at)
        restarts.choose_delay(at + 0.5)
    assert restarts.choose_delay(70.0) == 0.1


def use(device: str, uuid: str, mib: int) -> DeviceUse:
    return DeviceUse(device, device, uuid, weights_bytes=mib * MIB, kv_bytes=0, compute_bytes=0)


def report(*uses: DeviceUse) -> DeviceReport:
    return DeviceReport("auto", "cuda", "cuda12", "full", "", "", 1, 1, None, uses, ())


@pytest.mark.parametrize(
    ("gpu_free", "memory_free", "expected"),
    [(4000, 4000, True), (2600, 4000, False), (4000, 600, False), (None, 4000, False), (4000, None, False)],
)
def test_there_is_room_where_every_device_has_it(
    gpu_free: int | None, memory_free: int | None, *, expected: bool
) -> None:
    held = report(use("CUDA0", "GPU-a", 1000), use("CPU", "", 100))
    assert has_room(held, gpus_free_mib={"GPU-a": gpu_free}, memory_free_mib=memory_free) is expected


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("llcuda-12-345-a_b8x", (12, 345)),
        ("llcuda-12-345", None),
        ("llcuda-x-345-abc", None),
        ("other-12-345-abc", None),
        ("llcuda-12-345-a/b", None),
    ],
)
def test_a_folders_name_says_whose_it_is(name: str, owner: tuple[int, int] | None) -> None:
    assert parse_owner(name) == owner


def test_the_first_folder_with_a_short_enough_path_is_taken() -> None:
    assert choose_parent([Path("/x" * 60), Path("/tmp")]) == Path("/tmp")
    with pytest.raises(UsageError) as caught:
        choose_parent([Path("/x" * 60)])
    assert "XDG_RUNTIME_DIR" in caught.value.hint


def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        return process.pid


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(socket_folder, "list_parents", lambda: [tmp_path])
    monkeypatch.setattr(socket_folder, "choose_parent", lambda parents: parents[0])
    return tmp_path


def test_a_folder_is_its_owners_alone_and_goes_with_it(parent: Path) -> None:
    made = SocketFolder()
    assert made.path.parent == parent
    assert made.path.stat().st_mode & 0o777 == 0o700
    assert remove_leftovers([parent]) == []
    made.remove()
    made.remove()
    assert not list(parent.iterdir())
    forgotten = SocketFolder()
    del forgotten
    assert not list(parent.iterdir())


def test_only_what_is_surely_left_over_is_removed(parent: Path) -> None:
    dead = dead_pid()
    names = {
        "gone": f"llcuda-{dead}-1-gone",
        "reused": f"llcuda-{os.getpid()}-1-reused",
        "open": f"llcuda-{dead}-1-open",
        "full": f"llcuda-{dead}-1-full",
        "stranger": f"llcuda-{dead}-mine",
    }
    for word, name in names.items():
        (parent / name).mkdir(mode=0o755 if word == "open" else 0o700)
    (parent / names["full"] / "data").write_text("mine")
    (parent / f"llcuda-{dead}-1-file").write_text("mine")
    (parent / f"llcuda-{dead}-1-link").symlink_to(parent / names["stranger"])
    assert {path.name for path in remove_leftovers([parent, parent / "none"])} == {names["gone"], names["reused"]}
    assert (parent / names["full"] / "data").read_text() == "mine"
    assert {path.name for path in parent.iterdir()} == {
        *(names[word] for word in ("open", "full", "stranger")), f"llcuda-{dead}-1-file", f"llcuda-{dead}-1-link",
    }  # fmt: skip


def test_a_folder_whose_lock_is_held_is_left_alone(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = SocketFolder()
    # As in another container, where this process has no number.
    monkeypatch.setattr(socket_folder, "_read_start_time", lambda _: 0)
    assert remove_leftovers([parent]) == []
    assert made.path.exists()
    made.remove()
