"""The next token, defined once for every executor: Gumbel-max over what temperature, top-k and top-p leave.

Sources: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011) for Philox4x32-10; Gumbel-max draws from
softmax(z) as argmax(z_i - log(-log(u_i))). The counter is (token id, step, row, 0), the key the seed, so a draw depends
on nothing but the request: not on the batch, the executor, or the order in which candidates are looked at.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from eet_demo.declared import settings_of
from eet_demo.errors import NumericsError
from eet_demo.records import RaceSettings, Sampling

PHILOX_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)


def check_sampling(sampling: Sampling) -> None:
    """Raises RequestError for values no sampler could honour."""
    for each in fields(sampling):
        settings_of(RaceSettings)[each.name].check(getattr(sampling, each.name))


def philox4x32(counter: tuple[NDArray[np.uint32] | int, int, int, int], key: int) -> NDArray[np.uint32]:
    """First output word of Philox4x32-10 for each counter; uint32, shaped like the counter's first word."""
    first = np.atleast_1d(np.asarray(counter[0], np.uint64))
    c0, c1, c2, c3 = (np.broadcast_to(np.asarray(word, np.uint64), first.shape) for word in (first, *counter[1:]))
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(PHILOX_ROUNDS):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0.astype(np.uint32)


def gumbel(token_ids: NDArray[np.int64], step: int, row: int, seed: int) -> NDArray[np.float32]:
    """float32 Gumbel noise of each token id: -log(-log(u)), u = ((word >> 9) + 0.5) / 2^23.

    23 bits and a half are exact in float32, so u is never 0 nor 1; of 24 bits the largest would round to 1.
    """
    words = philox4x32((token_ids.astype(np.uint32), step, row, 0), seed)
    uniform = ((words >> np.uint32(9)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)
    noise: NDArray[np.float32] = -np.log(-np.log(uniform))
    return noise


NOT_FINITE = -2
"""Instead of a token: the row's best logit is NaN or infinite, and nothing was drawn."""


def sample(logits: NDArray[np.float32], sampling: Sampling, step: int, row: int) -> int:
    """The token drawn from one row of logits, float32 (vocab_size,); NOT_FINITE where the best is NaN or infinite.

    Candidates are ranked by logit, ties to the lower id. top-k keeps the first k; top-p keeps a candidate while the
    probability of those ranked before it is below p (so at least one stays); then the highest logit / temperature +
    Gumbel noise wins, ties to the lower id.
    """
    if sampling.greedy:
        return int(np.argmax(logits)) if np.isfinite(logits.max()) else NOT_FINITE
    scaled = (logits / np.float32(sampling.temperature)).astype(np.float32)
    if not np.isfinite(scaled.max()):
        return NOT_FINITE
    order = np.argsort(-scaled, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    if sampling.top_p < 1.0:
        mass = np.exp((scaled[order] - scaled[order[0]]).astype(np.float64))
        before = np.cumsum(mass) - mass
        order = order[before < sampling.top_p * mass.sum()]
    candidates = np.sort(order)
    return int(candidates[np.argmax(scaled[candidates] + gumbel(candidates, step, row, sampling.seed))])


def check_drawn(token_ids: NDArray[np.int32], rows: NDArray[np.int32]) -> NDArray[np.int32]:
    """`token_ids` as they are, one for each of the request's `rows`.

    Raises:
        NumericsError: one of them is NOT_FINITE; names its row.
    """
    if (token_ids == NOT_FINITE).any():
        row = int(rows[np.argmax(token_ids == NOT_FINITE)])
        raise NumericsError(
            f"the logits of row {row} are NaN or infinite, so no token was drawn; debug=on names the op that made them"
        )
    return token_ids
