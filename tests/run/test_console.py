import errno
import io
import logging

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tascnet.errors import DataError
from tascnet.run import console


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set by hand."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def on_terminal(monkeypatch):
    """A console that believes it is a terminal; gives what is written to it."""
    written = io.StringIO()
    fake = Console(file=written, force_terminal=True, width=120, _environ={"TERM": "xterm"})
    monkeypatch.setattr(console, "terminal", lambda: fake)
    return written


def test_plain_lines_say_start_state_and_end(clock, caplog):
    caplog.set_level(logging.INFO, "tascnet")
    with console.progress("fine-tune", total=10) as bar:
        clock[0] += 19.0
        bar.advance(1, best=0.5)
        clock[0] += 2.0
        bar.advance(1, best=0.75)
        clock[0] += 1.0
        bar.advance(8)
    assert caplog.messages == [
        "fine-tune: 10 steps",
        # 2 of 10 steps took 21 s, so 8 more take 84 s.
        "fine-tune: 2/10, best 0.75, 1 min 24 s left",
        "fine-tune: 10/10, best 0.75, done in 22 s",
    ]


def test_an_error_inside_is_not_reported_as_done(clock, caplog):
    caplog.set_level(logging.INFO, "tascnet")
    with pytest.raises(ValueError, match="inside"), console.progress("search"):
        raise ValueError("inside")
    assert caplog.messages == ["search"]


def test_track_counts_the_items(clock, caplog):
    caplog.set_level(logging.INFO, "tascnet")
    assert list(console.track([3, 4], "decode")) == [3, 4]
    assert list(console.track(iter("ab"), "read")) == ["a", "b"]
    assert caplog.messages == ["decode: 2 steps", "decode: 2/2, done in 0 s", "read", "read: 2, done in 0 s"]


def test_a_terminal_gets_bars_within_bars_with_the_best_value(on_terminal):
    with console.progress("trials", total=2) as outer:
        with console.progress("train", total=4) as inner:
            inner.advance(4, best=0.875)
            console._DISPLAY._live.refresh()
        outer.advance()
    text = on_terminal.getvalue()
    assert "trials" in text
    assert "train" in text
    assert "best 0.875" in text
    assert console._DISPLAY._live is None


def test_the_time_left_is_that_of_steps_of_this_process(clock):
    with console.progress("search", total=10, done=4) as job:
        assert job.seconds_left is None
        clock[0] += 100.0
        job.advance(2)
        # 2 steps took 100 s, so 4 more take 200 s.
        assert job.seconds_left == 200
        clock[0] += 30.0
        job.advance(0, best=0.5)
        assert job.seconds_left == 170
        clock[0] += 500.0
        assert job.seconds_left == 0
    with console.progress("read") as job:
        job.advance()
        assert job.seconds_left is None


def test_a_terminal_shows_a_table_and_the_time_left_of_slow_steps(on_terminal, clock):
    table = Table("trial", "best")
    table.add_row("17", "0.875")
    with console.progress("search", total=3) as job:
        job.show(table)
        clock[0] += 90.0
        job.advance(1)
        console._DISPLAY._live.refresh()
        clock[0] += 60.0
        console._DISPLAY._live.refresh()
    text = on_terminal.getvalue()
    assert "3 min 00 s left" in text
    assert "2 min 00 s left" in text
    assert "17" in text
    assert "0.875" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.1234, "0.123 s"),
        (9.0, "9 s"),
        (59.4, "59 s"),
        (61, "1 min 01 s"),
        (3599.8, "1 h 00 min"),
        (7260, "2 h 01 min"),
    ],
)
def test_durations(seconds, text):
    assert console._duration(seconds) == text


def test_log_file_gets_the_lines_of_its_context_alone(tmp_path):
    console.log.setLevel(logging.INFO)
    with console.log_file(tmp_path / "run" / "log.txt"):
        console.log.info("within")
    console.log.info("after")
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("INFO within")


def test_log_file_begins_with_what_the_run_has_said_before(tmp_path):
    before = list(console.log.handlers)
    try:
        console.set_up_logging()
        console.log.info("of the run before")
        console.set_up_logging()
        console.log.info("5 images are left out")
        for name, said in (("tune", "trial 0"), ("prune", "iteration 1")):
            with console.log_file(tmp_path / name):
                console.log.info(said)
    finally:
        console.log.handlers[:] = before
    tune, prune = ((tmp_path / name).read_text().splitlines() for name in ("tune", "prune"))
    assert [line.partition(" INFO ")[2] for line in tune] == ["5 images are left out", "trial 0"]
    assert [line.partition(" INFO ")[2] for line in prune] == ["iteration 1"]


def ended_by(error, path):
    with pytest.raises(type(error)), console.log_file(path):
        raise error
    return path.read_text().splitlines()


def test_log_file_gets_what_ended_it(tmp_path, capsys):
    ours = ended_by(DataError("there are no images", "choose\nanother folder"), tmp_path / "ours.txt")
    assert len(ours) == 1
    assert ours[0].endswith("ERROR there are no images: choose another folder")
    bug = ended_by(ZeroDivisionError("a bug"), tmp_path / "bug.txt")
    assert bug[0].endswith("ERROR ended by an unexpected error")
    assert bug[1] == "Traceback (most recent call last):"
    assert bug[-1] == "ZeroDivisionError: a bug"
    stopped = ended_by(KeyboardInterrupt(), tmp_path / "stopped.txt")
    assert len(stopped) == 1
    assert stopped[0].endswith("ERROR stopped")
    # The command line says it on the terminal.
    assert capsys.readouterr().err == ""


def test_messages_go_to_stderr_as_they_are(capsys):
    before = list(console.log.handlers)
    try:
        console.set_up_logging()
        console.set_up_logging()
        console.log.info("[bold]%s[/bold] " + "x" * 200, "not markup")
    finally:
        console.log.handlers[:] = before
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "[bold]not markup[/bold] " + "x" * 200 + "\n"


class Full(io.StringIO):
    """A file on a full disk."""

    def flush(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    close = flush


def test_a_log_on_a_full_disk_is_mentioned_once_and_ends_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(logging.FileHandler, "_open", lambda handler: Full())
    console.log.setLevel(logging.INFO)
    path = tmp_path / "log.txt"

    @console.log_file(path)
    def run():
        console.log.info("one")
        console.log.info("two")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        run()
    said = " ".join(capsys.readouterr().err.split())
    assert said == f"{path} lacks log lines ([Errno 28] No space left on device)"
    # The traceback is not there.
    assert console.filed_at(caught.value) is None


def test_the_log_that_got_the_traceback_is_named(tmp_path):
    @console.log_file(tmp_path / "outer.txt")
    @console.log_file(tmp_path / "inner.txt")
    def run():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        run()
    assert console.filed_at(caught.value) == tmp_path / "inner.txt"


def test_tables_and_lines_are_printed_without_markup_and_escape_codes(capsys):
    table = Table(title="[red]t")
    table.add_column("[b]name")
    table.add_row("[link=x]cat\x1b[31m")
    table.add_row(Text("\u202edog"))
    console.output().print(table)
    console.output().print("[red]\x9b2J :smile:")
    said = capsys.readouterr().out
    for text in ("[red]t", "[b]name", r"[link=x]cat\x1b[31m", r"\u202edog", r"[red]\x9b2J :smile:"):
        assert text in said
    assert not {"\x1b", "\x9b", "\u202e"} & set(said)
