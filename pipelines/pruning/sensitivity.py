"""Where a network is fat: its accuracy without a share of each group alone."""

import copy
import logging
from typing import Any

from tascnet.data import evenly, source_of
from tascnet.pruning import WidthCosts
from tascnet.run.console import track
from tascnet.run.files import read_json, write_json
from tascnet.train import evaluate

from .cut import cut, folds_by_activations
from .ranks import measure_inputs, rank_without_history
from .stage import PruneStage, eligible_groups

log = logging.getLogger("tascnet")

FILE = "sensitivity.json"
SHARES = (0.10, 0.25, 0.50)


def sensitivities(stage: PruneStage) -> dict[str, Any]:
    """Validation accuracy without 10, 25 and 50 % of each group's filters, nothing trained; computed once.

    The filters are those that the criterion gives up first (for `history`, by likeness as they are), and
    what stays takes over by `prune.merge`, where `refit` is taken for `fold`.

    Returns:
        `samples` and `accuracy` of the whole network on them, and `groups`: name, width, and by share the
        accuracy and the FLOPs saved.
    """
    wanted = min(stage.config.prune.sensitivity_samples, len(stage.session.val))
    known, asked = stage.state(FILE), stage.config.prune.sensitivity
    if not known.exists() or (asked and read_json(known)["samples"] != wanted):
        write_json(known, _measured(stage, wanted))
    found: dict[str, Any] = read_json(known)
    return found


def known_sensitivities(stage: PruneStage) -> bool:
    """Whether they were asked for before."""
    return stage.state(FILE).exists()


def _measured(stage: PruneStage, samples: int) -> dict[str, Any]:
    session, device = stage.session, stage.session.device
    rows = session.val.rows[evenly(len(session.val), samples)]
    sample = source_of(session.dataset, rows, session.preprocessing)
    network = stage.before
    groups = eligible_groups(stage, network)
    whole = evaluate(network, sample, device=device).accuracy
    if not groups:
        # Blocks alone may go.
        return {"samples": samples, "val_accuracy": whole, "groups": []}
    ranks = rank_without_history(stage, network, groups, most=max(SHARES))
    measured = None
    if folds_by_activations(stage):
        measured = ranks.measured or measure_inputs(stage, network, ranks.groups)
    costs = WidthCosts(network, session.example, [group.name for group in ranks.groups])
    found = []
    for group in track(ranks.groups, "sensitivity"):
        shares = []
        for share in SHARES:
            going = ranks.rankings[group.name].first(max(1, int(group.width * share)))
            narrowed = copy.deepcopy(network)
            history = copy.deepcopy(ranks.history)
            cut(stage, narrowed, [group], {group.name: going}, history=history, measured=measured)
            saved = 1 - costs({group.name: len(going.order)})[1] / costs.flops
            accuracy = evaluate(narrowed, sample, device=device).accuracy
            shares.append({"share": share, "val_accuracy": accuracy, "flops_saved": saved})
        found.append({"group": group.name, "width": group.width, "shares": shares})
    return {"samples": samples, "val_accuracy": whole, "groups": found}
