"""Stage one: learn the configuration of the deeper layers, then fine-tune the winner.

Baseline, search, conventional fine-tuning, fine-tuning of the winner, measurement, report, each
done once and read back when the stage is started again. `tune.pick=<trial>` fine-tunes another trial
of a finished search, in a folder of its own.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from tascnet.errors import ConfigError
from tascnet.measure import size_bytes, versions
from tascnet.models.archive import save
from tascnet.models.head import head_start
from tascnet.options import Config
from tascnet.report import models_table, tune_report
from tascnet.run.console import output
from tascnet.run.files import digest_json, read_json, read_jsonl, write_json
from tascnet.run.folder import budget, claim, finished, identity, stage_folder
from tascnet.tuning import Study, Trial

from .backbone import Source, open_run, softmax_network
from .estimate import print_estimate
from .session import Session, check_data, check_input, recipe
from .steps import CHECKPOINT, describe, fit_record, join, judge, measure, measured_anew
from .tuning.finding import findings, print_findings
from .tuning.finetune import conventional, fine_tune, freeze
from .tuning.space import Search, most_trials, open_search
from .tuning.stage import TuneStage
from .tuning.trials import no_winner, run_search

# Models by name: network, frozen as it was trained, and folder of its archive.
Models = dict[str, tuple[nn.Sequential, Path]]

log = logging.getLogger("tascnet")


def run(config: Config, *, check: Callable[[Source, Session], None] | None = None) -> None:
    """Run stage `tune`, or go on with it, or say that it is finished.

    Args:
        config: the composed config.
        check: refuses what the backbone and the data do not allow, before the search.

    Raises:
        ConfigError: `tune.pick` names a trial of a search that is not finished, or one that is not there.
    """
    check_data(config)
    folder, output_folder = stage_folder(config, "search"), stage_folder(config, "tune")
    _check_pick(config, folder)
    source, session = open_run(config)
    check_input(source.chain, session)
    if check is not None:
        check(source, session)
    inputs = {"data": session.dataset.fingerprint, "weights": source.digest}
    known = identity(config, "tune", inputs)
    with _claimed(config, folder, output_folder, known):
        if finished(output_folder, budget(config, "tune")):
            log.info("tune is finished in %s; fresh=true starts it over", output_folder)
            _measure_anew(session, folder, output_folder)
        else:
            _tune(TuneStage(session=session, source=source, folder=folder, output=output_folder))
        metrics = read_json(output_folder / "metrics.json")
        print_findings(metrics)
        output().print(models_table(metrics["models"]))


def _measure_anew(session: Session, folder: Path, output_folder: Path) -> None:
    """Where other options of `measure` are given than those of a finished stage, measure latencies again."""
    metrics = read_json(output_folder / "metrics.json")
    archives = {name: folder / place for name, place in metrics["archives"].items()}
    changed = measured_anew(session, metrics, {**archives, "after": output_folder / "model"})
    if changed is not None:
        tune_report(output_folder / "report.html", changed, read_jsonl(folder / "trials.jsonl"))
        write_json(output_folder / "metrics.json", changed)


def _check_pick(config: Config, folder: Path) -> None:
    """Refuse a trial that cannot be picked before anything is loaded."""
    pick = config.tune.pick
    if pick is None:
        return
    if not finished(folder, budget(config, "tune")):
        raise ConfigError(
            f"tune.pick={pick} takes a trial of a finished search, but {folder} holds none of these options",
            "run the same command without tune.pick first",
        )
    done = [row["trial"] for row in read_jsonl(folder / "trials.jsonl") if row["status"] == "ok"]
    if pick not in done:
        raise ConfigError(
            f"tune.pick={pick} is no finished trial of this search",
            f"choose one of {', '.join(map(str, done))}",
        )


@contextmanager
def _claimed(config: Config, folder: Path, output_folder: Path, known: dict[str, Any]) -> Iterator[None]:
    """Hold the folder of the search and, where a trial is picked, that trial's too."""
    pick = config.tune.pick
    if pick is None:
        with claim(folder, known, fresh=config.fresh):
            yield
        return
    row = [row for row in read_jsonl(folder / "trials.jsonl") if row["trial"] == pick]
    own = {**known, "tune.pick": pick, "input.trial": digest_json(row)}
    with claim(folder, known), claim(output_folder, own, fresh=config.fresh):
        yield


def _tune(stage: TuneStage) -> None:
    chain = _baseline(stage)
    search = open_search(stage, chain)
    options: Any = stage.config.tune
    study = Study(
        stage.journal,
        search.space,
        seed=stage.config.seed,
        goal=search.goal,
        algorithm="layerwise" if options.freeze == "layerwise" else options.algorithm,
        every=options.freeze_every,
    )
    if options.pick is None:
        deepest = search.space.depth if search.limits.every else search.limits.max_units
        depth = min(deepest, search.space.depth)
        print_estimate(stage.session, chain, search.space, most_trials(search), depth)
        stopped = run_search(search, study)
        winner = study.winner(len(stage.session.val), options.tolerance)
        if winner is None:
            raise no_winner(study)
        log.info("the search ended (%s); trial %d wins", stopped, winner.trial)
    else:
        stopped = read_json(stage.folder / "metrics.json")["stopped"]
        winner = next(trial for trial in study.trials if trial.trial == options.pick)
    tuned = fine_tune(search, winner)
    first_trained = tuned.first_trained
    usual, usual_folder = conventional(stage, chain, first_trained)
    # Without its metrics the stage counts as unfinished, whatever interrupts the lines below.
    (stage.output / "metrics.json").unlink(missing_ok=True)
    save(stage.output / "model", tuned.network, stage.info)
    freeze(chain, head_start(chain))
    freeze(usual, first_trained)
    freeze(tuned.network, first_trained, tuned.frozen)
    models = {
        "baseline": (chain, stage.state("baseline")),
        "conventional": (usual, usual_folder),
        "after": (tuned.network, stage.output / "model"),
    }
    facts = {
        "winner": winner.trial,
        "finetuned_from": tuned.origin,
        # Index of the first block that the search could change.
        "first_searched_block": search.space.units[int(winner.config["first_trained"])].block,
        "stopped": stopped,
        # Where the models lie that the winner is compared with, in the folder of the search.
        "archives": {
            name: str(models[name][1].relative_to(stage.folder)) for name in ("baseline", "conventional")
        },
    }
    _deliver(search, study, winner, models, facts)


def _baseline(stage: TuneStage) -> nn.Sequential:
    """The pre-trained network with a new softmax layer, the only one that is trained."""
    session = stage.session
    chain = softmax_network(stage.source, session)

    def train(folder: Path) -> tuple[nn.Sequential, dict[str, Any]]:
        cut = head_start(chain)
        tail = chain[cut:].requires_grad_(True)
        result = session.fit(
            tail,
            recipe(stage.config.trainer.head),
            features=stage.features(chain, cut),
            checkpoint=folder / CHECKPOINT,
            description="softmax layer",
        )
        return join(chain[:cut], tail), {"first_trained": cut, **fit_record(result)}

    return session.place(stage.once("baseline", train)[0])


def _deliver(search: Search, study: Study, winner: Trial, models: Models, facts: dict[str, Any]) -> None:
    """Measure, write metrics and report; the test split is read here."""
    stage = search.stage
    measuring = time.perf_counter()
    metrics = {
        "models": _measure(stage, models),
        "best_config": winner.config,
        "neutral_config": search.space.neutral(int(winner.config["first_trained"])),
        **facts,
        "trials": len(study.trials),
        **findings(search, study),
        "budget": budget(stage.config, "tune"),
        "seconds": _spent(stage, study) + time.perf_counter() - measuring,
        "seed": stage.config.seed,
        "versions": versions(),
        **describe(stage.session),
    }
    tune_report(stage.output / "report.html", metrics, [trial.row() for trial in study.trials])
    write_json(stage.output / "metrics.json", metrics)
    log.info("report: %s", stage.output / "report.html")


def _spent(stage: TuneStage, study: Study) -> float:
    """Seconds of all trials and of the trainings behind this model, whichever process did them."""
    records = (read_json(stage.state(name) / "record.json") for name in stage.done)
    return sum(trial.seconds for trial in study.trials) + sum(record["seconds"] for record in records)


def _measure(stage: TuneStage, models: Models) -> dict[str, dict[str, Any]]:
    """The contract's figures of each model; the test split is read here and nowhere else."""
    session = stage.session
    costs = measure(session, {name: session.place(network) for name, (network, _) in models.items()})
    return {
        name: {**judge(session, network), **costs[name], "size_bytes": size_bytes(folder)}
        for name, (network, folder) in models.items()
    }
