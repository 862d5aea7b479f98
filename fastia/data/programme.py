"""The integer programme behind :mod:`fastia.data.balance`, solved by HiGHS.

A cell is a class and a size of which the dataset has instances. With x_i = 1 for a chosen image, a_ik its instances of
cell k and t the aim, the programme minimises sum_k |sum_i a_ik x_i - min(t, sum_i a_ik)|: a cell with too few instances
in the whole dataset is asked for all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Solution:
    """A choice of candidates, its deviation, and a bound below which none can be."""

    chosen: NDArray[np.bool_]
    deviation: int
    bound: int
    proven: bool


@dataclass(frozen=True)
class Programme:
    """The programme: ``cells [candidates, K]`` instances, ``wanted [K]`` of them, ``images`` to choose or None."""

    cells: Counts
    aim: int
    wanted: Counts
    images: int | None

    @classmethod
    def of(cls, counts: Counts, per_cell: int | None, images: int | None) -> Programme:
        """The programme of ``counts [candidates, C, 3]``; a class and size without instances is no cell."""
        cells = counts.reshape(len(counts), -1)
        cells = cells[:, cells.any(0)]
        totals = cells.sum(0)
        if per_cell is not None:
            aim = per_cell
        elif images is not None:
            aim = max(1, round(images * totals.mean() / len(cells)))
        else:
            aim = max(1, int(np.quantile(totals, 0.25)))
        return cls(cells, aim, np.minimum(aim, totals), images)

    @property
    def totals(self) -> Counts:
        """Objects of each cell among all candidates."""
        return self.cells.sum(0)

    def totals_of(self, chosen: NDArray[np.bool_]) -> Counts:
        """Objects of each cell in a choice."""
        return self.cells[chosen].sum(0)

    def deviation(self, chosen: NDArray[np.bool_]) -> int:
        """Objects too many or too few in a choice."""
        return int(abs(self.totals_of(chosen) - self.wanted).sum())

    def random(self, rng: np.random.Generator, size: int) -> NDArray[np.bool_]:
        """As many candidates at random."""
        chosen = np.zeros(len(self.cells), bool)
        chosen[rng.permutation(len(chosen))[:size]] = True
        return chosen

    def solve(self, rng: np.random.Generator, time_limit: float) -> Solution:
        """The choice of least deviation; of several, one with least shortage."""
        order = rng.permutation(len(self.cells))  # decides which of several equally good choices is found
        less_than_one = 0.5 / max(1, self.wanted.sum())  # even if all is short: the deviation comes first
        found = self._minimise(order, np.zeros(len(order)), (1.0, 1.0 + less_than_one), None, time_limit, 0.0)
        chosen = self._chosen(found, order)
        deviation = self.deviation(chosen)
        bound = max(0, math.ceil(found.mip_dual_bound - 0.5 - 1e-6))
        return Solution(chosen, deviation, min(bound, deviation), found.status == 0)

    def near(self, rng: np.random.Generator, limit: int, time_limit: float) -> NDArray[np.bool_]:
        """A random choice of a deviation up to ``limit``: that of nearly the smallest sum of random numbers."""
        order = rng.permutation(len(self.cells))
        found = self._minimise(order, rng.uniform(-1, 1, len(order)), (0.0, 0.0), limit, time_limit, 0.05)
        return self._chosen(found, order)

    def _minimise(
        self,
        order: NDArray[Any],
        costs: NDArray[Any],
        deviation_costs: tuple[float, float],
        limit: int | None,
        time_limit: float,
        gap: float,
    ) -> Any:
        """Minimise the costs of the chosen images and those of each instance too many and too few."""
        from scipy import optimize, sparse

        cells, (images, cell_count) = self.cells[order], self.cells.shape
        identity = sparse.identity(cell_count)
        balance = sparse.hstack([sparse.csr_array(cells.T), -identity, identity])  # of x, excess and shortage
        is_choice = np.repeat([1, 0], [images, 2 * cell_count])
        constraints = [
            optimize.LinearConstraint(balance, self.wanted, self.wanted),
            optimize.LinearConstraint(is_choice[None], self.images or 1, self.images or np.inf),
        ]
        if limit is not None:
            constraints.append(optimize.LinearConstraint(1 - is_choice[None], 0, limit))
        found = optimize.milp(
            np.r_[costs, np.repeat(deviation_costs, cell_count)],
            integrality=is_choice,
            bounds=optimize.Bounds(0, np.where(is_choice, 1, np.inf)),
            constraints=constraints,
            options={"time_limit": time_limit, "mip_rel_gap": gap},
        )
        if found.x is None:
            raise ValueError(f"time_limit must be longer: no choice found in {time_limit:g} seconds: {found.message}")
        return found

    def _chosen(self, found: Any, order: NDArray[Any]) -> NDArray[np.bool_]:
        chosen = np.zeros(len(self.cells), bool)
        chosen[order] = found.x[: len(order)] > 0.5
        return chosen


def imbalance(totals: Counts) -> float:
    """Share of the instances that would have to move to another cell for all to be equal."""
    return float(abs(totals - totals.mean()).sum() / (2 * totals.sum()))
