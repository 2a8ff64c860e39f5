"""What the steps of stage `prune` share: session, networks, folders, and how they train."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from tascnet.errors import ConfigError
from tascnet.models.archive import load
from tascnet.models.info import ModelInfo
from tascnet.options import Config
from tascnet.run.files import read_json
from tascnet.run.folder import stage_folder
from tascnet.surgery import WidthGroup, width_groups
from tascnet.train import Distillation, FitResult, freeze_before

from ..session import Session, open_session, recipe, user_factory
from ..steps import once
from .journal import Row

Work = Callable[[Path], tuple[nn.Sequential, dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class PruneStage:
    """Session, unpruned network and folders.

    Args:
        session: data, device and training.
        folder: of the stage.
        source: where the unpruned network is archived.
        before: the unpruned network, on the device.
        info: what is saved beside the networks.
    """

    session: Session
    folder: Path
    source: Path
    before: nn.Sequential
    info: ModelInfo

    @property
    def config(self) -> Config:
        return self.session.config

    @property
    def journal(self) -> Path:
        return self.folder / "iterations.jsonl"

    @property
    def archives(self) -> dict[str, Path]:
        """Where the models lie that the stage compares."""
        return {"before": self.source, "after": self.folder / "model"}

    @property
    def distillation(self) -> Distillation | None:
        """The unpruned network as a teacher, where `prune.distill` asks for one."""
        options = self.config.prune
        if not options.distill:
            return None
        return Distillation(
            teacher=self.before, weight=options.distill, temperature=options.distill_temperature
        )

    def archive(self, row: Row) -> Path:
        """Where the network of a row of the journal lies; that of row 0 is the unpruned one."""
        return self.source if row["iteration"] == 0 else self.state(row["state"])

    def read(self, row: Row) -> nn.Sequential:
        """The network of a row of the journal."""
        return load(self.archive(row), factory=self.session.factory)

    def state(self, name: str) -> Path:
        """Where one step keeps its result."""
        return self.folder / "state" / name

    def once(self, name: str, work: Work) -> tuple[nn.Sequential, dict[str, Any]]:
        """The network and record of a step, which is done if it has not been."""
        return once(self.state(name), self.info, work, self.session.factory)


def open_stage(config: Config, source: Path) -> PruneStage:
    """Load a saved model and the data that it is pruned on.

    Args:
        config: the composed config; the stage's folder follows from it.
        source: where the model is archived.
    """
    before = load(source, factory=user_factory(config))
    info = cast(ModelInfo, before.info)
    session = open_session(config, info.preprocessing)
    return PruneStage(
        session=session,
        folder=stage_folder(config, "prune"),
        source=source,
        before=session.place(before),
        info=info,
    )


def first_block(stage: PruneStage) -> int:
    """Index of the first block that may change: 0, or with `prune.where=tail` where the search began.

    Raises:
        ConfigError: nothing says which layers stage tune has searched.
    """
    if stage.config.prune.where == "all":
        return 0
    known = stage.source.parent / "metrics.json"
    first = read_json(known).get("first_searched_block") if known.exists() else None
    if first is None:
        raise ConfigError(
            f"prune.where=tail needs to know which layers were searched, but beside {stage.source} nothing "
            "tells it",
            "give a model of stage=tune, or prune.where=all",
        )
    return int(first)


def eligible_groups(stage: PruneStage, network: nn.Sequential, *, refuse: bool = False) -> list[WidthGroup]:
    """The groups wide enough to be pruned, of those layers that may change.

    Raises:
        ConfigError: with `refuse`, where there is none.
    """
    minimum, first = stage.config.prune.min_filters, first_block(stage)
    groups = [g for g in width_groups(network, stage.session.example) if g.first_block >= first]
    eligible = [group for group in groups if group.width >= minimum]
    if refuse:
        refuse_narrow(groups, minimum)
    return eligible


def refuse_narrow(groups: Sequence[WidthGroup], minimum: int) -> None:
    """Refuse a network none of whose groups is wide enough to be pruned.

    Raises:
        ConfigError: it is one.
    """
    widest = max((group.width for group in groups), default=0)
    if widest < minimum:
        raise ConfigError(
            f"no group of layers has at least prune.min_filters={minimum} filters, the widest has {widest}",
            f"lower it, for example prune.min_filters={max(2, widest // 2)}",
        )


def train(
    stage: PruneStage, network: nn.Sequential, folder: Path, phase: str, epochs: int, **options: Any
) -> FitResult:
    """Train every layer by the recovery recipe; `options` are those of `tascnet.train.fit`."""
    freeze_before(network, 0)
    steps = recipe(stage.config.trainer.recover, epochs=epochs)
    if phase in ("history", "optimise"):
        steps = replace(steps, lr=steps.lr * stage.config.prune.phase_lr)
    return stage.session.fit(network, steps, checkpoint=folder / f"{phase}.pt", description=phase, **options)
