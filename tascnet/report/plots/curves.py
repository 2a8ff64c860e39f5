"""The figure of one training, written as SVG at once: a page has many of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from tascnet.report.numbers import metric_name
from tascnet.report.plots.marks import STEPS, Points, limits
from tascnet.run.records import EpochRecord, TrainingRecord, score

_WIDTH, _HEIGHT = 290, 246
# Where the axes begin and end: from the left, and from the top for the metric and for the loss.
_LEFT, _RIGHT, _METRIC, _LOSS = 46, 282, (22, 122), (158, 214)
_RING = '<circle cx="{:.1f}" cy="{:.1f}" r="5.5" fill="none" stroke="var(--accent)" stroke-width="1.8"/>'


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """Axes from epochs and values to places in the figure.

    Args:
        epochs, values: ends of the axes.
        top, bottom: where they lie.
    """

    epochs: tuple[float, float]
    values: tuple[float, float]
    top: float
    bottom: float

    def place(self, epoch: float, value: float) -> tuple[float, float]:
        """Where a value of an epoch is drawn."""
        (first, last), (low, high) = self.epochs, self.values
        x = _LEFT + (_RIGHT - _LEFT) * (epoch - first) / (last - first)
        return x, self.bottom - (self.bottom - self.top) * (value - low) / (high - low)

    def line(self, places: Points, color: str) -> str:
        """A line through all places, and a dot at the last one."""
        drawn = [self.place(*place) for place in places]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
        line = f'<polyline points="{path}" fill="none" stroke="var(--{color})" stroke-width="1.8"/>'
        return line + "".join(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="var(--{color})"/>' for x, y in drawn[-1:]
        )

    def grid(self, ticks: int, show: Callable[[float], str]) -> str:
        """Faint lines at round values, with the values on the left."""
        parts = []
        for value in MaxNLocator(ticks, steps=STEPS).tick_values(*self.values):
            if self.values[0] <= value <= self.values[1]:
                _, y = self.place(self.epochs[0], value)
                parts.append(f'<path d="M{_LEFT} {y:.1f}H{_RIGHT}" stroke="var(--grid)"/>')
                parts.append(_text(_LEFT - 6, y + 3.5, show(value), "end"))
        return "".join(parts)


def curves_plot(
    training: TrainingRecord, metric: str = "accuracy", ends: tuple[float, float] | None = None
) -> str:
    """The metric and the losses after each epoch, the epoch whose weights were kept ringed.

    Epoch 0 is the network before the training, where it has learnt something by then.

    Args:
        ends: of the axis of the metric, so that several figures compare; None: around its values.
    """
    rows = drawn_epochs(training, metric)
    numbers = [row.epoch for row in rows]
    # A single epoch lies in the middle.
    epochs = (min(numbers) - (len(numbers) == 1), max(numbers) + (len(numbers) == 1))
    values, train, val = (places(rows, field) for field in (f"val_{metric}", "train_loss", "val_loss"))
    losses = [value for _, value in (*train, *val)]
    above = _Panel(
        epochs=epochs, values=ends or metric_ends([training], metric), top=_METRIC[0], bottom=_METRIC[1]
    )
    below = _Panel(epochs=epochs, values=limits(losses, least=0.05), top=_LOSS[0], bottom=_LOSS[1])
    rings = (above.place(*place) for place in values if place[0] == training.best_epoch)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" aria-hidden="true" font-size="11.5">',
        _text(_LEFT, 12, metric_name(metric), "start", "ink"),
        above.grid(4, lambda value: f"{100 * value:.4g} %"),
        above.line(values, "accent"),
        *(_RING.format(x, y) for x, y in rings),
        _text(_LEFT, 148, "loss", "start", "ink"),
        below.grid(3, lambda value: f"{value:.3g}"),
        below.line(train, "second"),
        below.line(val, "accent"),
        *(
            _text(below.place(epoch, 0)[0], _LOSS[1] + 16, f"{epoch:.0f}", "middle")
            for epoch in MaxNLocator(5, integer=True, steps=STEPS).tick_values(*epochs)
            if min(numbers) <= epoch <= max(numbers)
        ),
        _text(_RIGHT, _LOSS[1] + 30, "epoch", "end"),
        "</svg>",
    ]
    return "".join(parts)


def metric_ends(trainings: Sequence[TrainingRecord], metric: str) -> tuple[float, float]:
    """Ends of the axis that holds the metric of all epochs."""
    rows = (drawn_epochs(one, metric) for one in trainings)
    return limits([value for epochs in rows for _, value in places(epochs, f"val_{metric}")])


def drawn_epochs(training: TrainingRecord, metric: str) -> tuple[EpochRecord, ...]:
    """All epochs, after the network before the training; without that where it is less than half as good."""
    before, best = training.before, score(training, metric)
    start = None if before is None else score(before, metric)
    if before is None or start is None or best is None or start < best / 2:
        return training.epochs
    return (before, *training.epochs)


def places(epochs: Sequence[EpochRecord], field: str) -> list[tuple[float, float]]:
    """Epoch and value of a field, where it has one."""
    found = [(row.epoch, getattr(row, field)) for row in epochs]
    return [(epoch, value) for epoch, value in found if value is not None]


def _text(x: float, y: float, text: str, anchor: str, color: str = "muted") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="var(--{color})">{text}</text>'
