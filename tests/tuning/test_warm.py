import pytest

from tascnet.errors import ConfigError
from tascnet.run.records import Trial, write_records
from tascnet.tuning.space import Choice, Space, Unit
from tascnet.tuning.warm import digest_of, earlier_trials, transferred
from tests.tuning.spaces import enumerable_space, small_space


def journal(path, space, values, status="ok"):
    """A journal whose trial of each value narrows unit 1 or 2 in turn."""
    trials = [
        Trial(
            trial=i,
            depth=2,
            config=space.narrowed(0.5, 1 + i % 2),
            status=status,
            value=value,
            val_accuracy=value,
            reason=None if status == "ok" else "why",
        )
        for i, value in enumerate(values)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_records(path, trials)
    return trials


def test_the_best_of_each_search_come_first(tmp_path):
    space = small_space()
    journal(tmp_path / "one" / "tune" / "trials.jsonl", space, [0.5, 0.7])
    journal(tmp_path / "two.jsonl", space, [0.9, 0.3])
    folders = [str(tmp_path / "one"), str(tmp_path / "two.jsonl")]
    searches = earlier_trials(folders)
    # The best of the first search trains two units, that of the second one; the others are the same two.
    assert transferred(searches, space, folders) == [space.narrowed(0.5, 2), space.narrowed(0.5, 1)]


def test_trials_beyond_the_space_are_left_out(tmp_path):
    deep, folders = small_space(), [str(tmp_path / "t.jsonl")]
    journal(tmp_path / "t.jsonl", deep, [0.5, 0.7])
    shallow = type(deep)(deep.units[:2], exits=1)
    assert transferred(earlier_trials(folders), shallow, folders) == [shallow.narrowed(0.5, 1)]


def test_a_search_of_another_space_is_refused(tmp_path):
    journal(tmp_path / "t.jsonl", enumerable_space(), [0.5])
    folders = [str(tmp_path / "t.jsonl")]
    with pytest.raises(ConfigError, match=r"t\.jsonl has another space than this one"):
        transferred(earlier_trials(folders), small_space(), folders)


@pytest.mark.parametrize("name", ["tail.lr", "input.size", "conv1.kernel"])
def test_choices_that_the_new_search_lacks_are_not_left_out_of_a_configuration(name):
    width = Choice.ordinal("conv1.width", (4,), 8, 1, ("conv1",))
    space = Space((Unit(index=0, block=2, choices=()), Unit(index=1, block=0, choices=(width,))))
    config = {"first_trained": 1, name: 3, "conv1.width": 8}
    trial = Trial(trial=0, depth=1, config=config, status="ok", value=0.9, val_accuracy=0.9)
    with pytest.raises(ConfigError, match=rf"\({name} is a choice of one of them only\)"):
        transferred([[trial]], space, ["earlier"])


@pytest.mark.parametrize("name", ["nothing", "stopped"])
def test_a_run_without_finished_trials_is_refused(tmp_path, name):
    journal(tmp_path / "stopped" / "trials.jsonl", small_space(), [0.5], status="stopped")
    with pytest.raises(ConfigError, match="finds no finished trials in"):
        earlier_trials([str(tmp_path / name)])


def test_the_digest_is_that_of_the_trials(tmp_path):
    for name, values in (("a", [0.5]), ("b", [0.5]), ("c", [0.6])):
        journal(tmp_path / name / "trials.jsonl", small_space(), values)
    a, b, c = (digest_of(earlier_trials([str(tmp_path / name)])) for name in "abc")
    assert a == b != c


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    trials = journal(tmp_path / "mine" / "trials.jsonl", small_space(), [0.5])
    assert earlier_trials(["~/mine"]) == [trials]
