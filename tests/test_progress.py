"""Long work says how far it is: lines without a terminal, bars on one, JSON for programs."""

from __future__ import annotations

import io
import json
import logging
import sys
import time
import warnings

import pytest

from embae_plugin import progress as module
from embae_plugin.commands.main import main
from embae_plugin.progress import Progress, in_words, progress
from embae_plugin.runtime import json_lines, log_to
from tests.crops_world import write_checkpoint, write_crops
from tests.methods.test_resume import make
from tests.methods.tiny import same_weights, tiny_data, tiny_model, tiny_store


class Terminal(io.StringIO):
    """A stderr that is one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def often(monkeypatch):
    """A line every twentieth of a second instead of every half minute."""
    monkeypatch.setattr(module, "EVERY", 0.05)


def lines_of(caplog, level: int = logging.INFO) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == module.__name__
            and r.levelno == level]


def test_a_loop_says_how_far_it_is_and_when_it_is_done(often, caplog):
    caplog.set_level(logging.DEBUG, "embae_plugin")
    assert [*progress((time.sleep(0.02) or n for n in range(10)), "decode x", 10)] == [*range(10)]
    said = lines_of(caplog)
    assert all(line.startswith("decode x: ") and " of 10 img, " in line for line in said)
    assert any(line.endswith(" left") and " img/s, " in line for line in said)
    assert said[-1].endswith("all done") and len(said) >= 3


def test_work_that_counts_nothing_for_long_says_that_it_runs(often, caplog):
    caplog.set_level(logging.DEBUG, "embae_plugin")
    with Progress("clustering"):
        time.sleep(0.3)
    assert len(lines_of(caplog)) >= 3
    assert lines_of(caplog)[0].startswith("clustering: running for 0 s")


def test_the_innermost_speaks_and_short_work_is_not_announced(often, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG, "embae_plugin")
    with Progress("outer", 3, "round") as outer:
        with Progress("inner"):
            caplog.clear()
            time.sleep(0.2)
        assert {line.split(":")[0] for line in lines_of(caplog)} == {"inner"}
        for _ in range(3):
            time.sleep(0.06)
            outer.update()
    assert any(line.startswith("outer: 1 of 3 round") for line in lines_of(caplog))
    caplog.clear()
    monkeypatch.setattr(module, "EVERY", 30.0)
    assert [*progress([1, 2], "short")] == [1, 2] and not lines_of(caplog)


def test_an_error_ends_the_lines(often, caplog):
    caplog.set_level(logging.DEBUG, "embae_plugin")
    with pytest.raises(ValueError), Progress("stage", 2) as bar:
        time.sleep(0.1)
        bar.update()
        raise ValueError
    assert not Progress._open and not any("all done" in line for line in lines_of(caplog))
    count = len(lines_of(caplog))
    time.sleep(0.15)
    assert len(lines_of(caplog)) == count


def test_a_terminal_has_a_bar_and_the_log_file_the_lines(often, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with log_to(tmp_path / "a.log"):
        for _ in progress(range(5), "decode"):
            time.sleep(0.05)
    assert "decode:  " in sys.stderr.getvalue() and " left" not in sys.stderr.getvalue()
    assert "decode: " in (tmp_path / "a.log").read_text() and " DEBUG " in (
        tmp_path / "a.log").read_text()


def test_every_line_is_a_json_object_even_on_a_terminal(often, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with json_lines(), log_to(tmp_path / "a.log"):
        for _ in progress(range(5), "decode"):
            time.sleep(0.05)
        logging.getLogger("embae_plugin.x").warning("two\nlines")
        warnings.warn("of Python", stacklevel=1)
    lines = [json.loads(line) for line in sys.stderr.getvalue().splitlines()]
    *_, plain, warned = lines
    first = next(line for line in lines if line.get("rate"))  # once something has been counted
    assert {"time", "level", "logger", "message"} <= set(plain) & set(first) & set(warned)
    assert (plain["message"], plain["level"]) == ("two\nlines", "WARNING")
    assert "of Python" in warned["message"]
    assert (first["stage"], first["total"]) == ("decode", 5)
    assert 0 < first["done"] < 5 and first["rate"] > 0 and first["seconds_left"] > 0
    assert not (tmp_path / "a.log").read_text().startswith("{")
    assert Progress.bars


@pytest.mark.parametrize("stage", ["embedding", "cam"])
def test_training_says_stage_epoch_step_loss_and_speed(often, monkeypatch, tmp_path, caplog, stage):
    data, store = tiny_data(tmp_path / "crops"), tiny_store()
    whole = tiny_model()
    make(stage, data, store, whole).run(tmp_path / "silent", max_epoch=2)
    caplog.set_level(logging.INFO, "embae_plugin")
    monkeypatch.setattr(Progress, "due", lambda self: True)
    spoken = tiny_model()
    make(stage, data, store, spoken).run(tmp_path / "spoken", max_epoch=2)
    [*rows] = [r for r in caplog.records if getattr(r, "progress", {}).get("step")]
    last = rows[-1].progress
    assert last["stage"] == ("transfer-cam" if stage == "cam" else stage)
    assert last["phase"] == "embedding" and last["epoch"] == last["epochs"] == 2
    assert last["step"] == last["steps"] and last["done"] == last["total"]
    assert last["images_per_second"] > 0 and "seconds_left" in last
    loss = "reconstruction" if stage == "cam" else "loss"
    text = rows[-1].getMessage()
    assert isinstance(last[loss], float) and f", {loss} {last[loss]:.4g}, " in text
    assert "embedding, epoch 2 of 2, step" in text and "images/s" in text
    assert same_weights(whole, spoken)


def test_a_verb_logs_json_wherever_the_flag_stands(tmp_path, capsys):
    write_crops(tmp_path / "crops", 2, 2, 1)
    model = str(write_checkpoint(tmp_path / "m.pth"))
    command = ["extract", "--images", str(tmp_path / "crops"), "--checkpoint", model, "--out"]
    assert main([*command, str(tmp_path / "z.npz"), "--log-format", "json"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert said[-1]["message"].startswith(f"written to {tmp_path / 'z.npz'}: 4 embeddings")
    assert main(["--log-format=json", *command, str(tmp_path / "z.npz")]) == 2
    [error] = capsys.readouterr().err.splitlines()
    assert json.loads(error)["level"] == "ERROR" and "exists" in json.loads(error)["message"]
    assert main(["data", "check", "--root", str(tmp_path / "no"), "--log-format", "json"]) == 2
    assert json.loads(capsys.readouterr().err)["logger"] == "embae"
    with pytest.raises(SystemExit):
        main([*command, "a.npz", "--log-format", "xml"])
    assert "--log-format: invalid choice: 'xml'" in capsys.readouterr().err


def test_lines_that_nobody_watches_say_when(tmp_path, capsys):
    with log_to():
        logging.getLogger("embae_plugin.x").info("hello")
    time_, level, word = capsys.readouterr().err.split()
    assert time.strptime(time_, "%H:%M:%S") and (level, word) == ("I", "hello")


@pytest.mark.parametrize("seconds, words", [(45.2, "45 s"), (720, "12 min"), (11100, "3 h 05 min")])
def test_lengths_of_time(seconds, words):
    assert in_words(seconds) == words
