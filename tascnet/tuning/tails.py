"""Training the tails of candidates on cached activations of the frozen trunk."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from torch import nn

from tascnet.data import Segment, prefix_digests
from tascnet.errors import BudgetError
from tascnet.run.records import EpochRecord, TrainingRecord
from tascnet.train import FeaturePair, Learner, SpreadOf, cache_places, cached_pair, reestimate_batchnorm
from tascnet.tuning.build import Candidate

log = logging.getLogger("tascnet")


class Tails:
    """Trains the tails of one chain's candidates.

    Args:
        learner: samples, device and recipes.
        chain: the network whose trunk the candidates have; it is on the device and is not changed.
        objective: `loss` keeps the epoch of the lowest validation loss, others that of the best accuracy.
        cuts: blocks before which activations will be asked for. The first time they are all computed, in one
            pass, where they fit the cache together.
    """

    def __init__(
        self,
        learner: Learner,
        chain: nn.Sequential,
        objective: str = "accuracy",
        cuts: Sequence[int] = (),
    ) -> None:
        self.learner, self.chain, self.cuts = learner, chain, tuple(cuts)
        self._keep = "lowest_loss" if objective == "loss" else "best"
        self._digests = prefix_digests(chain)
        # Only one pair, because features on a device take memory.
        self._pair: tuple[str, FeaturePair] | None = None
        self._is_filled = False

    def features(self, cut: int) -> FeaturePair:
        """Activations before block `cut`.

        Raises:
            BudgetError: they would take more than the cache's limit.
        """
        digest = self._digests[cut]
        if self._pair is None or self._pair[0] != digest:
            self._pair = None
            self.fill()
            self._pair = digest, cached_pair(self.learner, self.chain[:cut], digest)
        return self._pair[1]

    def fill(self, spread: SpreadOf | None = None) -> None:
        """Cache the activations of all cuts in one pass; nothing where they do not fit together.

        With `spread` the pass runs elsewhere; see `cache_places`.
        """
        cuts = () if self._is_filled else self.cuts
        self._is_filled = True
        places = [
            Segment(digest=self._digests[stop], blocks=self.chain[start:stop])
            for start, stop in pairwise([0, *sorted(set(cuts))])
        ]
        try:
            cache_places(self.learner, places, spread)
        except BudgetError as error:
            log.info("features are cached one cut at a time (%s)", error.message)

    def forget(self) -> None:
        """Free the memory of the features that were read last."""
        self._pair = None

    def train(
        self,
        candidate: Candidate,
        description: str,
        *,
        checkpoint: Path | None = None,
        stop: Callable[[Sequence[EpochRecord]], bool] | None = None,
    ) -> tuple[nn.Sequential, TrainingRecord]:
        """The whole network of a candidate, its tail trained in place on features by the recipe `trial`.

        Args:
            candidate: of the chain.
            description: of the progress bar.
            checkpoint: file from which an interrupted training resumes.
            stop: takes all epochs so far; training ends when it returns True.
        """
        tail = self.learner.place(candidate.tail)
        tail.requires_grad_(True)
        for name in candidate.frozen:
            tail.get_submodule(name).requires_grad_(False)
        features = self.features(candidate.cut)
        if candidate.first_changed is not None:
            reestimate_batchnorm(
                tail, features[0], first_block=candidate.first_changed, device=self.learner.device
            )
        recipe = self.learner.trainer.recipe("trial")
        training = self.learner.fit(
            tail,
            recipe.at(recipe.lr * candidate.lr_factor),
            features=features,
            keep=self._keep,
            checkpoint=checkpoint,
            description=description,
            stop=stop,
        )
        return join(self.chain[: candidate.cut], tail), training


def join(trunk: nn.Sequential, tail: nn.Sequential) -> nn.Sequential:
    """One chain of the blocks of both, under their names."""
    return nn.Sequential(OrderedDict([*trunk.named_children(), *tail.named_children()]))
