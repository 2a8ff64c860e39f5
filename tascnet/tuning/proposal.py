"""A configuration that a search asks to be tried."""

from dataclasses import dataclass
from typing import Any

from tascnet.run.records import Trial


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A configuration to try: a line of `trials.proposed.jsonl`.

    Args:
        trial: the number of its trial.
        depth: the depth at which it is proposed.
        config: canonical.
        seen: how many trials had ended by then; the trial is judged by these.
        surrogate: hyperparameters of the surrogate that proposed it; None: none did.
    """

    trial: int
    depth: int
    config: dict[str, Any]
    seen: int = 0
    surrogate: dict[str, Any] | None = None

    def came(self, status: str, **results: Any) -> Trial:
        """The trial of this proposal."""
        return Trial(
            trial=self.trial,
            depth=self.depth,
            config=self.config,
            surrogate=self.surrogate,
            status=status,
            **results,
        )
