"""The saved model that stage `prune` starts from, and whether it may."""

import logging
from pathlib import Path

from tascnet.errors import ConfigError, RunFolderError
from tascnet.models.info import ModelInfo
from tascnet.options import Config
from tascnet.run.files import digest_file, digest_json, read_json
from tascnet.run.folder import finished, identity, stage_folder

from ..session import Session

log = logging.getLogger("tascnet")

# What decides which samples are test samples.
SPLIT_KEYS = (
    "seed",
    "input.data",
    "dataset.train_per_class",
    "dataset.val_per_class",
    "dataset.train_fraction",
    "dataset.val_fraction",
)


def source_folder(config: Config) -> Path:
    """The saved model to prune: `prune.source`, or what stage `tune` left in the same run folder.

    Raises:
        RunFolderError: there is neither.
    """
    if config.prune.source is not None:
        return Path(config.prune.source)
    folder = stage_folder(config, "tune")
    if not finished(folder):
        raise RunFolderError(
            f"stage prune needs a tuned model, but there is none in {folder}",
            "run stage=tune with the same options first, or give prune.source=<folder of a saved model>",
        )
    return folder / "model"


def source_digest(source: Path) -> str:
    """A digest of a saved model."""
    return digest_json([digest_file(source / name) for name in ("model.safetensors", "architecture.json")])


def check_source(session: Session, info: ModelInfo, source: Path, folder: Path) -> None:
    """Refuse a model that does not fit the data, or that the stage would overwrite.

    Args:
        session: the data and the config.
        info: what is saved beside the model.
        source: where the model is archived.
        folder: of the stage.

    Raises:
        ConfigError: it has other classes, lies in the stage's folder, or has seen test images.
    """
    _check_classes(session, info, source)
    if folder.resolve() in source.resolve().parents:
        raise ConfigError(
            f"prune.source={source} lies in the folder that this stage writes to",
            "choose another folder with name=..., or another model",
        )
    _check_split(session, source)


def _check_classes(session: Session, info: ModelInfo, source: Path) -> None:
    if info.class_names != session.dataset.class_names:
        raise ConfigError(
            f"the model in {source} knows {len(info.class_names)} classes and the data set has "
            f"{len(session.dataset.class_names)} that are not the same",
            "give the data set that the model was trained on",
        )


def _check_split(session: Session, source: Path) -> None:
    trained = source.parent / "identity.json"
    if not trained.exists():
        log.warning("nothing says which images the model in %s has seen: test accuracy may flatter", source)
        return
    known = read_json(trained)
    now = identity(session.config, "prune", {"data": session.dataset.fingerprint})
    differing = [key for key in SPLIT_KEYS if key in known and known[key] != now.get(key)]
    if differing:
        raise ConfigError(
            f"the model in {source} was trained on another split of the data ({', '.join(differing)} differ)"
            " and may know the test images",
            "give the options that it was tuned with",
        )
