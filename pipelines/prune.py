"""Stage two: remove the filters that stayed redundant through the training history.

Each iteration records a history, pulls the most similar filters together, removes one of each pair,
measures batch-norm anew and retrains; the last network inside the tolerance is handed over.
"""

import logging
import time
from pathlib import Path
from typing import Any

from torch import nn

from tascnet.measure import compare_layers, complexity, size_bytes, versions
from tascnet.models.archive import save
from tascnet.models.info import Preprocessing
from tascnet.models.text import TextPreprocessing
from tascnet.options import PRUNE_CRITERIA, Config
from tascnet.pruning import find_importance
from tascnet.report import models_table, prune_report, speed_lines, widths_table
from tascnet.run.console import output
from tascnet.run.files import append_jsonl, read_json, write_json, write_jsonl
from tascnet.run.folder import budget, claim, finished, identity

from .estimate import print_iteration_estimate
from .pruning.blocks import removable_blocks
from .pruning.iteration import iterate, latency_of, unpruned_row
from .pruning.journal import Row, judge_rows, read_rows, replayed, with_missed_goals, with_verdict
from .pruning.sensitivity import known_sensitivities, sensitivities
from .pruning.source import check_source, source_digest, source_folder
from .pruning.stage import PruneStage, eligible_groups, open_stage, train
from .session import check_data
from .steps import describe, fit_record, judge, measure, measured_anew

log = logging.getLogger("tascnet")


def run(config: Config) -> None:
    """Run stage `prune`, or go on with it, or say that it is finished."""
    stage = _open(config)
    inputs = {"data": stage.session.dataset.fingerprint, "model": source_digest(stage.source)}
    with claim(stage.folder, identity(config, "prune", inputs), fresh=config.fresh):
        if finished(stage.folder, budget(config, "prune")):
            log.info("prune is finished in %s; fresh=true starts it over", stage.folder)
            _add(stage)
        else:
            _prune(stage)
        metrics = read_json(stage.folder / "metrics.json")
        output().print(widths_table(*_widths(metrics["widths"])))
        output().print(models_table(metrics["models"]))
        for line in speed_lines(metrics["models"], metrics.get("removable_blocks", 0)):
            log.info(line)


def _open(config: Config) -> PruneStage:
    """Find every mistake before the folder is claimed: it must not cost what fresh=true would replace."""
    check_data(config)
    stage = open_stage(config, source_folder(config))
    check_source(stage.session, stage.info, stage.source, stage.folder)
    _tell_of_input(config, stage.info.preprocessing)
    has_blocks = config.prune.blocks and bool(removable_blocks(stage, stage.before))
    eligible_groups(stage, stage.before, refuse=not has_blocks)
    if config.prune.criterion not in PRUNE_CRITERIA:
        find_importance(config.prune.criterion)
    return stage


def _tell_of_input(config: Config, known: Preprocessing | TextPreprocessing) -> None:
    """Say where a saved network takes other inputs than the options would give a new one."""
    if isinstance(known, TextPreprocessing):
        asked, own, option = config.dataset.max_tokens, known.max_tokens, "dataset.max_tokens"
    else:
        asked, own, option = config.backbone.size, known.size, "backbone.size"
    if asked != own:
        log.info("the saved network keeps the inputs that it was made for: %s=%d, not %d", option, own, asked)


def _prune(stage: PruneStage) -> None:
    options = stage.config.prune
    print_iteration_estimate(stage.session, stage.before)
    if stage.config.prune.sensitivity:
        sensitivities(stage)
    rows = read_rows(stage.journal)
    if not rows:
        rows.append(unpruned_row(stage))
        append_jsonl(stage.journal, rows[0])
    if options.target_latency_ms is not None and any("latency_ms" not in row for row in rows):
        # The goal is younger than these rows.
        rows = [{**row, **latency_of(stage, stage.session.place(stage.read(row)))} for row in rows]
        write_jsonl(stage.journal, rows)
    known, (rows, verdict) = len(rows), replayed(rows, options)
    reason = verdict.reason
    if reason is None and len(rows) < known:
        # What followed started from another network than it would under these options.
        write_jsonl(stage.journal, rows)
    while reason is None:
        row, reason = iterate(stage, rows, verdict.keep, verdict.step)
        if row is None:
            break
        verdict = judge_rows([*rows, row], options)
        row["inside"] = verdict.inside[-1]
        append_jsonl(stage.journal, row)
        rows.append(row)
        reason = verdict.reason
    assert reason is not None, "the loop ends with a reason"
    reason = with_missed_goals(reason, rows, verdict.keep, options)
    log.info("pruning ended after %d iterations: %s", len(rows) - 1, reason)
    _deliver(stage, with_verdict(rows, verdict), verdict.keep, reason)


def _deliver(stage: PruneStage, rows: list[Row], kept: int, reason: str) -> None:
    """Save and measure the kept network, and read the test split for it and for the unpruned one."""
    measuring = time.perf_counter()
    session, config = stage.session, stage.config
    after = _recovered(stage, rows[kept])
    # Without its metrics the stage counts as unfinished, whatever interrupts the lines below.
    (stage.folder / "metrics.json").unlink(missing_ok=True)
    save(stage.folder / "model", after, stage.info)
    networks = {"before": stage.before, "after": session.place(after)}
    costs = measure(session, networks)
    widths = compare_layers(complexity(stage.before, session.example), complexity(after, session.example))
    metrics = {
        "models": {
            name: {**judge(session, network), **costs[name], "size_bytes": size_bytes(stage.archives[name])}
            for name, network in networks.items()
        },
        "iterations": len(rows) - 1,
        "kept_iteration": kept,
        "stopped": reason,
        "removable_blocks": 0 if config.prune.blocks else len(removable_blocks(stage, after)),
        "tolerance": config.prune.tolerance,
        "widths": widths,
        "budget": budget(config, "prune"),
        "seconds": sum(row["seconds"] for row in rows) + time.perf_counter() - measuring,
        "seed": config.seed,
        "versions": versions(),
        **describe(session),
    }
    if config.prune.sensitivity or known_sensitivities(stage):
        metrics["sensitivity"] = sensitivities(stage)
    _write(stage, metrics, rows)


def _add(stage: PruneStage) -> None:
    """What is asked of a finished stage beside: other options of `measure`, or the sensitivities."""
    known = read_json(stage.folder / "metrics.json")
    metrics = measured_anew(stage.session, known, stage.archives) or known
    if stage.config.prune.sensitivity:
        metrics = {**metrics, "sensitivity": sensitivities(stage)}
    if metrics != known:
        _write(stage, metrics, with_verdict(*replayed(read_rows(stage.journal), stage.config.prune)))


def _write(stage: PruneStage, metrics: dict[str, Any], rows: list[Row]) -> None:
    """The report, then the metrics, which say that the stage is finished."""
    prune_report(stage.folder / "report.html", metrics, rows, metrics["widths"])
    write_json(stage.folder / "metrics.json", metrics)
    log.info("report: %s", stage.folder / "report.html")


def _recovered(stage: PruneStage, row: Row) -> nn.Sequential:
    """The kept network after a last, longer recovery, or as it is where that brings nothing."""
    epochs = stage.config.prune.final_epochs
    network = stage.read(row)
    if not epochs or not row["iteration"]:
        return network

    def work(folder: Path) -> tuple[nn.Sequential, dict[str, Any]]:
        stage.session.place(network)
        result = train(stage, network, folder, "final", epochs, distillation=stage.distillation)
        return network, fit_record(result)

    recovered, record = stage.once(f"{row['state']}-final", work)
    log.info("after the last recovery: validation accuracy %.2f %%", 100 * record["val_accuracy"])
    return recovered if record["val_accuracy"] >= row["val_accuracy"] else stage.read(row)


def _widths(rows: list[dict[str, Any]]) -> tuple[dict[str, int], dict[str, int]]:
    """Widths by layer, before and after."""
    before, after = ({row["layer"]: row[side] for row in rows} for side in ("before", "after"))
    return before, after
