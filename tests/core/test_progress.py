"""Lines about the progress of work, as text and as JSON, and what listeners hear."""

from __future__ import annotations

import json

import pytest

from geoloc.core import progress


def test_a_line_is_plain_or_one_json_object(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(progress.RUN_ID_VARIABLE, "night-7")
    assert progress.begin_run("encode") == "night-7"
    progress.say("3 parts\nof 4")
    assert capsys.readouterr().err == "3 parts\nof 4\n"
    monkeypatch.setenv(progress.FORMAT_VARIABLE, "json")
    progress.say('3 "parts"\nof 4')
    (line,) = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert record.pop("time").endswith("+00:00")
    assert record == {"run_id": "night-7", "stage": "encode", "message": '3 "parts"\nof 4'}


def test_runs_without_an_id_get_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(progress.RUN_ID_VARIABLE, raising=False)
    assert len({progress.begin_run("ingest") for _ in range(5)}) == 5


def test_listeners_hear_of_every_item_once(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, int, int]] = []
    monkeypatch.setattr(progress, "_listeners", [])

    def listener(what: str, done: int, total: int) -> None:
        heard.append((what, done, total))

    for _ in range(2):
        progress.listen(listener)
    assert list(progress.track("ab", total=2, what="letters")) == ["a", "b"]
    assert heard == [("letters", 0, 2), ("letters", 1, 2), ("letters", 2, 2)]
