import math

import pytest
import torch

from tascnet.tuning.encoding import encode, width
from tascnet.tuning.space import FIRST_TRAINED
from tascnet.tuning.surrogate import Columns, Scale, fit, hyperparameters, quiet
from tests.tuning.spaces import small_space

SPACE = small_space()


def data(n, k=2):
    configs = SPACE.sample(n, k, 0)
    values = [0.1 * c["a.width"] + (c["a.activation"] == "elu") for c in configs]
    return encode(SPACE, configs, 2), Scale.of(values)(values)


def fitted(n, **options):
    with quiet():
        return fit(*data(n), Columns.of(SPACE, 2, "onehot"), **options)


def test_columns_name_their_choices_as_they_are_encoded():
    onehot, index = (Columns.of(SPACE, 2, coding) for coding in ("onehot", "index"))
    assert onehot.choices[0] == FIRST_TRAINED
    assert onehot.choices[-4:] == ("a.width", *["a.activation"] * 3)
    assert onehot.categorical == (6, 7, 8)
    assert onehot.names == index.names == index.choices
    for k in range(3):
        assert len(Columns.of(SPACE, k, "onehot").choices) == width(SPACE, k)


def test_standardised_values():
    # 0.6, 0.6, 0.9: mean 0.7, squares 0.01 + 0.01 + 0.04, deviation sqrt(0.06 / 2).
    scale = Scale.of([0.6, 0.6, 0.9])
    assert (scale.mean, scale.deviation) == pytest.approx((0.7, math.sqrt(0.03)))
    torch.testing.assert_close(scale([0.7, 0.9]), torch.tensor([[0.0], [0.2]]).double() / math.sqrt(0.03))
    assert Scale.of([0.5]) == Scale.of([0.5, 0.5]) == Scale(mean=0.5, deviation=1.0)


@pytest.mark.parametrize("kernel", ["matern", "rbf"])
def test_the_covariance_is_that_of_the_kernel(kernel):
    model = fitted(8, kernel=kernel)
    scales = hyperparameters(model, Columns.of(SPACE, 2, "onehot"))["lengthscales"]
    one = SPACE.canonical({"first_trained": 2, "a.width": 8})
    # A third of the way between the logarithms of 8 and 32 more, and another category: two columns differ.
    two = {**one, "a.width": 16, "a.activation": "tanh"}
    r2 = 0.5**2 / scales["a.width"] ** 2 + 2 / scales["a.activation"] ** 2
    r = math.sqrt(5 * r2)
    expected = math.exp(-r2 / 2) if kernel == "rbf" else (1 + r + r**2 / 3) * math.exp(-r)
    K = model.covar_module(encode(SPACE, [one, two], 2)).to_dense()
    assert K.tolist() == [pytest.approx([1.0, expected]), pytest.approx([expected, 1.0])]


def test_what_does_not_matter_has_the_longer_lengthscale():
    scales = hyperparameters(fitted(20), Columns.of(SPACE, 2, "onehot"))["lengthscales"]
    assert max(scales["a.width"], scales["a.activation"]) < min(scales["b.width"], scales["b.kernel"])


def test_columns_beyond_those_of_the_choices_are_not_looked_at():
    X, Y = data(12)
    columns = Columns.of(SPACE, 2, "onehot")
    with quiet():
        models = [fit(torch.cat([X, extra], dim=-1), Y, columns) for extra in (X[:, :1], -7 * X[:, 1:2])]
    assert hyperparameters(models[0], columns) == hyperparameters(models[1], columns)


def test_a_fit_starts_from_the_hyperparameters_that_it_is_given(monkeypatch):
    columns = Columns.of(SPACE, 2, "onehot")
    found = hyperparameters(fitted(12), columns)
    monkeypatch.setattr("tascnet.tuning.surrogate.fit_gpytorch_mll", lambda mll, **options: None)
    assert hyperparameters(fitted(12, start=found), columns) == found
    prior = hyperparameters(fitted(12), columns)
    partly = {**found, "lengthscales": {"a.width": found["lengthscales"]["a.width"]}}
    expected = {**prior["lengthscales"], **partly["lengthscales"]}
    assert hyperparameters(fitted(12, start=partly), columns)["lengthscales"] == expected


def test_the_mixed_kernel_has_no_hyperparameters_to_start_from():
    columns = Columns.of(SPACE, 2, "index")
    X = encode(SPACE, SPACE.sample(8, 2, 0), 2, "index")
    with quiet():
        assert hyperparameters(fit(X, X[:, :1], columns, "mixed"), columns) is None


def test_without_a_fit_it_stays_at_the_prior(monkeypatch, caplog):
    from botorch.exceptions.errors import ModelFittingError

    def fail(mll, **options):
        raise ModelFittingError

    monkeypatch.setattr("tascnet.tuning.surrogate.fit_gpytorch_mll", fail)
    columns = Columns.of(SPACE, 2, "onehot")
    d = len(columns.names)
    # The mode of a log-normal distribution is exp(location - scale ** 2).
    mode = math.exp(math.sqrt(2) + math.log(d) / 2 - 3)
    scales = hyperparameters(fitted(8), columns)["lengthscales"]
    assert list(scales.values()) == pytest.approx([mode] * d)
    assert "could not be fitted" in caplog.text
