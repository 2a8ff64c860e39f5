"""Stage pretrain: train a network from random weights, for a file that `backbone.weights` takes."""

import tascnet
from tascnet.cli.config import Config
from tascnet.cli.folders import cache_folder, stage_folder, stage_keywords
from tascnet.data import check_samples
from tascnet.report import class_lines, pretrain_report, stage_tables
from tascnet.report.card import write_card
from tascnet.run.console import output


def run(config: Config) -> None:
    """Run stage `pretrain`, resume it, or show what it gave."""
    cache, folder = cache_folder(config), stage_folder(config, "pretrain")
    check_samples(config.dataset, cache)
    result = tascnet.pretrain(
        tascnet.backbone(config.backbone, weights="random", seed=config.seed),
        config.dataset,
        exclude=config.exclude,
        **stage_keywords(config, folder),
    )
    write_card(folder, result.network, result.metrics)
    pretrain_report(folder / "report.html", result.metrics)
    for part in (*stage_tables(result.metrics), *class_lines(result.metrics)):
        output().print(part)
