"""Log lines, log files, and progress: bars on a terminal, plain lines elsewhere.

Whatever is printed or logged here passes through `escaped`: names of files and classes come from others, and
may hold escape codes.
"""

import io
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from rich import progress as rich_progress
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from tascnet.errors import TascnetError, escaped, first_line

log = logging.getLogger("tascnet")

# Seconds between two plain lines of one progress.
LINE_EVERY = 20.0
# Most log lines that wait for a file.
UNFILED = 1000

Item = TypeVar("Item")


class _Console(Console):
    """Prints texts as they are: without markup, and with control characters made visible."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(escaped(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=escaped(segment.text))

    def on_broken_pipe(self) -> None:
        """The reader, such as `head`, has closed its end: work continues, and prints nothing more."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


@cache
def terminal() -> Console:
    """The console of messages and progress: stderr."""
    return _Console(stderr=True)


@cache
def output() -> Console:
    """The console of results (tables): stdout; what its encoding lacks is printed as a question mark."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return _Console()


class Progress:
    """The progress of one job, which `progress` makes and shows."""

    def __init__(self, description: str, total: float | None, done: float = 0.0) -> None:
        self.description = description
        self.total = total
        self.done = self._before = done
        self.fields: dict[str, object] = {}
        self.below: RenderableType | None = None
        self.bar: rich_progress.TaskID | None = None
        self._started = self._last_line = self._last_step = time.monotonic()

    def advance(self, steps: float = 1, **fields: object) -> None:
        """Count `steps` as done; `fields` (such as `best=0.83`) are shown beside the bar."""
        self.done += steps
        self.fields.update(fields)
        if steps:
            self._last_step = time.monotonic()
        if self.bar is not None:
            _DISPLAY.update(self.bar, self)
        elif time.monotonic() - self._last_line >= LINE_EVERY:
            self._last_line = time.monotonic()
            log.info(self.line(ended=False))

    def show(self, below: RenderableType) -> None:
        """Show something below the bars of a terminal, in place of what the job showed before."""
        self.below = below

    @property
    def seconds_left(self) -> float | None:
        """By the steps of this process so far; None where there are none, or the total is not known."""
        done = self.done - self._before
        if not self.total or done <= 0:
            return None
        each = (self._last_step - self._started) / done
        since = time.monotonic() - self._last_step
        return max(0.0, each * (self.total - self.done) - since)

    @property
    def values(self) -> str:
        """The fields as text: `best 0.83, loss 1.2`."""
        return ", ".join(
            f"{name} {f'{value:.4g}' if isinstance(value, float) else value}"
            for name, value in self.fields.items()
        )

    def line(self, ended: bool) -> str:
        """The state as one line: `fine-tune: 2/10, best 0.83, 1 min 24 s left`."""
        seconds = time.monotonic() - self._started
        steps = _whole(self.done) if self.total is None else f"{_whole(self.done)}/{_whole(self.total)}"
        if ended:
            state = f"done in {_duration(seconds)}"
        elif (left := self.seconds_left) is not None:
            state = f"{_duration(left)} left"
        else:
            state = f"{_duration(seconds)} so far"
        return ", ".join(part for part in (f"{self.description}: {steps}", self.values, state) if part)


@contextmanager
def progress(description: str, total: float | None = None, done: float = 0.0) -> Iterator[Progress]:
    """Show the progress of a job: a bar on a terminal, a log line now and then elsewhere.

    `with progress("fine-tune", total=steps) as job: job.advance(1, best=0.83)`

    Args:
        description: the job, in a few words.
        total: the number of steps; None when it is not known.
        done: steps that an earlier process did.
    """
    job = Progress(description, total, done)
    if terminal().is_terminal and not terminal().is_dumb_terminal:
        job.bar = _DISPLAY.add(job)
    else:
        log.info(description + ("" if total is None else f": {_whole(total)} steps"))
    try:
        yield job
    finally:
        if job.bar is not None:
            _DISPLAY.remove(job.bar)
    log.info(job.line(ended=True))


def track(iterable: Iterable[Item], description: str, total: float | None = None) -> Iterator[Item]:
    """The items of `iterable`, with progress; `total` defaults to its length where it has one."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with progress(description, total) as job:
        for item in iterable:
            yield item
            job.advance()


class _Handler(logging.Handler):
    """Prints log lines on stderr, above progress bars, and keeps those that precede a run's log file."""

    def __init__(self) -> None:
        super().__init__()
        self.unfiled: deque[logging.LogRecord] = deque(maxlen=UNFILED)
        self.open_files = 0

    def emit(self, record: logging.LogRecord) -> None:
        if not self.open_files:
            self.unfiled.append(record)
        try:
            style = {"WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red"}.get(record.levelname)
            terminal().print(self.format(record), style=style, highlight=False, soft_wrap=True)
        except OSError:
            # The line is lost: the terminal is gone, or the disk of the file in its place is full.
            pass
        except Exception:
            self.handleError(record)


class _FileHandler(logging.FileHandler):
    """Appends log lines to a file; a full disk ends no run, and is mentioned once.

    Attributes:
        failed: whether lines are missing.
    """

    failed = False

    def handleError(self, _record: logging.LogRecord) -> None:
        if not self.failed:
            self.failed = True
            reason = first_line(sys.exc_info()[1] or OSError())
            said = f"{self.baseFilename} lacks log lines ({reason})"
            terminal().print(said, style="yellow", highlight=False, soft_wrap=True)

    def close(self) -> None:
        try:
            super().close()
        except OSError:
            self.failed = True


class _FileFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return escaped(super().format(record))


def set_up_logging(level: int = logging.INFO) -> None:
    """Let the logger `tascnet` write to stderr, and begin a run: its log files get no earlier lines.

    A second call changes the level and does not add a second writer.
    """
    log.setLevel(level)
    handlers = _handlers()
    if not handlers:
        log.addHandler(_Handler())
    for handler in handlers:
        handler.unfiled.clear()


def _handlers() -> list[_Handler]:
    return [handler for handler in log.handlers if isinstance(handler, _Handler)]


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Append log lines to a file, each with its time: those of this run that no file has yet, then those
    within this context, then the error that ends it, of which `filed_at` then gives this file.

    Args:
        path: a regular file, or a new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_FileFormatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    writers = _handlers()
    for writer in writers:
        while writer.unfiled:
            handler.handle(writer.unfiled.popleft())
        writer.open_files += 1
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        trace = None
        if isinstance(error, TascnetError):
            text = " ".join(str(error).split())
        elif isinstance(error, KeyboardInterrupt):
            text = "stopped"
        else:
            text, trace = "ended by an unexpected error", (type(error), error, error.__traceback__)
        # To the file alone: whoever catches the error prints it.
        handler.handle(log.makeRecord(log.name, logging.ERROR, "", 0, "%s", (text,), trace))
        if trace is not None and not handler.failed and filed_at(error) is None:
            error.__dict__["filed_at"] = path
        raise
    finally:
        for writer in writers:
            writer.open_files -= 1
        log.removeHandler(handler)
        handler.close()


def filed_at(error: BaseException) -> Path | None:
    """The log file that holds the traceback of an error that ended a run."""
    path = error.__dict__.get("filed_at")
    return path if isinstance(path, Path) else None


class _LeftColumn(rich_progress.ProgressColumn):
    """The time left. rich's own column forgets steps of more than 30 seconds ago."""

    def render(self, task: rich_progress.Task) -> Text:
        left = task.fields["job"].seconds_left
        return Text("" if left is None else f"{_duration(left)} left", style="progress.remaining")


class _Bars(rich_progress.Progress):
    """Bars, and below them what their jobs show."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        for task in self.tasks:
            if (below := task.fields["job"].below) is not None:
                yield below


class _Display:
    """The one live area of the terminal, shared by bars within bars."""

    def __init__(self) -> None:
        self._live: rich_progress.Progress | None = None

    def add(self, job: Progress) -> rich_progress.TaskID:
        if self._live is None:
            self._live = _Bars(
                rich_progress.TextColumn("{task.description}", markup=False),
                rich_progress.BarColumn(bar_width=30),
                rich_progress.MofNCompleteColumn(),
                _LeftColumn(),
                rich_progress.TextColumn("{task.fields[values]}", markup=False),
                console=terminal(),
                transient=True,
            )
            self._live.start()
        return self._live.add_task(
            job.description, total=job.total, completed=int(job.done), values="", job=job
        )

    def update(self, bar: rich_progress.TaskID, job: Progress) -> None:
        if self._live is not None:
            self._live.update(bar, completed=job.done, values=job.values)

    def remove(self, bar: rich_progress.TaskID) -> None:
        if self._live is None:
            return
        self._live.remove_task(bar)
        if not self._live.task_ids:
            self._live.stop()
            self._live = None


_DISPLAY = _Display()


def _whole(steps: float) -> str:
    """A number of steps, whole ones with all their digits."""
    return str(int(steps)) if steps == int(steps) else f"{steps:g}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
