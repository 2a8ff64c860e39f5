"""What earlier searches on the same backbone found, as first proposals of a new one."""

from collections.abc import Sequence
from pathlib import Path

from tascnet.errors import ConfigError, RunFolderError
from tascnet.run.files import digest_json
from tascnet.run.records import Trial, read_trials, to_json
from tascnet.tuning.goal import value_of
from tascnet.tuning.head import DROPOUT, GROWN, HIDDEN_LAYERS, NEURONS, NORM, TAIL_LR
from tascnet.tuning.sizes import SIZE
from tascnet.tuning.space import EXIT, Configuration, Space

JOURNAL = "trials.jsonl"
# Of each earlier search so many of its best configurations are tried.
BEST = 2
# Choices that belong to no unit: another search may have more units, but not one of these.
OF_ALL_UNITS = {HIDDEN_LAYERS, NEURONS, DROPOUT, GROWN, NORM, TAIL_LR, SIZE}


def earlier_trials(folders: Sequence[str]) -> list[list[Trial]]:
    """The trials of earlier searches, each in the order of its journal.

    Args:
        folders: of runs, of their stage `tune`, or journals.

    Raises:
        ConfigError: one holds no trials that were trained to their end.
    """
    found = []
    for folder in folders:
        place = Path(folder).expanduser()
        places = [place, place / JOURNAL, place / "tune" / JOURNAL]
        journal = next((place for place in places if place.is_file()), None)
        try:
            trials = [] if journal is None else read_trials(journal)
        except RunFolderError as error:
            raise ConfigError(f"`warm_start` cannot read {journal} ({error})", "give another run") from error
        if not any(trial.status == "ok" for trial in trials):
            raise ConfigError(
                f"`warm_start` finds no finished trials in {folder}",
                "give the folder of a run whose stage tune has trials, or its trials.jsonl",
            )
        found.append(trials)
    return found


def digest_of(searches: Sequence[Sequence[Trial]]) -> str:
    """A digest of what the trials of earlier searches can change."""
    return digest_json([[to_json(trial) for trial in trials] for trials in searches])


def transferred(
    searches: Sequence[Sequence[Trial]], space: Space, folders: Sequence[str]
) -> list[Configuration]:
    """The best configurations of each earlier search that a space holds, the best of all searches first.

    Trials of deeper units or earlier ends than the space has are left out.

    Args:
        searches: see `earlier_trials`.
        space: of the new search.
        folders: where the searches come from, for messages.

    Raises:
        ConfigError: a search was in another space.
    """
    ranked = [_held(trials, space, folder) for trials, folder in zip(searches, folders, strict=True)]
    turns = (configs[i] for i in range(BEST) for configs in ranked if i < len(configs))
    return list({space.key(config): config for config in turns}.values())


def _held(trials: Sequence[Trial], space: Space, folder: str) -> list[Configuration]:
    """The configurations of `ok` trials that a space holds, by value."""
    known, found = set(space.names) | {EXIT}, []
    for trial in sorted(trials, key=value_of, reverse=True):
        names, depth = set(trial.config) | {EXIT}, space.depth_of(trial.config)
        own = {name for name in names - known if name in OF_ALL_UNITS or _place(name) in map(_place, known)}
        if own or not (names <= known or names >= known):
            odd = sorted(own or names ^ known)[0]
            raise _other(folder, f"{odd} is a choice of one of them only")
        if trial.status != "ok" or depth > space.depth or space.exit_of(trial.config) > space.exits:
            continue
        try:
            found.append(space.canonical({n: v for n, v in trial.config.items() if n in space.names}))
        except ConfigError as error:
            raise _other(folder, error.message) from error
    return found


def _place(name: str) -> str:
    """Where a choice belongs: the layer or block in front of its last dot."""
    return name.rpartition(".")[0]


def _other(folder: str, why: str) -> ConfigError:
    return ConfigError(
        f"the search in {folder} has another space than this one ({why})",
        "`warm_start` takes searches on the same backbone with the same choices",
    )
