"""Chemical Langevin dynamics of mRNA under Hill regulation.

Gene j of a cell in state s follows

    dx_j = (P_j - d x_j) dt + q (sqrt(P_j) dW + sqrt(d x_j) dW')
    P_j  = b_sj + sum over activators i of k_ij o_ij + sum over repressors of k_ij (1 - o_ij)
    o_ij = h(x_i) = x_i^n / (K_i^n + x_i^n), or a constant where the edge is off in s

as in SERGIO (Dibaeinia & Sinha, Cell Systems 2020), with K_i the mean of regulator i over the states. Letters in
comments: C cells, G genes, R regulators, E edges, S states.
"""

from dataclasses import dataclass

import numpy as np

MIN_HALF_RESPONSE = 1e-3  # of a regulator that no state expresses
ROUNDS, TOLERANCE = 2000, 1e-9  # of the search for steady states


@dataclass(frozen=True)
class Kinetics:
    """Rates, in SERGIO's units: expression is production over decay."""

    decay: float = 0.8  # per unit of time
    hill: float = 2.0  # Hill coefficient of every edge
    off_occupancy: float = (
        0.0  # of an edge that is off: 0 as if its regulator were absent; 0.5 keeps the target's level
    )
    noise: float = 0.5  # q: 0 is deterministic; the variance of an unregulated gene is q^2 times its mean
    duration: float = 10.0  # time that a cell spends in a state before it branches
    step: float = 0.1  # of time
    burn_in: float = 6.0  # time in the root, from its steady state, before pseudotime begins

    def __post_init__(self):
        positive = {name: getattr(self, name) for name in ("decay", "hill", "duration", "step")}
        wrong = [f"{name}={value}" for name, value in positive.items() if not value > 0]
        wrong += [f"{name}={getattr(self, name)}" for name in ("noise", "burn_in") if not getattr(self, name) >= 0]
        wrong += [f"off_occupancy={self.off_occupancy}"] if not 0 <= self.off_occupancy <= 1 else []
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: rates and times must be positive, off_occupancy 0 to 1")


@dataclass(frozen=True, eq=False)
class Dynamics:
    """A network in S states, with all constants worked out."""

    kinetics: Kinetics
    regulators: np.ndarray  # R positions of genes
    half_response: np.ndarray  # R
    constant: np.ndarray  # S x G, production that no regulator changes
    weights: np.ndarray  # S x R x G, production per occupancy, negative for repressors
    steady: np.ndarray  # S x G, deterministic steady states

    @classmethod
    def of(
        cls, kinetics: Kinetics, source: np.ndarray, target: np.ndarray, effect: np.ndarray,
        activity: np.ndarray, rates: np.ndarray,
    ) -> "Dynamics":  # fmt: skip
        """From E edges (`effect` is sign times strength), S x E activity and S x G rates."""
        regulators, row = np.unique(source, return_inverse=True)
        n_states, n_genes = rates.shape
        weights = np.zeros((n_states, len(regulators), n_genes))
        constant = rates.copy()
        for rates_of_state in constant:
            np.add.at(rates_of_state, target, np.maximum(-effect, 0))  # a repressor that is absent
        for state, is_on in enumerate(activity):
            weights[state, row[is_on], target[is_on]] = effect[is_on]
            np.add.at(constant[state], target[~is_on], effect[~is_on] * kinetics.off_occupancy)
        steady, half = _steady(kinetics, regulators, constant, weights)
        return cls(kinetics, regulators, half, constant, weights, steady)

    def occupancy(self, x: np.ndarray) -> np.ndarray:
        """Hill function of each regulator: ... G -> ... R."""
        return occupancy(x[..., self.regulators], self.half_response, self.kinetics.hill)

    def run(self, path: list[int], n_steps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Expression of C cells after their walk along a path of states: C x G float32.

        Each cell passes all states but the last in full, and `n_steps` (C) steps of the last.
        """
        k = self.kinetics
        x = np.tile(self.steady[path[0]].astype(np.float32), (len(n_steps), 1))
        x = self._walk(x, path[0], round(k.burn_in / k.step), rng)
        for state in path[:-1]:
            x = self._walk(x, state, round(k.duration / k.step), rng)
        reached, order = np.empty_like(x), np.argsort(-n_steps, kind="stable")
        x = x[order]
        for done in range(1, n_steps.max(initial=0) + 1):
            x = self._walk(x[: np.count_nonzero(n_steps >= done)], path[-1], 1, rng)  # cells that have arrived leave
            reached[order[: len(x)]] = x
        return reached

    def _walk(self, x: np.ndarray, state: int, n: int, rng: np.random.Generator) -> np.ndarray:
        """`n` steps in one state, each exact in mean and variance for a production that holds still meanwhile."""
        k = self.kinetics
        constant, weights = self.constant[state].astype(np.float32), self.weights[state].astype(np.float32)
        half = self.half_response.astype(np.float32)
        kept = np.float32(np.exp(-k.decay * k.step))
        gain = np.float32((1 - kept) / k.decay)
        spread = np.float32(k.noise**2 * (1 - kept**2) / (2 * k.decay))
        x, noise = x.copy(), np.empty_like(x)
        for _ in range(n):
            production = occupancy(x[:, self.regulators], half, k.hill) @ weights  # C G
            production += constant
            variance = np.maximum(production + np.float32(k.decay) * x, 0) * spread
            rng.standard_normal(out=noise, dtype=np.float32)
            noise *= np.sqrt(variance, out=variance)
            x *= kept
            x += np.multiply(production, gain, out=production)
            x += noise
            np.maximum(x, 0, out=x)
        return x


def occupancy(x: np.ndarray, half: np.ndarray, hill: float) -> np.ndarray:
    """x^n / (half^n + x^n)."""
    ratio = (x / half) ** hill
    return ratio / (1 + ratio)


def _steady(kinetics: Kinetics, regulators: np.ndarray, constant: np.ndarray, weights: np.ndarray):
    """Steady states (S x G) and, with them, the regulators' means over states (R): damped steps to both at once.

    Without feedback the answer is unique; with feedback it is the one reached from half-occupied regulators.
    """
    x = (constant + 0.5 * weights.sum(1)) / kinetics.decay  # S G
    for _ in range(ROUNDS):
        half = np.maximum(x[:, regulators].mean(0), MIN_HALF_RESPONSE)
        occupied = occupancy(x[:, regulators], half, kinetics.hill)
        moved = (x + (constant + np.einsum("sr,srg->sg", occupied, weights)) / kinetics.decay) / 2
        change, x = np.abs(moved - x).max(), np.maximum(moved, 0)
        if change < TOLERANCE:
            break
    return x, half
