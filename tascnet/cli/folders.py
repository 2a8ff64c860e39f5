"""Where the runs of the command line lie: a function of the config, not of the clock."""

import os
import re
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from tascnet.cli.config import Config
from tascnet.errors import ConfigError, RunFolderError
from tascnet.run.files import digest_json, unwritable
from tascnet.run.folder import DEFAULT_PRUNE, MODEL, finished

LONGEST_NAME = 120
# Bytes of a name that file systems allow.
LONGEST_PART = 255


def run_folder(config: Config) -> Path:
    """`outputs/<dataset>/<backbone>/<name>-seed<seed>`; `/` and `:` in the name of the network become `-`."""
    assert config.name is not None, "a run has a name before it starts"
    name = f"{safe_name(config.name)}-seed{config.seed}"
    network = safe_name(re.sub("[/:]", "-", config.backbone.name))
    return outputs_folder(config) / config.dataset.name / network / name


def outputs_folder(config: Config) -> Path:
    """Where all runs lie."""
    return Path(config.outputs).expanduser()


def is_multirun() -> bool:
    """Whether this is one of several runs of a command with `-m`."""
    # A single run has no number.
    return HydraConfig.initialized() and not OmegaConf.is_missing(HydraConfig.get().job, "num")


def job_digest() -> str:
    """Of the values of one of several runs."""
    return digest_json(list(HydraConfig.get().overrides.task))[:8]


def cache_folder(config: Config) -> Path:
    """Where runs share what they have computed."""
    return Path(config.cache_dir).expanduser() if config.cache_dir else outputs_folder(config) / "cache"


def check_places(config: Config) -> None:
    """Refuse folders in which nothing can be written, before anything is computed.

    Raises:
        ConfigError: it has too long a name, lies below a file, or cannot be written to.
    """
    if config.stage == "predict" and config.predict.output is not None:
        # Nothing else is written.
        return
    places = [("outputs", outputs_folder(config)), ("cache_dir", cache_folder(config))]
    for option, path in places if config.cache_dir else places[:1]:
        if any(len(os.fsencode(part)) > LONGEST_PART for part in path.parts):
            raise ConfigError(
                f"{option} has a name of more than {LONGEST_PART} bytes in it", "give a shorter one"
            )
        if (reason := unwritable(path)) is not None:
            raise ConfigError(f"{option}={path} {reason}", f"give another one with {option}=<folder>")


def stage_folder(config: Config, stage: str) -> Path:
    """The folder of one stage within the run's.

    Args:
        config: the config.
        stage: `pretrain`; `search` (`tune`, whichever trial is picked); `tune` (`tune` or
            `tune-pick<trial>`); `prune` (with a name that is not the default and a picked trial in it).
    """
    if stage in ("search", "pretrain"):
        return run_folder(config) / ("tune" if stage == "search" else stage)
    own = config.prune_run.name
    name = f"prune-{safe_name(own)}" if stage == "prune" and own and own != DEFAULT_PRUNE else stage
    pick = config.tune.pick
    return run_folder(config) / (name if pick is None else f"{name}-pick{pick}")


def given_model(path: str | Path) -> Path:
    """A model that an option names, with a name of its own also where it is `.` or ends in `..`."""
    return Path(os.path.abspath(Path(path).expanduser()))


def last_model(config: Config) -> Path:
    """The folder of the run's last saved model: the pruned one, or else the tuned one.

    Raises:
        RunFolderError: there is none.
    """
    for stage in ("prune", "tune"):
        if finished(folder := stage_folder(config, stage)):
            return folder / MODEL
    raise RunFolderError(
        f"stage={config.stage} needs a saved model, but there is none in {run_folder(config)}",
        f"run stage=full or stage=tune with the same options first, or give {config.stage}.model=<folder>",
    )


def stage_keywords(config: Config, folder: Path) -> dict[str, Any]:
    """What every stage passes on to its library function, which works in `folder`."""
    return {
        "trainer": config.trainer,
        "measure": config.measure,
        "metric": config.metric,
        "seed": config.seed,
        "device": config.device,
        "threads": config.threads,
        "cache": cache_folder(config),
        "cache_limit_gb": config.cache_limit_gb,
        "run": folder,
        "fresh": config.fresh,
    }


def safe_name(text: str) -> str:
    """`text` as the name of a folder: letters, digits and `._=,+-`, at most 120 of them."""
    safe = re.sub(r"[^A-Za-z0-9._=,+-]+", "_", text).lstrip(".") or "_"
    if len(safe) <= LONGEST_NAME:
        return safe
    return f"{safe[: LONGEST_NAME - 9]}-{digest_json(text)[:8]}"
