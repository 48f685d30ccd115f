"""How uncertain strengths of votes are: a cluster bootstrap over prompts and over voters, all its draws fitted at once.

A vote depends on its prompt's images and on who casts it; both come back in other votes. Of two crossed kinds of
clusters the variance is V(prompts) + V(voters) - V(both), the last of clusters that share both (Cameron, Gelbach and
Miller 2011, doi:10.1198/jbes.2010.07136). Each is that of a bootstrap which draws whole clusters. What voters add,
V(voters) - V(both), is made a covariance of the same trace, or of 0: by chance it may be none, where the truth is one.

A bootstrap that draws prompts and voters at once and multiplies both numbers is no substitute: of votes that share
little it gives three times the variance (Owen 2007, doi:10.1214/07-AOAS122).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from evalkit.numerics.bradley_terry import fit

if TYPE_CHECKING:
    import numpy as np

    from evalkit.numerics.bradley_terry import Floats, Ints

AT_ONCE = 2_000_000  # numbers in memory at a time, of a draw's weights


@dataclass(frozen=True)
class Votes:
    """Votes as arrays.

    Attributes:
        items: K, how many are compared.
        pairs: i64 [P,2], the two items of each pair; each two stand in one pair at most.
        place, outcome: i64 [V], of each vote its pair, and WIN, LOSS (of the pair's first) or TIE.
        prompt, voter: i64 [V], clusters: 0 to G - 1, each with a vote.
        prior: of `bradley_terry.fit`.
    """

    items: int
    pairs: Ints
    place: Ints
    outcome: Ints
    prompt: Ints
    voter: Ints
    prior: float

    @property
    def counts(self) -> Floats:
        """f64 [1,P,3], how many votes of each pair went which way."""
        import numpy as np

        found = np.bincount(self.place * 3 + self.outcome, minlength=3 * len(self.pairs))
        return found.reshape(1, -1, 3).astype(np.float64)


@dataclass(frozen=True)
class Spread:
    """The uncertainty of strengths.

    Attributes:
        covariance: f64 [K,K]; its rows add up to 0, as strengths do.
        degrees: of Student's t.
        of_voters: the share of the variance that voters add.
    """

    covariance: Floats
    degrees: float
    of_voters: float


def spread(votes: Votes, draws: int, seed: int) -> Spread | None:
    """The uncertainty of the strengths of votes; none where all are of one prompt.

    Of a single voter it is that over prompts alone, and tells nothing of other voters.

    Args:
        votes: what was cast.
        draws: of each bootstrap.
        seed: of the draws.
    """
    import numpy as np

    prompts, voters = int(votes.prompt.max()) + 1, int(votes.voter.max()) + 1
    if prompts < 2:
        return None
    rng = np.random.default_rng(seed)
    by_prompt = _variance(votes, votes.prompt, draws, rng)
    if voters < 2:
        return Spread(by_prompt, prompts - 1, 0.0)
    both = np.unique(votes.prompt * voters + votes.voter, return_inverse=True)[1]
    added = _positive(_variance(votes, votes.voter, draws, rng) - _variance(votes, both, draws, rng))
    first, second = float(np.trace(by_prompt)), float(np.trace(added))
    degrees = (first + second) ** 2 / (first**2 / (prompts - 1) + second**2 / (voters - 1))  # Satterthwaite 1946
    return Spread(by_prompt + added, degrees, second / (first + second))


def _variance(votes: Votes, clusters: Ints, draws: int, rng: np.random.Generator) -> Floats:
    """The covariance f64 [K,K] of strengths over draws of whole clusters, as many as there are."""
    import numpy as np
    from scipy.sparse import coo_array

    count = int(clusters.max()) + 1
    kinds = votes.place * 3 + votes.outcome
    shape = (count, 3 * len(votes.pairs))
    of_clusters = coo_array((np.ones(len(kinds)), (clusters, kinds)), shape=shape).tocsr()  # sums where they repeat
    whole = fit(votes.pairs, votes.counts, votes.items, votes.prior)
    parts = []
    size = max(1, AT_ONCE // (count + 3 * len(votes.pairs) + votes.items**2))
    for start in range(0, draws, size):
        weights = rng.multinomial(count, np.full(count, 1 / count), size=min(size, draws - start))  # i64 [B,G]
        counts = np.asarray((of_clusters.T @ weights.T.astype(np.float64)).T).reshape(len(weights), -1, 3)
        parts.append(fit(votes.pairs, counts, votes.items, votes.prior, whole).strengths)
    found: Floats = np.cov(np.concatenate(parts), rowvar=False) * (count / (count - 1))  # as of a mean: ddof=1
    return found


def _positive(matrix: Floats) -> Floats:
    """A difference of covariances as one: without its negative eigenvalues, and of its trace, or of 0.

    Without the second, what chance adds to some eigenvalues would count, and what it takes from others would not: of
    12 items, 10 voters and no effect of theirs at all, standard errors came out 1.3 times too large.
    """
    import numpy as np

    values, vectors = np.linalg.eigh(matrix)
    above = np.maximum(values, 0.0)
    if not above.any():
        return np.zeros_like(matrix)
    found: Floats = (vectors * (above * max(values.sum(), 0.0) / above.sum())) @ vectors.T
    return found


def carried(moves: Floats, groups: int, target: Floats) -> Floats:
    """Clusters' moves so scaled that sums over them give a covariance: as near to what they were as can be.

    Args:
        moves: f64 [G,K], what the votes of each cluster move the strengths by; each column's sum is 0.
        groups: number of clusters that count as independent, those without votes too: the covariance of moves m is
            groups / (groups - 1) m^T m.
        target: f64 [K,K], the covariance that they are to give.

    Returns:
        f64 [G,K]: `moves` times the matrix that maps a normal distribution of their covariance to one of `target` with
        the least squared distance (the optimal transport between Gaussians).
    """
    import numpy as np

    scale = groups / (groups - 1)
    values, vectors = np.linalg.eigh(scale * moves.T @ moves)
    there = values > 1e-12 * values.max(initial=0.0)  # the mean strength never moves
    root = (vectors[:, there] * np.sqrt(values[there])) @ vectors[:, there].T
    inverse = (vectors[:, there] / np.sqrt(values[there])) @ vectors[:, there].T
    inner, turned = np.linalg.eigh(root @ target @ root)
    middle = (turned * np.sqrt(np.maximum(inner, 0.0))) @ turned.T
    found: Floats = moves @ (inverse @ middle @ inverse)
    return found


def at_least(found: Spread, covariance: Floats) -> Spread:
    """The spread with what another covariance has more of, in any direction.

    Draws of votes that all went one way are all alike: their spread is 0, and the inverse information's is not.
    """
    import numpy as np

    values, vectors = np.linalg.eigh(covariance - found.covariance)
    more: Floats = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return replace(found, covariance=found.covariance + more)
