"""A search on a tiny network and bright and dark images."""

import pytest

import tascnet
from tascnet.options import Local, Measure, RecipeChanges, Trainer, Tune
from tests.tuning.toy import MODULE, OPTIONS, own_data, own_network


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def search(tmp_path, cache, monkeypatch):
    """Runs stage one with options of one's own, in a folder, and without a report, which takes longest."""
    monkeypatch.setattr(MODULE, "tune_report", lambda *_: None)

    def run(options=None, *, name="run", data=None, epochs=1, trainer=None, network=None, **own):
        executor, place = own.pop("executor", Local()), own.pop("cache", cache)
        return tascnet.tune(
            network or own_network(),
            data or own_data(),
            options or Tune(**OPTIONS | own),
            trainer=trainer or Trainer(epochs=1, batch_size=8, lr=3e-3, trial=RecipeChanges(epochs=epochs)),
            measure=Measure(repeats=3, batch=2),
            device="cpu",
            threads=1,
            executor=executor,
            cache=place,
            run=tmp_path / name,
        )

    return run
