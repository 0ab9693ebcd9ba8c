"""The journal: on the disk before the step, readable after a death in the middle of a line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.procedures.roll import journal
from deploy.procedures.roll.journal import Journal


def test_a_roll_that_ended_is_not_unfinished(tmp_path: Path) -> None:
    assert journal.unfinished(tmp_path) is None
    made = Journal.begin(tmp_path, "fleet roll")
    made.write("take", words="data1: redis-cache: restart")
    found = journal.unfinished(tmp_path)
    assert found is not None
    assert found["roll"] == made.roll
    assert found["last"]["words"] == "data1: redis-cache: restart"
    made.end("done")
    assert journal.unfinished(tmp_path) is None


def test_each_line_is_synced_before_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append((tmp_path / journal.FILE).read_text().splitlines()[-1])
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    made = Journal.begin(tmp_path, "fleet roll")
    made.write("take", words="x")
    assert [json.loads(line)["event"] for line in synced] == ["begin", "take"]


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=400))
def test_a_line_that_was_cut_off_counts_as_not_written(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("journal")
    made = Journal.begin(folder, "fleet roll")
    for number in range(3):
        made.write("take", words=f"step {number}")
    path = journal.path_of(folder)
    text = path.read_text()
    path.write_text(text[: max(0, len(text) - cut)])
    whole = [line for line in path.read_text().split("\n")[:-1] if line]
    read = list(journal.read(folder))
    assert len(read) in {len(whole), len(whole) + 1}
    assert [line["n"] for line in read] == list(range(1, len(read) + 1))


def test_going_on_keeps_the_name_and_the_numbers(tmp_path: Path) -> None:
    first = Journal.begin(tmp_path, "fleet roll")
    first.write("take", words="x")
    second = Journal.resume(tmp_path, first.roll, "fleet roll --resume")
    second.end("done")
    lines = list(journal.read(tmp_path))
    assert [line["n"] for line in lines] == [1, 2, 3, 4]
    assert {line["roll"] for line in lines} == {first.roll}


def test_what_comes_after_a_line_that_was_cut_off_is_read(tmp_path: Path) -> None:
    first = Journal.begin(tmp_path, "fleet roll")
    first.write("take", words="x")
    path = journal.path_of(tmp_path)
    path.write_text(path.read_text()[:-20])
    Journal.resume(tmp_path, first.roll, "fleet roll --resume").end("done")
    assert [line["event"] for line in journal.read(tmp_path)] == ["begin", "resume", "end"]
    assert journal.unfinished(tmp_path) is None


def test_the_lines_of_an_earlier_roll_say_nothing_of_another_controllers(tmp_path: Path) -> None:
    Journal.begin(tmp_path, "fleet roll --abort", service="redis").end("aborted")
    Journal.resume(tmp_path, "begun-elsewhere", "fleet roll --resume")
    found = journal.unfinished(tmp_path)
    assert found is not None
    assert (found["roll"], found["last"], found.get("options")) == ("begun-elsewhere", None, None)
    assert [line["event"] for line in journal.read(tmp_path)] == ["resume"]
