import pytest

from tascnet.errors import ConfigError
from tascnet.surgery import check_ignored, holds_ignored, is_ignored
from tests.models.toys import TOYS


@pytest.mark.parametrize(
    ("name", "patterns", "expected"),
    [
        ("a0.body.conv1", ["a0.body.conv1"], True),
        # A block with all that is in it.
        ("a0.body.conv1", ["a0"], True),
        ("a0.body.conv1", ["a*"], True),
        ("a0.body.conv1", ["*.conv1"], True),
        ("a0.body.conv1", ["a"], False),
        ("a0.body.conv1", ["conv1"], False),
        ("a0.body.conv1", ["A0"], False),
        ("a0.body.conv1", ["b0", "a?.body"], True),
        ("a0.body.conv1", [], False),
    ],
)
def test_what_a_pattern_matches(name: str, patterns: list[str], expected: bool) -> None:
    assert is_ignored(name, patterns) is expected


def test_a_block_that_holds_an_ignored_layer_is_spared() -> None:
    chain = TOYS["residual"]()
    assert holds_ignored(chain, "a0", ["a0.body.conv2"])
    assert holds_ignored(chain, "a0", ["a0"])
    assert not holds_ignored(chain, "a0", ["b0.body.conv2"])


def test_a_pattern_without_a_match_is_refused_with_the_closest_layer() -> None:
    chain = TOYS["residual"]()
    check_ignored(chain, ["stem", "*.conv1", "b?"])
    with pytest.raises(ConfigError, match=r"`ignore` has `b0\.body\.conv3`.*did you mean `b0\.body\.conv"):
        check_ignored(chain, ["stem", "b0.body.conv3"])
    with pytest.raises(ConfigError, match=r"`stam_\*`.*did you mean `stem_bn`"):
        check_ignored(chain, ["stam_*"])
