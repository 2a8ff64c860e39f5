"""Both stages, one after the other, and one table of what each of them gained."""

from tascnet.config import Config
from tascnet.console import output
from tascnet.errors import ConfigError
from tascnet.files import read_json
from tascnet.report import models_table
from tascnet.runs import stage_folder

from . import prune, tune

__all__ = ["run"]


def run(config: Config) -> None:
    """Run stage `tune`, then stage `prune` on what it left.

    Raises:
        ConfigError: `prune.source` names another model.
    """
    if config.prune.source is not None:
        raise ConfigError(
            "stage=full prunes what it has tuned, but prune.source names another model",
            "leave prune.source out or take stage=prune",
        )
    tune.run(config)
    prune.run(config)
    tuned = read_json(stage_folder(config, "tune") / "metrics.json")["models"]
    pruned = read_json(stage_folder(config, "prune") / "metrics.json")["models"]
    models = {
        "baseline": tuned["baseline"],
        "conventional": tuned["conventional"],
        "tuned": tuned["after"],
        "pruned": pruned["after"],
    }
    output().print(models_table(models, title="From the baseline to the pruned network"))
