"""Steps that run once: their network and record are archived, and read back afterwards."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from tascnet.models.archive import load, save
from tascnet.models.info import ModelInfo
from tascnet.run.records import StepRecord, read_record, write_record

# Name in a step's folder of the file from which an interrupted training resumes.
CHECKPOINT = "fit.pt"
RECORD = "record.json"


@dataclass(frozen=True, kw_only=True)
class Archive:
    """Where the steps of a stage keep their networks.

    Args:
        folder: of the stage; each step has a folder below `state/`.
        info: saved with each network.
        factory: makes chains with blocks of the user's own classes.
        done: names of the steps so far, in order.
    """

    folder: Path
    info: ModelInfo
    factory: Callable[..., nn.Sequential] | None = None
    done: list[str] = field(default_factory=list, init=False)

    def path(self, name: str) -> Path:
        """The folder of a step."""
        return self.folder / "state" / name

    def read(self, folder: Path) -> nn.Sequential:
        """A saved network, in eval mode."""
        return load(folder, factory=self.factory)

    def once(
        self, name: str, work: Callable[[Path], tuple[nn.Sequential, StepRecord]]
    ) -> tuple[nn.Sequential, StepRecord]:
        """The network, in eval mode, and the record of a step, whose `work` is done unless they exist.

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
