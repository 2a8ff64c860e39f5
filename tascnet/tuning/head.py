"""The dense head of the space `tascnet`: its choices, and the head that they describe."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import nn

from tascnet.errors import SurgeryError
from tascnet.models.grow import grow_head
from tascnet.models.head import HeadSpec, head_start, replace_head, with_dropout
from tascnet.options import Tune
from tascnet.tuning.space import Choice

HIDDEN_LAYERS = "head.hidden_layers"
NEURONS = "head.neurons"
DROPOUT = "head.dropout"
GROWN = "head.grown"
NORM = "head.norm"
TAIL_LR = "tail.lr"


def head_choices(chain: nn.Sequential, options: Tune) -> tuple[Choice, ...]:
    """The choices of unit 0."""
    present = [block.p for block in chain[head_start(chain) :] if isinstance(block, nn.Dropout)]
    sizes = tuple(sorted(options.neurons))
    choices = [
        Choice.ordinal(HIDDEN_LAYERS, options.hidden_layers, 0, 0),
        Choice(name=NEURONS, values=sizes, neutral=sizes[0], kind="ordinal", unit=0, only_if=HIDDEN_LAYERS),
        Choice.ordinal(DROPOUT, options.dropouts, float(present[-1]) if present else 0.0, 0),
    ]
    if options.head != "new":
        grown = (1,) if options.head == "grow" else (0, 1)
        norms = options.grow_norms
        # The pre-trained classification layer reads the features at the network's own end.
        choices += [
            Choice(name=GROWN, values=grown, neutral=grown[0], kind="ordinal", unit=0, whole_only=True),
            Choice(
                name=NORM,
                values=norms,
                neutral=norms[0],
                kind="categorical",
                unit=0,
                only_if=GROWN,
                whole_only=True,
            ),
        ]
    rate = Choice.ordinal(TAIL_LR, options.lr_factors, 1.0, 0)
    return (*choices, rate) if len(rate.values) > 1 else tuple(choices)


@dataclass(frozen=True, kw_only=True)
class SearchedHead:
    """A configuration's head.

    Args:
        spec: its new dense layers.
        norm: normalisation after the pre-trained classification layer, if the head grows on it; else None.
    """

    spec: HeadSpec
    norm: str | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        hidden = (int(config[NEURONS]),) * int(config[HIDDEN_LAYERS])
        return cls(
            spec=HeadSpec(hidden=hidden, dropout=float(config[DROPOUT])),
            norm=str(config[NORM]) if config.get(GROWN) else None,
        )

    @property
    def is_grown(self) -> bool:
        return self.norm is not None

    @property
    def is_new(self) -> bool:
        """Whether it has layers that the network lacks."""
        return self.is_grown or bool(self.spec.hidden)

    def on(
        self,
        tail: nn.Sequential,
        num_classes: int,
        *,
        classifier: nn.Linear | None = None,
        magnitude: float | None = None,
        seed: int = 0,
    ) -> nn.Sequential:
        """A tail with the same features and this head.

        Args:
            tail: ends in a softmax layer, which is kept if the head has no layers of its own.
            num_classes: outputs of a new softmax layer.
            classifier: the pre-trained classification layer on the tail's features.
            magnitude: root-mean-square of that layer's outputs.
            seed: of new weights.

        Raises:
            SurgeryError: `classifier` or `magnitude` is missing and the head grows on it.
        """
        if self.norm is None:
            if self.spec.hidden:
                return replace_head(tail, self.spec, num_classes, seed=seed)
            return with_dropout(tail, self.spec.dropout)
        if classifier is None or magnitude is None:
            raise SurgeryError(
                "the head grows on the pre-trained classification layer, which is missing",
                "give `classifier` and `magnitude`",
            )
        return grow_head(tail, classifier, self.spec, self.norm, num_classes, magnitude=magnitude, seed=seed)
