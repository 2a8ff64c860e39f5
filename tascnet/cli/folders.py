"""Where the runs of the command line lie: a function of the config, not of the clock."""

import re
from pathlib import Path
from typing import Any

from tascnet.cli.config import Config
from tascnet.run.files import digest_json
from tascnet.run.folder import DEFAULT_PRUNE

LONGEST_NAME = 120


def run_folder(config: Config) -> Path:
    """`outputs/<dataset>/<backbone>/<name>-seed<seed>`."""
    assert config.name is not None, "a run has a name before it starts"
    name = f"{safe_name(config.name)}-seed{config.seed}"
    return Path(config.outputs) / config.dataset.name / config.backbone.name / name


def cache_folder(config: Config) -> Path:
    """Where runs share what they have computed."""
    return Path(config.cache_dir) if config.cache_dir else Path(config.outputs) / "cache"


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


def stage_keywords(config: Config, folder: Path) -> dict[str, Any]:
    """What every stage passes on to its library function, which works in `folder`."""
    return {
        "trainer": config.trainer,
        "measure": config.measure,
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
