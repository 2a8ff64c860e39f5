"""Compare a pruning criterion of your own with the built-in ones: python examples/own_criterion.py"""

import torch
import torch_pruning

import tascnet


class Spread(torch_pruning.importance.Importance):
    """A filter is as important as the spread of its weights."""

    def __call__(self, group: torch_pruning.Group) -> torch.Tensor | None:
        dependency, channels = group[0]
        weight = getattr(dependency.target.module, "weight", None)
        return None if weight is None else weight.detach().flatten(1).std(1)[channels]


def main() -> None:
    """Prune one network by three criteria to the same FLOPs."""
    data = tascnet.digits()
    network = tascnet.backbone("digits_cnn")
    options = tascnet.Tune(max_trials=4, initial_trials=3, neurons=[32], round_to=4)
    tuned = tascnet.tune(network, data, options)
    for criterion in ("own_criterion.Spread", "magnitude", "reconstruction"):
        options = tascnet.Prune(
            criterion=criterion, scope="group", one_shot=True, min_filters=8, round_to=4, flops_target=0.6
        )
        pruned = tascnet.prune(tuned.network, data, options)
        after = pruned.metrics.models["after"]
        print(f"{criterion}: {after.flops} FLOPs, validation accuracy {after.val_accuracy:.1%}")


if __name__ == "__main__":
    main()
