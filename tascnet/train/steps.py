"""Work that is done once: its network is archived with a record, and read back afterwards."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from tascnet.models.archive import load, save
from tascnet.models.info import ModelInfo
from tascnet.run.records import StepRecord, read_record, write_record

# What an interrupted training resumes from, in the folder of its step.
CHECKPOINT = "fit.pt"
RECORD = "record.json"


@dataclass(frozen=True, kw_only=True)
class Archive:
    """Where the steps of a stage keep their networks.

    Args:
        folder: of the stage; each step has a folder below `state/`.
        info: what is saved beside each network.
        factory: makes chains with blocks of a user's own class.
        done: names of the steps that were asked for, in order.
    """

    folder: Path
    info: ModelInfo
    factory: Callable[..., nn.Sequential] | None = None
    done: list[str] = field(default_factory=list, init=False)

    def path(self, name: str) -> Path:
        """Where a step keeps its result."""
        return self.folder / "state" / name

    def read(self, folder: Path) -> nn.Sequential:
        """A saved network, in eval mode."""
        return load(folder, factory=self.factory)

    def once(
        self, name: str, work: Callable[[Path], tuple[nn.Sequential, StepRecord]]
    ) -> tuple[nn.Sequential, StepRecord]:
        """Do `work` unless its result is there; gives the network, in eval mode, and the record.

        Args:
            name: of the step.
            work: takes the folder, in which it may keep checkpoints (`*.pt`).
        """
        if name not in self.done:
            self.done.append(name)
        folder = self.path(name)
        if not (folder / RECORD).exists():
            network, came = work(folder)
            save(network, folder, self.info)
            write_record(folder / RECORD, came)
        for checkpoint in folder.glob("*.pt"):
            checkpoint.unlink()
        return self.read(folder), read_record(folder / RECORD, StepRecord)
