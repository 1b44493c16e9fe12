"""The two towers as they learn: binary cross-entropy of the clicked product and of negatives drawn for each batch.

    loss = softplus(-l_t) + sum_k softplus(l_k)      l = score - log(N q), t the clicked product, k the N negatives
    q_j  = (1 - e) * clicks of j / clicks + e / P    how often j is drawn, e = uniform_share

With the correction the best score is the log of the click's odds, whatever q: else popular products, which are drawn
more often, would be pushed down. A negative that is the clicked product itself does not count.

Shapes: B clicks of a batch, N negatives, L places of a history, others as in two_towers.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from encoders.baselines.two_towers import Examples, TowerWeights, TrainingRule
from encoders.next_click import ABSENT, Floats


def train(
    weights: TowerWeights[Floats],
    examples: Examples,
    visits: int,
    content: Floats | None,
    place_weights: Floats,
    rule: TrainingRule,
    random: np.random.Generator,
) -> TowerWeights[Floats]:
    """Return the weights after `visits` examples, taken in passes over all of them, each in an order of its own.

    content        (P, D) float32 or None
    place_weights  (L,) float32, v

    Torch works on one thread, and all that is random comes from `random`: the same call gives the same weights.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _Training(weights, examples, content, place_weights, rule, random).run(visits)
    finally:
        torch.set_num_threads(threads)


def user_tower(p: TowerWeights[Tensor], users: Tensor, histories: Tensor, place_weights: Tensor) -> Tensor:
    """Return x (B, F) of users (B,), rows of p.users, after histories (B, L), -1 where there is no click."""
    shares = place_weights * (histories != ABSENT)  # (B, L)
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-9)
    pooled = (shares[:, None] @ p.context[histories.clamp(min=0)])[:, 0]
    known = p.users[users]
    hidden = (torch.cat([known, pooled], 1) @ p.user_in + p.user_in_bias).relu()  # (B, H)
    return known + pooled + hidden @ p.user_out


def product_tower(p: TowerWeights[Tensor], rows: Tensor, content: Tensor | None, shown: Tensor) -> Tensor:
    """Return y (n, F) of rows (n,); content is (P, D), and t is only there where shown (n, 1) is 1, not 0."""
    products = inputs = shown * (p.context[rows] + p.offset[rows])
    if content is not None:
        inputs = torch.cat([products, content[rows]], 1)
    hidden = (inputs @ p.product_in + p.product_in_bias).relu()
    return products + hidden @ p.product_out


class _Training:
    """What stays the same from batch to batch."""

    def __init__(
        self,
        weights: TowerWeights[Floats],
        examples: Examples,
        content: Floats | None,
        place_weights: Floats,
        rule: TrainingRule,
        random: np.random.Generator,
    ) -> None:
        self._examples, self._rule, self._random = examples, rule, random
        self._p = TowerWeights(*(torch.tensor(array, requires_grad=True) for array in weights))  # copies
        self._content = None if content is None else torch.tensor(content)
        self._place_weights = torch.from_numpy(place_weights)
        products = len(weights.bias)
        clicked = np.bincount(examples.targets, minlength=products) / len(examples.targets)
        share = (1.0 - rule.uniform_share) * clicked + rule.uniform_share / products  # q
        self._share_up_to = np.cumsum(share)
        self._log_drawn = torch.from_numpy(np.log(rule.negatives * share).astype(np.float32))  # (P,), log(N q)

    def run(self, visits: int) -> TowerWeights[Floats]:
        rule, clicks = self._rule, len(self._examples.targets)
        passes = [self._random.permutation(clicks) for _ in range(-(-visits // clicks))]
        order = np.concatenate(passes)[:visits]
        optimizer = torch.optim.Adam(self._p, rule.learning_rate)
        for start in range(0, visits, rule.batch):
            optimizer.param_groups[0]["lr"] = rule.learning_rate * (1.0 - 0.9 * start / visits)
            optimizer.zero_grad()
            torch.autograd.backward(self._loss(order[start : start + rule.batch]))
            optimizer.step()
        return TowerWeights(*(tensor.detach().numpy() for tensor in self._p))

    def _loss(self, at: NDArray[np.int64]) -> Tensor:
        """The mean loss of the examples at these B places."""
        p, rule, random = self._p, self._rule, self._random
        is_unknown = random.random(len(at)) < rule.unknown_users
        users = torch.from_numpy(np.where(is_unknown, 0, self._examples.users[at] + 1))
        histories = torch.from_numpy(self._examples.histories[at])  # (B, L)
        targets = torch.from_numpy(self._examples.targets[at])  # (B,)
        places = random.random(rule.negatives) * self._share_up_to[-1]
        negatives = torch.from_numpy(np.searchsorted(self._share_up_to, places, "right"))  # (N,)
        rows = torch.cat([targets, negatives])
        hidden_share = rule.unknown_products if self._content is not None else 0.0

        x = user_tower(p, users, histories, self._place_weights)
        x = x * self._kept(x.shape, rule.dropout) / (1.0 - rule.dropout)
        y = product_tower(p, rows, self._content, self._kept((len(rows), 1), hidden_share))
        of_rows = p.bias[rows] - self._log_drawn[rows]
        clicked = (x * y[: len(at)]).sum(1) + of_rows[: len(at)]  # (B,)
        others = x @ y[len(at) :].T + of_rows[len(at) :]  # (B, N)
        others = others.masked_fill(negatives == targets[:, None], -torch.inf)
        return (softplus(-clicked) + softplus(others).sum(1)).mean()

    def _kept(self, shape: tuple[int, ...], share: float) -> Tensor:
        """1, but 0 with this share."""
        return torch.from_numpy((self._random.random(shape, np.float32) >= share).astype(np.float32))
