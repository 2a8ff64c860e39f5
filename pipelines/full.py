"""Both stages, one after the other, and one table of what each of them gained."""

from dataclasses import replace

from tascnet.config import Config
from tascnet.console import output
from tascnet.files import read_json
from tascnet.report import models_table
from tascnet.runs import stage_folder

from . import prune, tune

__all__ = ["run"]


def run(config: Config) -> None:
    """Run stage `tune`, then stage `prune` on what it left."""
    tune.run(config)
    prune.run(replace(config, prune=replace(config.prune, source=None)))
    tuned = read_json(stage_folder(config, "tune") / "metrics.json")["models"]
    pruned = read_json(stage_folder(config, "prune") / "metrics.json")["models"]
    models = {
        "baseline": tuned["baseline"],
        "conventional": tuned["conventional"],
        "tuned": tuned["after"],
        "pruned": pruned["after"],
    }
    output().print(models_table(models, title="From the baseline to the pruned network"))
