"""What the steps of stage `tune` share: session, network, folders and cached features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from tascnet import data
from tascnet.models.info import ModelInfo
from tascnet.options import Config

from ..backbone import Source
from ..session import Session
from ..steps import once

# Of the training and of the validation samples.
Features = tuple[data.FeatureSource, data.FeatureSource]
Work = Callable[[Path], tuple[nn.Sequential, dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class TuneStage:
    """Session, source network and folders of one search.

    Args:
        session: data, device and training.
        source: the pre-trained network.
        folder: of the search: its journal and all that was trained.
        output: of the model that is handed over; another folder than the search's where a trial is picked.
        done: the steps that were asked for.
    """

    session: Session
    source: Source
    folder: Path
    output: Path
    done: list[str] = field(default_factory=list, init=False)
    _features: dict[str, Features] = field(default_factory=dict, init=False, repr=False)
    _digests: list[Any] = field(default_factory=list, init=False, repr=False)

    @property
    def config(self) -> Config:
        return self.session.config

    @property
    def info(self) -> ModelInfo:
        return self.session.model_info(self.source.weights, self.source.licence)

    @property
    def journal(self) -> Path:
        return self.folder / "trials.jsonl"

    def state(self, name: str) -> Path:
        """Where one step keeps its result."""
        return self.folder / "state" / name

    def once(self, name: str, work: Work) -> tuple[nn.Sequential, dict[str, Any]]:
        """The network and record of a step, which is done if it has not been."""
        if name not in self.done:
            self.done.append(name)
        return once(self.state(name), self.info, work, self.session.factory)

    def features(self, chain: nn.Sequential, cut: int) -> Features:
        """Cached activations before block `cut`: training samples in all views, validation samples plain.

        Raises:
            BudgetError: they would take more than the cache's limit.
        """
        digest = self._digest(chain, cut)
        if digest not in self._features:
            # One pair at a time: on a device these take memory.
            self._features.clear()
            trunk = chain[:cut].eval()
            train = self._cached(trunk, digest, self.session.train, self.session.views)
            val = self._cached(trunk, digest, self.session.val, ("plain",), beside=(train,))
            device = self.session.device
            self._features[digest] = train.resident(device), val.resident(device)
        return self._features[digest]

    def _digest(self, chain: nn.Sequential, cut: int) -> str:
        """Of the trunk; all prefixes of the chain that trials share are digested in one pass."""
        if not self._digests or self._digests[0] is not chain:
            self._digests[:] = [chain, data.prefix_digests(chain)]
        return str(self._digests[1][cut])

    def _cached(
        self,
        trunk: nn.Sequential,
        digest: str,
        source: data.SampleSource,
        views: tuple[str, ...],
        beside: Sequence[data.FeatureSource] = (),
    ) -> data.FeatureSource:
        return data.cached_features(
            trunk,
            source,
            views=views,
            beside=beside,
            folder=self.session.cache / "features",
            trunk_digest=digest,
            dtype=self.config.tune.cache_dtype,
            limit_gb=self.config.cache_limit_gb,
            device=self.session.device,
        )
