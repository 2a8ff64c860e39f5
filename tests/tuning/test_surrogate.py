import math

import pytest
import torch

from tascnet.tuning.encoding import columns, encode
from tascnet.tuning.surrogate import Standardiser, fit, hyperparameters, quiet
from tests.tuning.spaces import small_space

SPACE = small_space()
COLUMNS = columns(SPACE, 2)


def data(n, k=2):
    configs = SPACE.sample(n, k, 0)
    values = [0.1 * c["a.width"] + (c["a.activation"] == "elu") for c in configs]
    return encode(SPACE, configs, 2), Standardiser.of(values)(values)


def fitted(n, **options):
    with quiet():
        return fit(*data(n), COLUMNS, **options)


def test_standardised_values():
    # 0.6, 0.6, 0.9: mean 0.7, squares 0.01 + 0.01 + 0.04, deviation sqrt(0.06 / 2).
    scale = Standardiser.of([0.6, 0.6, 0.9])
    assert (scale.mean, scale.deviation) == pytest.approx((0.7, math.sqrt(0.03)))
    torch.testing.assert_close(scale([0.7, 0.9]), torch.tensor([[0.0], [0.2]]).double() / math.sqrt(0.03))
    assert Standardiser.of([0.5]) == Standardiser.of([0.5, 0.5]) == Standardiser(mean=0.5, deviation=1.0)


def test_the_covariance_is_that_of_the_kernel():
    model = fitted(8)
    scales = hyperparameters(model, COLUMNS)["lengthscales"]
    one = SPACE.canonical({"first_trained": 2, "a.width": 8})
    # A third of the way between the logarithms of 8 and 32 more, and another category: two columns differ.
    two = {**one, "a.width": 16, "a.activation": "tanh"}
    r2 = 0.5**2 / scales["a.width"] ** 2 + 2 / scales["a.activation"] ** 2
    expected = math.exp(-r2 / 2)
    K = model.covar_module(encode(SPACE, [one, two], 2)).to_dense()
    assert K.tolist() == [pytest.approx([1.0, expected]), pytest.approx([expected, 1.0])]


def test_what_does_not_matter_has_the_longer_lengthscale():
    scales = hyperparameters(fitted(20), COLUMNS)["lengthscales"]
    assert max(scales["a.width"], scales["a.activation"]) < min(scales["b.width"], scales["b.kernel"])


def test_columns_beyond_those_of_the_choices_are_not_looked_at():
    X, Y = data(12)
    with quiet():
        models = [fit(torch.cat([X, extra], dim=-1), Y, COLUMNS) for extra in (X[:, :1], -7 * X[:, 1:2])]
    assert hyperparameters(models[0], COLUMNS) == hyperparameters(models[1], COLUMNS)


def test_a_fit_starts_from_the_hyperparameters_that_it_is_given(monkeypatch):
    found = hyperparameters(fitted(12), COLUMNS)
    monkeypatch.setattr("tascnet.tuning.surrogate.fit_gpytorch_mll", lambda mll, **options: None)
    assert hyperparameters(fitted(12, start=found), COLUMNS) == found
    prior = hyperparameters(fitted(12), COLUMNS)
    partly = {**found, "lengthscales": {"a.width": found["lengthscales"]["a.width"]}}
    expected = {**prior["lengthscales"], **partly["lengthscales"]}
    assert hyperparameters(fitted(12, start=partly), COLUMNS)["lengthscales"] == expected


def test_without_a_fit_it_stays_at_the_prior(monkeypatch, caplog):
    from botorch.exceptions.errors import ModelFittingError

    def fail(mll, **options):
        raise ModelFittingError

    monkeypatch.setattr("tascnet.tuning.surrogate.fit_gpytorch_mll", fail)
    d = len(set(COLUMNS))
    # The mode of a log-normal distribution is exp(location - scale ** 2).
    mode = math.exp(1 + math.sqrt(2) + math.log(d) / 2 - 3)
    scales = hyperparameters(fitted(8), COLUMNS)["lengthscales"]
    assert list(scales.values()) == pytest.approx([mode] * d)
    assert "could not be fitted" in caplog.text
