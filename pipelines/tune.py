"""Stage one: learn the configuration of the deeper layers, then fine-tune the winner."""

from torch import nn

import tascnet
from tascnet.cli.config import Config
from tascnet.cli.folders import cache_folder, stage_folder, stage_keywords
from tascnet.data import check_samples
from tascnet.options import TUNING
from tascnet.report import (
    class_lines,
    front_table,
    handover_lines,
    insight_lines,
    layerwise_table,
    stage_tables,
)
from tascnet.run.console import output
from tascnet.run.records import TuneMetrics
from tascnet.train import check_trainer
from tascnet.train.setting import computing


def run(config: Config, network: nn.Sequential | None = None) -> None:
    """Run stage `tune`, or resume it, or read back what it found.

    Args:
        config: the config.
        network: the backbone; None: that of the config.
    """
    if network is None:
        cache = cache_folder(config)
        check_samples(config.dataset, cache)
        # Devices that are not there are found before weights are fetched.
        with computing(config.device, config.threads) as device:
            check_trainer(config.trainer, device, TUNING)
            network = tascnet.backbone(config.backbone, seed=config.seed, cache=cache)
    result = tascnet.tune(
        network,
        config.dataset,
        config.tune,
        executor=config.executor,
        **stage_keywords(config, stage_folder(config, "search")),
    )
    _print(result.metrics)


def _print(metrics: TuneMetrics) -> None:
    if not metrics.layerwise:
        for line in insight_lines(metrics.surrogate):
            output().print(line)
    if metrics.front:
        output().print(front_table(metrics.front, metrics.winner, metrics.metric))
    if metrics.layerwise:
        output().print(layerwise_table(metrics.layerwise, metrics.winner, metrics.metric))
    for part in (*stage_tables(metrics), *handover_lines(metrics), *class_lines(metrics)):
        output().print(part)
