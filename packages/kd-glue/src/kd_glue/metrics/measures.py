"""The metrics as functions of (targets, predictions), by scikit-learn and scipy.

All are fractions. Where a formula has no value one is agreed on, so that a model that always answers the same can be
compared with others: Matthews', Pearson's and Spearman's correlations are 0 where one side is constant, as it is with a
single sample, for then nothing shows that the two go together; F1 is 0 where nothing is positive, neither predicted nor
true. With predictions that are not finite, Pearson's and Spearman's are NaN.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MODULE = str(Path(__file__).with_name("glue.py"))
"""Path for ``evaluate.load(MODULE, "mrpc")``, which needs no hub."""


def accuracy(targets: Array, predictions: Array) -> float:
    """The share of samples whose class (N,), or whose every class (N, C), is right."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(targets, predictions))


def f1(targets: Array, predictions: Array) -> float:
    """F1 of class 1 of two, (N,)."""
    return _f1(targets, predictions, "binary")


def f1_macro(targets: Array, predictions: Array) -> float:
    """The mean F1 of the classes among targets and predictions (N,), or of all C classes (N, C)."""
    return _f1(targets, predictions, "macro")


def f1_micro(targets: Array, predictions: Array) -> float:
    """F1 of all N x C decisions together, (N, C)."""
    return _f1(targets, predictions, "micro")


def _f1(targets: Array, predictions: Array, average: str) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(targets, predictions, average=average, zero_division=0.0))


def matthews_correlation(targets: Array, predictions: Array) -> float:
    """Matthews' correlation of classes (N,), with more than two of them Gorodkin's R_K."""
    from sklearn.metrics import matthews_corrcoef

    return 0.0 if _constant(targets, predictions) else float(matthews_corrcoef(targets, predictions))


def pearson(targets: Array, predictions: Array) -> float:
    """Pearson's correlation of numbers (N,)."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, targets, predictions)


def spearmanr(targets: Array, predictions: Array) -> float:
    """Spearman's rank correlation of numbers (N,), equal ones sharing their mean rank."""
    from scipy.stats import spearmanr as ranked

    return _correlation(ranked, targets, predictions)


def _correlation(function: Callable[..., Any], targets: Array, predictions: Array) -> float:
    from scipy.stats import NearConstantInputWarning

    if not np.isfinite(predictions).all():
        return float("nan")
    if _constant(targets, predictions):
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NearConstantInputWarning)  # the value stands: little is known, not nothing
        return float(function(targets, predictions).statistic)


def _constant(*sides: Array) -> bool:
    return any(bool((side == side[0]).all()) for side in sides)


def mse(targets: Array, predictions: Array) -> float:
    """The mean squared error of numbers (N,)."""
    return float(np.mean(np.square(predictions - targets)))


MEASURES: Mapping[str, Callable[[Array, Array], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "f1_macro": f1_macro,
    "f1_micro": f1_micro,
    "matthews_correlation": matthews_correlation,
    "pearson": pearson,
    "spearmanr": spearmanr,
    "exact_match": accuracy,
}


def measured(names: Sequence[str], targets: Array, predictions: Array) -> dict[str, float]:
    """The metrics of these names; all NaN where there are no samples."""
    if not len(targets):
        return dict.fromkeys(names, float("nan"))
    return {name: MEASURES[name](targets, predictions) for name in names}
