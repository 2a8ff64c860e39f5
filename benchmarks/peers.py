"""Other searches on the same space: Optuna's samplers, Ax and HEBO, where they are installed.

Each gets the choices as its interface offers them: ordinals as ordered values, categories as categories.
What it proposes is made canonical before it is looked up, so that two of its points may be one network;
that network then costs a trial again, as it does in practice.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from benchmarks.table import Entry, Table
from tascnet.train.setting import computing
from tascnet.tuning import Choice, Configuration, Space
from tascnet.tuning.space import FIRST_TRAINED

log = logging.getLogger("tascnet")


def is_installed(package: str) -> bool:
    """Whether a package can be imported."""
    return find_spec(package) is not None


def installed(methods: Sequence[str], needs: Mapping[str, str]) -> list[str]:
    """The methods whose packages are installed; those left out are named in a warning.

    Args:
        methods: names.
        needs: the package of each method that needs one.
    """
    missing = [method for method in methods if method in needs and not is_installed(needs[method])]
    if missing:
        log.warning("not installed, left out: %s; pip install '.[benchmark]'", ", ".join(missing))
    return [method for method in methods if method not in missing]


class OptunaSearch:
    """Optuna with one of its samplers.

    Args:
        table: gives the space.
        seed: of the sampler.
        sampler: `tpe`, which is asked for the active choices alone, as its define-by-run interface has it;
            or `gp`, which models only choices that every trial has and so is asked for all of them.
    """

    def __init__(self, table: Table, seed: int, sampler: str) -> None:
        import optuna

        self._space = table.space
        self._conditional = sampler == "tpe"
        with remarks_left_out():
            made = {"tpe": optuna.samplers.TPESampler, "gp": optuna.samplers.GPSampler}[sampler]
            self._study = optuna.create_study(direction="maximize", sampler=made(seed=seed))

    def ask(self) -> Configuration:
        with remarks_left_out():
            self._trial = self._study.ask()
            config: Configuration = {
                FIRST_TRAINED: self._trial.suggest_int(FIRST_TRAINED, 0, self._space.depth)
            }
            # A choice comes after the one that it depends on.
            for choice in sorted(self._space.choices, key=lambda choice: choice.only_if is not None):
                if not self._conditional or choice in self._space.active(config):
                    config[choice.name] = self._suggest(choice)
        return self._space.canonical(config)

    def tell(self, config: Configuration, entry: Entry) -> None:
        with remarks_left_out():
            self._study.tell(self._trial, entry.val_accuracy)

    def _suggest(self, choice: Choice) -> Any:
        if choice.kind == "categorical":
            return self._trial.suggest_categorical(choice.name, choice.values)
        return choice.values[self._trial.suggest_int(choice.name, 0, len(choice.values) - 1)]


# Ax's own number of first points.
INITIAL = 5


class AxSearch:
    """Ax with its default generation strategy, on the flat space of all choices.

    Args:
        space: the space.
        seed: of the client.
        is_initialised: the first points of its strategy (centre and Sobol) are among the trials that will be
            attached, so that its model makes the first suggestion.
    """

    def __init__(self, space: Space, seed: int, *, is_initialised: bool = False) -> None:
        with remarks_left_out():
            from ax.api.client import Client
            from ax.api.configs import RangeParameterConfig

            self._space = space
            self._client = Client(random_seed=seed)
            choices = [choice for choice in space.choices if len(choice.values) > 1]
            self._names = {choice.name.replace(".", "_"): choice.name for choice in choices}
            parameters: list[Any] = [_parameter(choice) for choice in choices]
            if space.depth:
                depth = RangeParameterConfig(
                    name=FIRST_TRAINED, bounds=(0, space.depth), parameter_type="int"
                )
                parameters.insert(0, depth)
            self._client.configure_experiment(parameters=parameters)
            self._client.configure_optimization(objective="accuracy")
            if is_initialised:
                self._client.configure_generation_strategy(
                    initialize_with_center=False,
                    initialization_budget=INITIAL,
                    min_observed_initialization_trials=INITIAL,
                )

    def ask(self) -> Configuration:
        with remarks_left_out():
            ((self._index, parameters),) = self._client.get_next_trials(max_trials=1).items()
        named = {self._names.get(name, name): value for name, value in parameters.items()}
        return self._space.canonical({FIRST_TRAINED: 0, **named})

    def tell(self, config: Configuration, entry: Entry) -> None:
        with remarks_left_out():
            self._client.complete_trial(self._index, raw_data={"accuracy": entry.val_accuracy})

    def attach(self, config: Configuration, value: float) -> None:
        """Take over a trial that another search made."""
        parameters = {flat: config[name] for flat, name in self._names.items()}
        if self._space.depth:
            parameters[FIRST_TRAINED] = config[FIRST_TRAINED]
        with remarks_left_out():
            index = self._client.attach_trial(parameters)
            self._client.complete_trial(index, raw_data={"accuracy": value})


class HeboSearch:
    """HEBO with its default settings, on the flat space of all choices: a place in order, or a category.

    Where its Gaussian process cannot be fitted (it computes in float32), a point of its quasi-random design
    takes the place of a suggestion, with a warning.

    Args:
        table: gives the space.
        seed: of its design and its acquisition.
    """

    def __init__(self, table: Table, seed: int) -> None:
        with remarks_left_out():
            from hebo.design_space.design_space import DesignSpace
            from hebo.optimizers.hebo import HEBO

            self._space, self._seed, self._asked = table.space, seed, 0
            self._choices = [choice for choice in table.space.choices if len(choice.values) > 1]
            parameters = [_place(choice) for choice in self._choices]
            parameters.append({"name": FIRST_TRAINED, "type": "int", "lb": 0, "ub": self._space.depth})
            self._optimizer = HEBO(DesignSpace().parse(parameters), scramble_seed=seed)

    def ask(self) -> Configuration:
        from linear_operator.utils.errors import NanError, NotPSDError

        self._asked += 1
        seed = 1000 * self._seed + self._asked
        failure = None
        with remarks_left_out(), computing("cpu", None):
            # It draws from both global generators.
            np.random.seed(seed)
            torch.manual_seed(seed)
            try:
                self._row = self._optimizer.suggest(1)
            except (NanError, NotPSDError) as error:
                failure, self._row = error, self._optimizer.quasi_sample(1)
        if failure is not None:
            log.warning("HEBO, trial %d: %s; a point of its design is taken", self._asked, failure)
        row = self._row.iloc[0]
        config: Configuration = {c.name: c.values[int(row[c.name])] for c in self._choices}
        return self._space.canonical(
            {**self._space.neutral(), **config, FIRST_TRAINED: int(row[FIRST_TRAINED])}
        )

    def tell(self, config: Configuration, entry: Entry) -> None:
        with remarks_left_out():
            self._optimizer.observe(self._row, np.array([[-entry.val_accuracy]]))


def _place(choice: Choice) -> dict[str, Any]:
    last = len(choice.values) - 1
    if choice.kind == "categorical":
        return {"name": choice.name, "type": "cat", "categories": [str(i) for i in range(last + 1)]}
    return {"name": choice.name, "type": "int", "lb": 0, "ub": last}


def _parameter(choice: Choice) -> Any:
    from ax.api.configs import ChoiceParameterConfig

    kinds = {int: "int", float: "float", str: "str"}
    return ChoiceParameterConfig(
        name=choice.name.replace(".", "_"),
        values=list(choice.values),
        parameter_type=kinds[type(choice.values[0])],
        is_ordered=choice.kind == "ordinal",
    )


@contextmanager
def remarks_left_out() -> Iterator[None]:
    """Without the peers' own deprecations and remarks."""
    level = logging.root.manager.disable
    try:
        logging.disable(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
