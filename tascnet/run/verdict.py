"""What the accuracy of a stage's network hides, in sentences: the same in the log and on the page."""

from collections import Counter
from collections.abc import Sequence

from tascnet.errors import listed, printable
from tascnet.run.records import StageMetrics

# Most names in one sentence, and most characters of a name.
_NAMED, _LENGTH = 5, 40
# The options that help, by their field of `StageMetrics`, each with its value and what that does.
_REMEDIES = {
    "metric": ("balanced_accuracy", "chooses epochs, trials and networks by the mean recall of all classes"),
    "class_weights": ("balanced", "gives rare classes more weight in training"),
}


def class_warnings(metrics: StageMetrics) -> list[str]:
    """Warn if the network `after` never finds a class, or is no better than always naming the largest class.

    Both are judged on the test samples. The last sentence names remedies that are not taken yet.
    """
    result, samples = metrics.models["after"], metrics.samples
    lines = []
    if lost := [row.name for row in result.classes if row.is_lost]:
        verb = "is" if len(lost) == 1 else "are"
        lines.append(
            f"{len(lost)} of {samples.classes} classes {verb} never found in the test samples: "
            f"{_named(lost)}."
        )
    key, blind = f"test_{metrics.metric}", metrics.blind_score
    if getattr(result, key) <= blind:
        weak = [
            f"{name} ({100 * value:.1f} %)"
            for name, model in metrics.models.items()
            if (value := getattr(model, key)) <= blind
        ]
        verb = "is" if len(weak) == 1 else "are"
        lines.append(
            f"By test {metrics.metric.replace('_', ' ')} {listed(weak, 'and')} {verb} no better than "
            f"always naming the largest class, {class_name(samples.largest_class.name)} "
            f"({100 * blind:.1f} %)."
            f"{_most_named(metrics)}"
        )
    return [*lines, _remedies(metrics)] if lines else []


def class_name(name: str) -> str:
    """A class's name within a sentence."""
    return printable(name, most=_LENGTH)


def _most_named(metrics: StageMetrics) -> str:
    """Which class the network names for most test samples; empty if it is none."""
    result, named = metrics.models["after"], Counter[int]()
    for _, predicted, samples in result.confusion:
        named[predicted] += samples
    ((most, often),) = named.most_common(1)
    if 2 * often <= named.total():
        return ""
    name = class_name(result.classes[most].name)
    return f" The result names {name} for {often} of {named.total()} test samples."


def _remedies(metrics: StageMetrics) -> str:
    remedies = ["longer training", "a check of the labels"]
    # Of classes of one size none is rare.
    if len({row.train for row in metrics.samples.by_class}) > 1:
        options = [
            f"`{name}={value}` {does}"
            for name, (value, does) in _REMEDIES.items()
            if getattr(metrics, name) != value
        ]
        if options:
            return f"Remedies: {'; '.join(options)}; more samples of rare classes help."
        remedies = ["longer training", "more samples of rare classes"]
    return f"Remedies: {', '.join(remedies)}."


def _named(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(map(class_name, names[:_NAMED]))
    more = len(names) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown
