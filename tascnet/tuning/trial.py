"""One trial of a search: a line of the journal."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from tascnet.errors import ConfigError, RunFolderError
from tascnet.run.files import read_jsonl
from tascnet.tuning.space import FIRST_TRAINED, Configuration, Space

Status: TypeAlias = Literal["ok", "failed", "stopped", "infeasible"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of a proposal.

    Args:
        trial: its number.
        depth: the depth it was asked for at.
        config: canonical configuration.
        status: `ok`; `stopped` early, which enters the fit and never wins; `infeasible`, its measured latency
            is above the bound and it was not trained; `failed`. The last two have a reason and no value.
        value: what it is judged by (`Goal.value`), larger is better; of a stopped trial the best until then.
        reason: why it is not `ok`.
        val_accuracy: validation accuracy of the best epoch (the one of the lowest loss with that goal), in
            [0, 1].
        val_loss: validation loss of the best epoch.
        curve: validation accuracy after each epoch.
        params: parameters of the whole network.
        flops: FLOPs of one sample.
        latency_ms: measured before training, where it is bounded.
        seconds: time it took.
        epochs: epochs trained.
        surrogate: hyperparameters of the surrogate that proposed it.

    Raises:
        ConfigError: the fields contradict the status.
    """

    trial: int
    depth: int
    config: Configuration
    status: Status
    value: float | None = None
    reason: str | None = None
    val_accuracy: float | None = None
    val_loss: float | None = None
    curve: list[float] | None = None
    params: int | None = None
    flops: int | None = None
    latency_ms: float | None = None
    seconds: float = 0.0
    epochs: int | None = None
    surrogate: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise self._error(f"the status {self.status!r}", f"one of {', '.join(get_args(Status))}")
        for name in ("value", "val_accuracy"):
            self._check_value(name, getattr(self, name))
        if self.status == "infeasible" and self.latency_ms is None:
            raise self._error("no latency_ms", "the one that makes it infeasible")
        if self.status in ("failed", "infeasible") and not self.reason:
            raise self._error("no reason", "one, because it is " + self.status)

    @property
    def is_trained(self) -> bool:
        """Whether it has a value."""
        return self.value is not None

    def row(self) -> dict[str, Any]:
        """The journal's line."""
        return asdict(self)

    def _check_value(self, name: str, value: Any) -> None:
        if self.status in ("failed", "infeasible"):
            if value is not None:
                raise self._error(f"{name} {value!r}", "a reason and no value, because it is " + self.status)
        elif not _is_number(value) or not math.isfinite(value):
            raise self._error(f"{name} {value!r}", "a finite number")

    def _error(self, has: str, expected: str) -> ConfigError:
        return ConfigError(f"trial {self.trial} has {has}, expected {expected}")


def read_trials(path: Path, space: Space) -> list[Trial]:
    """The trials of a journal; none where there is no file.

    Raises:
        RunFolderError: a line is no trial of this space.
    """
    trials = []
    for line, row in enumerate(read_jsonl(path), start=1):
        try:
            trials.append(_parse(row, space))
        except ConfigError as error:
            raise RunFolderError(
                f"line {line} of the journal {path} does not fit this search ({error})",
                "give the options that it was made with, use another name, or fresh=true, which deletes it",
            ) from error
    return trials


def _parse(row: Mapping[str, Any], space: Space) -> Trial:
    names = {field.name for field in fields(Trial)}
    if row.keys() != names:
        missing, unknown = sorted(names - row.keys()), sorted(row.keys() - names)
        raise ConfigError(f"missing fields: {missing}, unknown fields: {unknown}")
    for name, kind in _KINDS.items():
        if not isinstance(row[name], kind) or isinstance(row[name], bool):
            raise ConfigError(f"{name} is {row[name]!r}")
    return Trial(**{**row, "config": space.canonical(_known(row["config"], space))})


def _known(config: Mapping[str, Any], space: Space) -> Mapping[str, Any]:
    """A configuration without the choices of units deeper than the space, which it leaves neutral.

    Raises:
        ConfigError: it trains such a unit.
    """
    first = config.get(FIRST_TRAINED)
    if isinstance(first, int) and first > space.depth:
        raise ConfigError(f"it went to unit {first}, and tune.max_units ends at {space.depth}")
    names = {FIRST_TRAINED, *(choice.name for choice in space.choices)}
    return {name: value for name, value in config.items() if name in names}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_MAYBE_INT, _MAYBE_FLOAT = (int, type(None)), (int, float, type(None))
_KINDS: dict[str, tuple[type, ...]] = {
    "trial": (int,),
    "depth": (int,),
    "config": (dict,),
    "reason": (str, type(None)),
    "val_loss": _MAYBE_FLOAT,
    "curve": (list, type(None)),
    "params": _MAYBE_INT,
    "flops": _MAYBE_INT,
    "latency_ms": _MAYBE_FLOAT,
    "seconds": (int, float),
    "epochs": _MAYBE_INT,
    "surrogate": (dict, type(None)),
}
