"""Steps that run once: their network and record are archived, and read back afterwards."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from tascnet.errors import ArchiveError, DamagedFile
from tascnet.models.archive import load, save
from tascnet.models.info import ModelInfo
from tascnet.run.files import digest_file
from tascnet.run.records import StepRecord, read_record, write_record

log = logging.getLogger("tascnet")

# Names in a step's folder of the file from which an interrupted training resumes, and of the features that it
# reads.
CHECKPOINT = "fit.pt"
FEATURES = "features"
RECORD = "record.json"
# Its digest is in the architecture, which `files` of the record covers.
WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Archive:
    """Where the steps of a stage keep their networks.

    Args:
        folder: of the stage; each step has a folder below `state/`.
        info: saved with each network.
        done: names of the steps so far, in order.
    """

    folder: Path
    info: ModelInfo
    done: list[str] = field(default_factory=list, init=False)

    def with_info(self, info: ModelInfo) -> "Archive":
        """The same archive, which saves other information with networks."""
        other = replace(self, info=info)
        object.__setattr__(other, "done", self.done)
        return other

    def path(self, name: str) -> Path:
        """The folder of a step."""
        return self.folder / "state" / name

    def read(self, folder: Path) -> nn.Sequential:
        """A saved network, in eval mode."""
        return load(folder)

    def once(
        self, name: str, work: Callable[[Path], tuple[nn.Sequential, StepRecord]]
    ) -> tuple[nn.Sequential, StepRecord]:
        """The network, in eval mode, and the record of a step, whose `work` is done unless they exist.

        A damaged step is done again.

        Args:
            name: of the step.
            work: takes the folder, in which it may keep checkpoints (`*.pt`).
        """
        if name not in self.done:
            self.done.append(name)
        folder = self.path(name)
        found = self._find(name)
        if found is None:
            # Without a record the step is unfinished, whatever interrupts the lines below.
            (folder / RECORD).unlink(missing_ok=True)
            network, came = work(folder)
            save(network, folder, self.info)
            others = (path for path in folder.iterdir() if path.name != WEIGHTS and path.suffix != ".pt")
            files = {path.name: digest_file(path) for path in sorted(others) if path.is_file()}
            write_record(folder / RECORD, replace(came, files=files))
            found = self.read(folder), read_record(folder / RECORD, StepRecord)
        for checkpoint in folder.glob("*.pt"):
            checkpoint.unlink()
        return found

    def has(self, name: str) -> bool:
        """Whether a step is finished and none of its files is damaged."""
        return self._find(name, reports=False) is not None

    def _find(self, name: str, *, reports: bool = True) -> tuple[nn.Sequential, StepRecord] | None:
        """The network and the record of a step; None if it is unfinished, or damaged, which is reported."""
        folder = self.path(name)
        if not (folder / RECORD).exists():
            return None
        try:
            record = read_record(folder / RECORD, StepRecord)
            for file, digest in record.files.items():
                if not (folder / file).is_file() or digest_file(folder / file) != digest:
                    raise DamagedFile(f"{folder / file} was changed or damaged after it was written")
            return self.read(folder), record
        except (DamagedFile, ArchiveError) as error:
            _raise_if_kept_from_reading(error)
            if reports:
                log.warning("%s: the step is computed again", error.message)
            return None

    def drop_features(self) -> None:
        """Remove the features of steps that a killed process left, and that may never be done again."""
        for features in (self.folder / "state").glob(f"*/{FEATURES}"):
            shutil.rmtree(features)

    def holds(self, folder: Path) -> bool:
        """Whether a folder holds a saved network; a damaged one is reported."""
        try:
            self.read(folder)
        except ArchiveError as error:
            _raise_if_kept_from_reading(error)
            log.warning("%s: it is made again from the steps", error.message)
            return False
        return True


def _raise_if_kept_from_reading(error: Exception) -> None:
    """Raise the error of a file that is there, but may not be read, or is a folder or a pipe."""
    cause = error.__cause__
    if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
        raise error
