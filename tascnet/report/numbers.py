"""Numbers as people read them: 2.35 M, 8.9 MB, 83.1 %, 4.21 ms."""

import math

MISSING = "–"
_MINUS = "−"
_PREFIXES = ("", "k", "M", "G", "T", "P")


def count(number: float | None) -> str:
    """Three significant digits and a decimal prefix: `2.35 M`; whole numbers under 1000 as they are."""
    if number is None:
        return MISSING
    if abs(number) < 1000 and number == int(number):
        return f"{number:.0f}"
    scaled, prefix = _scaled(number)
    return f"{_significant(scaled)} {prefix}".rstrip()


def size(number: float | None) -> str:
    """Bytes with one decimal under 100 and a decimal prefix: `8.9 MB`, `538 MB`."""
    if number is None:
        return MISSING
    scaled, prefix = _scaled(number)
    digits = 0 if not prefix or abs(scaled) >= 99.95 else 1
    return f"{scaled:.{digits}f} {prefix}B"


def percent(fraction: float | None) -> str:
    """A fraction in [0, 1] as a percentage with one decimal: `83.1 %`."""
    return MISSING if fraction is None else f"{100 * fraction:.1f} %"


def milliseconds(number: float | None) -> str:
    """Three significant digits: `4.21 ms`."""
    return MISSING if number is None else f"{_significant(number)} ms"


def spread(deviation: float | None, mean: str) -> str:
    """A deviation with two significant digits, in the unit of the formatted mean, which is left out."""
    if deviation is None:
        return MISSING
    unit = mean.partition(" ")[2]
    scales = {"%": 0.01, "ms": 1.0}
    scaled = deviation / (scales.get(unit) or 1000.0 ** _PREFIXES.index(unit.removesuffix("B")))
    return f"{scaled:.0f}" if scaled >= 99.5 or scaled == 0 else f"{scaled:.2g}"


def duration(seconds: float | None) -> str:
    """The two largest units: `12.3 s`, `4 min 05 s`, `1 h 03 min`."""
    if seconds is None:
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def change(number: float | None, reference: float | None) -> str:
    """The change from a reference in per cent, `−35 %`; empty where one is missing or the reference is 0."""
    if number is None or not reference:
        return ""
    relative = 100 * (number / reference - 1)
    return _signed(relative, 0 if abs(relative) >= 9.95 else 1) + " %"


def points(fraction: float | None, reference: float | None) -> str:
    """The difference of two fractions in percentage points, `+2.5 pp`; empty where one is missing."""
    if fraction is None or reference is None:
        return ""
    return _signed(100 * (fraction - reference), 1) + " pp"


def gap(number: float | None, target: str, *, signed: bool = False) -> str:
    """A difference, error or deviation of `target`: `1.25 pp` of accuracies, three digits of losses."""
    if number is None:
        return MISSING
    scaled, unit, digits = (100 * number, " pp", 2) if target.endswith("accuracy") else (number, "", 3)
    return (_signed(scaled, digits) if signed else f"{scaled:.{digits}f}") + unit


def decimal(number: float | None) -> str:
    """A share or a correlation with two decimals: `0.75`, `−0.31`."""
    return MISSING if number is None else f"{number:.2f}".replace("-", _MINUS)


def metric_name(metric: str) -> str:
    """A metric as people write it: `balanced accuracy`."""
    return metric.replace("_", " ")


def plain(value: object) -> str:
    """A setting's value: numbers without needless digits, None as a dash."""
    if value is None:
        return MISSING
    return f"{value:g}" if isinstance(value, float) else str(value)


def _scaled(number: float) -> tuple[float, str]:
    """The number, scaled by the largest prefix with which it rounds to at least 1, and the prefix."""
    scaled = float(number)
    for prefix in _PREFIXES[:-1]:
        if abs(scaled) < 999.5:
            return scaled, prefix
        scaled /= 1000
    return scaled, _PREFIXES[-1]


def _significant(number: float) -> str:
    """Three significant digits without an exponent; all digits before the point."""
    if number == 0:
        return "0"
    rounded = float(f"{number:.3g}")
    return f"{rounded:.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"


def _signed(number: float, digits: int) -> str:
    text = f"{abs(number):.{digits}f}"
    if float(text) == 0:
        return "±0"
    return ("+" if number > 0 else _MINUS) + text
