"""Intervals and tests for scores that are ratios of sums over images: studentised bootstrap, swaps, Holm, Spearman."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fastia.engine.result import Interval
from fastia.metrics.registry import Terms
from fastia.typing import Floats

LEVEL = 0.95
_QUANTILE = NormalDist().inv_cdf(0.5 + LEVEL / 2)
_ERROR_FLOOR = 0.5  # of the standard error over all images: a resample that by chance lacks what varies has almost none
_ZERO = 1e-9  # of sums that are whole or half numbers but for rounding
_CHUNK = 2**18  # resamples times images at a time: what of them stays in the caches


def bootstrap(
    scores: Sequence[Sequence[Sequence[Terms]]], pairs: Sequence[tuple[int, int]], *, resamples: int, seed: int
) -> list[tuple[list[Interval], list[Interval]]]:
    """95 % intervals of scores of each method, and of their differences in pairs of methods, over the images.

    Whole images are drawn with replacement, the same for every method and score. The score of a method is the mean over
    its checkpoints. Each resample's deviation is divided by its own standard error, which follows from the score's
    influence function (studentised, or bootstrap-t): for means over classes that few images hold, intervals without
    this are far too narrow. The set of classes stays that of all images: a class that a resample lacks has its score of
    all images there. Intervals end at the ends of the scale. In simulations they held the truth in 93 to 96 % of
    samples of 1,000 images, and of 100 images with 6 classes; docs/intervals.md derives them and has the table.

    The spread between checkpoints, by Student's t, is added in quadrature; with one checkpoint the interval is of the
    test set alone.

    Args:
        scores: the terms of each score, per method and checkpoint; the same images in all.
        pairs: indices of the methods to subtract, the second from the first.
        resamples: number of resamples.
        seed: of the random numbers.

    Returns:
        For each score, an interval per method and one per pair.

    Example:
        >>> import numpy as np
        >>> from fastia.engine.inference import bootstrap
        >>> from fastia.metrics.registry import Terms
        >>> hit = np.random.default_rng(0).integers(0, 2, (200, 1)).astype(float)
        >>> score = [[Terms(hit, np.ones((200, 1)), None)]]
        >>> [((interval,), _)] = bootstrap([score], [], resamples=1000, seed=0)
        >>> bool(interval.low < hit.mean() < interval.high)
        True

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 12.5; the standard error is that of
    the infinitesimal jackknife, section 21.
    """
    images = len(scores[0][0][0].numerator)
    contrasts: list[tuple[int, int | None]] = [*((i, None) for i in range(len(scores[0]))), *pairs]
    ratios = [[[_Ratio(terms) for terms in checkpoints] for checkpoints in methods] for methods in scores]
    observed = [_statistics(methods, contrasts, np.ones((1, images))) for methods in ratios]
    pivots: list[list[Floats]] = [[] for _ in scores]
    rng = np.random.default_rng(seed)
    for drawn in _chunks(resamples, images):
        rows = np.repeat(np.arange(drawn), images) * images
        counts = np.bincount(rows + rng.integers(images, size=drawn * images), minlength=drawn * images)
        weights = counts.reshape(drawn, images).astype(np.float64)
        for methods, (value, error), pivot in zip(ratios, observed, pivots, strict=True):
            moved, errors = _statistics(methods, contrasts, weights)
            scale = np.maximum(errors, _ERROR_FLOOR * error)
            pivot.append(np.divide(moved - value, scale, out=np.zeros_like(scale), where=scale > 0))
    result = []
    for terms_of, (value, error), pivot in zip(scores, observed, pivots, strict=True):
        below, above = np.quantile(np.concatenate(pivot, 1), [0.5 + LEVEL / 2, 0.5 - LEVEL / 2], axis=1) * error[:, 0]
        widths = [_checkpoint_width(checkpoints) for checkpoints in terms_of]
        found = []
        for k, (first, second) in enumerate(contrasts):
            extra = math.hypot(widths[first], 0 if second is None else widths[second])
            low = max(value[k, 0] - math.hypot(below[k], extra), 0 if second is None else -1)
            high = min(value[k, 0] + math.hypot(above[k], extra), 1)
            known = not math.isnan(value[k, 0])
            found.append(Interval(*map(float, (value[k, 0], low, high) if known else (math.nan,) * 3)))
        result.append((found[: len(terms_of)], found[len(terms_of) :]))
    return result


def swap_tests(
    differences: Sequence[tuple[Sequence[Terms], Sequence[Terms]]], *, resamples: int, seed: int
) -> list[float]:
    """Two-sided p-values of differences between two methods' scores, by swapping their records image by image.

    Were the methods alike, either's records of an image might as well be the other's: the difference is compared with
    those after swapping on a random half of the images. Checkpoints are swapped in pairs. A small p-value says that
    the records differ more than by chance, even where few images make the size of the difference uncertain.

    Args:
        differences: the terms of a score of two methods, per checkpoint, as many for either; the same images in all,
            and the same classes in both.
        resamples: number of random swaps.
        seed: of the random numbers.

    Returns:
        The p-values, at least 1 / (resamples + 1); NaN where a method has no score.

    Example:
        >>> import numpy as np
        >>> from fastia.engine.inference import swap_tests
        >>> from fastia.metrics.registry import Terms
        >>> hit, ones = np.random.default_rng(0).random((50, 1)), np.ones((50, 1))
        >>> swap_tests([([Terms(hit, ones, None)], [Terms(hit / 2, ones, None)])], resamples=999, seed=0)
        [0.001]

    Source: Phipson and Smyth, "Permutation P-values Should Never Be Zero", 2010, for the count of the observed one.
    """
    if not differences:
        return []
    images = len(differences[0][0][0].numerator)
    swaps = [[_Swap(a, b) for a, b in zip(first, second, strict=True)] for first, second in differences]
    observed = [np.mean([swap(np.ones((1, images)))[0] for swap in checkpoints]) for checkpoints in swaps]
    extreme = np.zeros(len(swaps), np.int64)
    rng = np.random.default_rng(seed)
    for drawn in _chunks(resamples, images):
        kept = rng.integers(0, 2, (drawn, images), np.int8).astype(np.float64)
        for k, checkpoints in enumerate(swaps):
            swapped = sum(swap(kept) for swap in checkpoints) / len(checkpoints)
            extreme[k] += np.count_nonzero(abs(swapped) >= abs(observed[k]) - 1e-12)
    p_values = np.where(np.isnan(observed), np.nan, (1 + extreme) / (1 + resamples))
    return p_values.tolist()


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of several tests so that the chance of any false rejection stays below the level.

    Args:
        p_values: of all tests; NaN: no test.

    Returns:
        The adjusted p-values, in the same order.

    Example:
        >>> from fastia.engine.inference import holm
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.
    """
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values)  # NaN last
    factors = np.maximum(np.count_nonzero(~np.isnan(values)) - np.arange(len(values)), 1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1)
    return adjusted.tolist()


def spearman(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Spearman's rank correlation, with a 95 % interval that takes the pairs as a sample.

    Args:
        first, second: values of the same length n.

    Returns:
        The correlation (NaN where one side is constant) and its interval: all of [-1, 1] for n below 4.

    Example:
        >>> from fastia.engine.inference import spearman
        >>> round(spearman([1, 2, 3, 4, 5], [1, 3, 2, 4, 5]).value, 6)
        0.9

    Source: Bonett and Wright, "Sample Size Requirements for Estimating Pearson, Kendall and Spearman Correlations",
    Psychometrika 2000.
    """
    from scipy.stats import spearmanr

    if min(np.ptp(first), np.ptp(second)) == 0:
        return Interval(math.nan, -1.0, 1.0)
    return spearman_interval(float(spearmanr(first, second).statistic), len(first))


def spearman_interval(correlation: float, count: int) -> Interval:
    """The 95 % interval of a rank correlation of ``count`` pairs; see :func:`spearman`.

    Example:
        >>> from fastia.engine.inference import spearman_interval
        >>> interval = spearman_interval(0.79, 9)  # mIoU against IA-mIoU of nine methods, in the paper
        >>> round(interval.low, 2), round(interval.high, 2)
        (0.15, 0.96)
    """
    if count < 4:
        return Interval(correlation, -1.0, 1.0)
    z = math.atanh(math.copysign(min(abs(correlation), 1 - 1e-12), correlation))
    reach = _QUANTILE * math.sqrt((1 + correlation**2 / 2) / (count - 3))
    return Interval(correlation, math.tanh(z - reach), math.tanh(z + reach))


class _Ratio:
    """A score as a function of how often each image counts."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.stacked = np.concatenate([part for part in terms if part is not None], 1)
        self.transposed = self.stacked.T.astype(np.float32)
        total = terms.totals
        self.ratio = total.numerator / total.denominator  # [1, classes], for classes that a resample lacks

    def __call__(self, counts: Floats) -> tuple[Floats, NDArray[np.float32]]:
        """The score per row of ``counts [R, images]``, and each image's influence on it, ``[R, images]``."""
        if self.ratio.size == 0:
            return np.full(len(counts), np.nan), np.full(counts.shape, np.nan, np.float32)
        numerator, denominator, *frequency = np.split(
            counts @ self.stacked, self.stacked.shape[1] // self.ratio.size, 1
        )
        inverse = np.divide(1, denominator, out=np.zeros_like(denominator), where=denominator > _ZERO)
        ratio = np.where(inverse > 0, numerator * inverse, self.ratio)
        if not frequency:
            weight = np.full_like(ratio, 1 / self.ratio.size)
        else:
            pixels = frequency[0].sum(1, keepdims=True)
            weight = frequency[0] / pixels
        value = (weight * ratio).sum(1)
        slopes = [weight * inverse, -weight * inverse * ratio]
        if frequency:
            slopes.append((ratio - value[:, None]) / pixels)
        return value, np.concatenate(slopes, 1).astype(np.float32) @ self.transposed  # of use for standard errors only


class _Swap:
    """The difference between two methods' scores as a function of which images keep their records."""

    def __init__(self, first: Terms, second: Terms) -> None:
        self.classes = first.numerator.shape[1]
        first_, second_ = (np.concatenate([part for part in terms if part is not None], 1) for terms in (first, second))
        self.change, self.second, self.both = first_ - second_, second_.sum(0), first_.sum(0) + second_.sum(0)

    def __call__(self, kept: Floats) -> Floats:
        """The difference per row of ``kept [R, images]``, 1 where an image keeps its records and 0 where it swaps."""
        first = self.second + kept @ self.change
        return self._scores(first) - self._scores(self.both - first)

    def _scores(self, sums: Floats) -> Floats:
        if self.classes == 0:
            return np.full(len(sums), np.nan)
        numerator, denominator, *frequency = np.split(sums, sums.shape[1] // self.classes, 1)
        present = denominator > _ZERO  # a class of unmatched components alone may be gone
        ratio = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=present)
        weight = frequency[0] if frequency else present.astype(np.float64)
        total = weight.sum(1)
        return np.divide((ratio * weight).sum(1), total, out=np.full(len(sums), np.nan), where=total > 0)


def _statistics(
    methods: Sequence[Sequence[_Ratio]], contrasts: Sequence[tuple[int, int | None]], counts: Floats
) -> tuple[Floats, Floats]:
    """Value and standard error of each contrast, ``[contrasts, R]``, per row of ``counts [R, images]``."""
    weights = counts.astype(np.float32)
    values, influences = [], []
    for checkpoints in methods:
        found = [ratio(counts) for ratio in checkpoints]
        values.append(sum(value for value, _ in found) / len(found))
        influences.append(sum((influence for _, influence in found[1:]), found[0][1]) / len(found))
    differences, errors = [], []
    for first, second in contrasts:
        influence = influences[first] if second is None else influences[first] - influences[second]
        differences.append(values[first] if second is None else values[first] - values[second])
        errors.append(np.sqrt(np.einsum("rn,rn,rn->r", weights, influence, influence).astype(np.float64)))
    return np.array(differences), np.array(errors)


def _chunks(resamples: int, images: int) -> list[int]:
    size = max(1, min(resamples, _CHUNK // images))
    return [min(size, resamples - begin) for begin in range(0, resamples, size)]


def _checkpoint_width(checkpoints: Sequence[Terms]) -> float:
    """Half the width of the 95 % interval of the mean over checkpoints, on these images."""
    if len(checkpoints) == 1:
        return 0.0
    from scipy.stats import t

    values = [terms.value for terms in checkpoints]
    return float(t.ppf(0.5 + LEVEL / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
