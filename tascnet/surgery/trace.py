"""The channels of a chain, followed once for each structure that it has."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from tascnet.errors import SurgeryError, first_line
from tascnet.surgery.channels import Classes, classes_of, follow
from tascnet.surgery.cuts import MISFITS, Cut, plan_cut, rehearse
from tascnet.surgery.groups import Coupling, Uncut, WidthGroup, couplings, uncut


class Trace:
    """The channels of a chain and which of them are coupled, found without running it on values.

    It refers to layers by name and holds no weights: it serves every chain of the same layers and widths,
    such as a deep copy or the same network after training. A chain that was cut has to be traced again.

    Attributes:
        example: one sample `1 x ...`.
        groups: those that can be made narrower, in chain order; see `width_groups`.
        uncut: layers with filters that cannot be removed, in the order in which they run.

    Raises:
        SurgeryError: the chain does not take the example.
    """

    def __init__(self, chain: nn.Sequential, example: Tensor) -> None:
        self.example = example
        try:
            self._found = follow(chain, example)
        except (*MISFITS, NotImplementedError) as error:
            raise SurgeryError(
                f"the network does not take an example of shape {tuple(example.shape)} ({first_line(error)})"
            ) from error
        self._structure = _structure(chain)
        self._blocks = {name: index for index, name in enumerate(chain._modules)}
        self._classes = self._after_trials(chain, classes_of(self._found))

    @classmethod
    def of(cls, chain: nn.Sequential, example: "Tensor | Trace") -> "Trace":
        """A new trace of a chain, or the given one.

        Raises:
            SurgeryError: the trace is of another structure, or the chain does not take the example.
        """
        if not isinstance(example, Trace):
            return cls(chain, example)
        if _structure(chain) != example._structure:
            raise SurgeryError(
                "the network has other layers or widths than the trace", "trace it again after every cut"
            )
        return example

    @cached_property
    def groups(self) -> tuple[WidthGroup, ...]:
        return tuple(coupling.group for coupling in self._couplings)

    @cached_property
    def uncut(self) -> tuple[Uncut, ...]:
        return uncut(self._found, self._classes, self._couplings)

    def plan(self, chain: nn.Sequential, removed: Mapping[str, Sequence[int]]) -> Cut:
        """The cut that removes units, as indices by group; it is tried on a chain without weights.

        Raises:
            SurgeryError: the network does not run after it.
        """
        units = {coupling.group.name: coupling.units for coupling in self._couplings}
        classes = [units[name][list(indices)] for name, indices in removed.items()]
        return self._tried(chain, self._classes, classes)

    @cached_property
    def _couplings(self) -> tuple[Coupling, ...]:
        return couplings(self._found, self._classes, self._blocks)

    def _tried(self, chain: nn.Module, classes: Classes, removed: Iterable[NDArray[np.int64]]) -> Cut:
        numbers = np.concatenate([np.empty(0, np.int64), *removed])
        cut = plan_cut(chain, self._found, classes, numbers.tolist())
        rehearse(chain, self.example, self._found, classes, cut)
        return cut

    def _after_trials(self, chain: nn.Module, classes: Classes) -> Classes:
        """Without the classes that do not survive a cut because a step computes how many there are."""
        computed = [(set(classes.of[labels].ravel()), reason) for labels, reason in self._found.computed]
        if not computed:
            return classes
        # Groups that no step counts together are tried together.
        trials: list[tuple[list[Coupling], set[int]]] = []
        why: dict[str, str] = {}
        for coupling in couplings(self._found, classes, self._blocks):
            at = {n for n, (counted, _) in enumerate(computed) if counted & set(coupling.units)}
            if at:
                why[coupling.group.name] = computed[min(at)][1]
                trial = next((t for t in trials if not t[1] & at), None)
                if trial is None:
                    trials.append(([coupling], at))
                else:
                    trial[0].append(coupling)
                    trial[1].update(at)
        reasons = list(classes.reasons)
        for tried, _ in trials:
            if self._survives(chain, classes, tried):
                continue
            for coupling in tried:
                if len(tried) == 1 or not self._survives(chain, classes, [coupling]):
                    for number in coupling.units.tolist():
                        reasons[number] = why[coupling.group.name]
        return replace(classes, reasons=tuple(reasons))

    def _survives(self, chain: nn.Module, classes: Classes, groups: Sequence[Coupling]) -> bool:
        """Whether the network still runs after each group has lost its last unit, or all but the first."""
        try:
            for removed in (slice(-1, None), slice(1, None)):
                self._tried(chain, classes, [coupling.units[removed] for coupling in groups])
        except SurgeryError:
            return False
        return True


def width_groups(chain: nn.Sequential, example: Tensor | Trace) -> list[WidthGroup]:
    """The groups of a chain that can be made narrower, in chain order.

    `Trace.uncut` has the layers that are in none, with the reasons.

    Raises:
        SurgeryError: the chain does not take the example, or is not that of the trace.
    """
    return list(Trace.of(chain, example).groups)


def _structure(chain: nn.Sequential) -> tuple[list[str], dict[str, tuple[int, ...]]]:
    """Names of all modules, and the channels of all parameters, without kernels."""
    channels = {name: tuple(parameter.shape[:2]) for name, parameter in chain.named_parameters()}
    return [name for name, _ in chain.named_modules()], channels
