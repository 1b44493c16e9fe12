"""Two towers: dense layers make an embedding of the user and one of the product, and their dot product is the score.

    score(u, j) = x_u . y_j + b_j
    x_u = s_u + relu((k_u, m_u) A + a) A'       k_u embedding of the user, m_u of her last clicks, s_u = k_u + m_u
    m_u = sum_l v_l c_{h_l} / sum_l v_l         v_l = (l + 1) ** -fall, h_0 the newest click, l < last
    y_j = t_j + relu((t_j, g_j) B + a_B) B'     t_j = c_j + o_j, g_j the content vector (D,), where there are any

Around each pair of layers leads a way past them, so the towers start as averages of embeddings. c serves both towers.
Trained by binary cross-entropy against drawn negatives on the recent clicks, from the last weights on, at each refit.

Sources: Covington, Adams, Sargin, RecSys 2016 (user tower); Yi and others, RecSys 2019 (two towers, the correction of
drawn negatives by their frequency). Shapes: U users, P products, F factors, L last, H width of layers, D of content.
"""

from typing import Generic, NamedTuple, TypeVar

import numpy as np

from encoders.baselines.fading_counts import position_weights
from encoders.next_click import ABSENT, Floats, Rows, longer
from encoders.recommender import Request

Array = TypeVar("Array")  # Floats, or torch's Tensor while it learns


class TowerWeights(NamedTuple, Generic[Array]):
    """All that is trained, float32."""

    users: Array  # (U + 1, F), k; row 0 is that of an unknown user, user u has row u + 1
    context: Array  # (P, F), c
    offset: Array  # (P, F), o
    bias: Array  # (P,), b
    user_in: Array  # (2 F, H), A
    user_in_bias: Array  # (H,), a
    user_out: Array  # (H, F), A'
    product_in: Array  # (F + D, H), B
    product_in_bias: Array  # (H,), a_B
    product_out: Array  # (H, F), B'


class TrainingRule(NamedTuple):
    """How the towers learn."""

    learning_rate: float = 0.01  # of Adam, falling to a tenth of it over a refit
    batch: int = 512
    negatives: int = 1024  # drawn for each batch
    uniform_share: float = 0.5  # of the negatives; the others are drawn as often as they are clicked
    dropout: float = 0.3  # share of x_u left out of a step
    unknown_users: float = 0.6  # share of the examples that are shown without k_u, which else learns them by heart
    unknown_products: float = 0.1  # share of the products shown without t_j, where there is content
    visits: int = 16  # how often an example is trained on, all in all
    passes_max: int = 4  # over all examples at one refit, while there are few


class Examples(NamedTuple):
    """N clicks, in any order: who, after which clicks (N, L) newest first and -1 where there is none, and on what."""

    users: Rows
    histories: Rows
    targets: Rows


def user_embedding(weights: TowerWeights[Floats], user: int, history: Rows, shares: Floats) -> Floats:
    """Return x_u (F,) float32 from the rows (n,), all below P, and their weights (n,), n from 0. A user who came after
    the weights were fitted has the embedding of an unknown one."""
    known = user + 1 if user + 1 < len(weights.users) else 0
    pooled: Floats = shares @ weights.context[history]
    pooled /= max(float(shares.sum()), 1e-9)
    inputs = np.concatenate([weights.users[known], pooled])
    hidden = np.maximum(inputs @ weights.user_in + weights.user_in_bias, 0.0)
    embedding: Floats = weights.users[known] + pooled + hidden @ weights.user_out
    return embedding


def product_embeddings(weights: TowerWeights[Floats], content: Floats | None) -> Floats:
    """Return y (P, F) float32; with content (n, D) it is (n, F), where products from P on have t = 0."""
    products = inputs = weights.context + weights.offset
    if content is not None:
        products = longer(products, len(content))
        inputs = np.concatenate([products, content], axis=1)
    hidden: Floats = np.maximum(inputs @ weights.product_in + weights.product_in_bias, 0.0)
    embeddings: Floats = products + hidden @ weights.product_out
    return embeddings


DEFAULT_RULE = TrainingRule()


class TwoTowers:
    """Before the first refit all scores are 0. A product that came after the last one is scored by its content, with
    the median bias; where there is no content, like the worst of the others."""

    name = "two-towers"

    def __init__(
        self,
        refit_every: int,
        *,
        content: Floats | None = None,
        factors: int = 64,
        width: int = 64,
        last: int = 20,
        fall: float = 3.0,
        window: int = 300_000,
        rule: TrainingRule = DEFAULT_RULE,
        seed: int = 0,
    ) -> None:
        """Nothing learned yet.

        refit_every  >= 1, clicks of all users from one refit to the next: a twentieth of the stream did better than a
                     hundredth, as each training starts its optimiser anew, and takes no longer in all
        content      (n, D) float32 by row, with a row for each product that will ever be known; or None
        factors      >= 1, F; width >= 1, H
        last         >= 1, L, clicks of the history that a score looks at
        fall         0 to 10, exponent of the place in the history
        window       >= 1, clicks that a refit trains on, the newest

        Raises ValueError where a bound does not hold.
        """
        if refit_every < 1:
            raise ValueError(f"a refit every {refit_every} clicks: give 1 or more")
        if factors < 1 or width < 1:
            raise ValueError(f"{factors} factors and layers of {width}: give 1 or more of each")
        if window < 1:
            raise ValueError(f"the newest {window} clicks are trained on: give 1 or more")
        check_rule(rule)
        self._refit_every, self._window, self._rule = refit_every, window, rule
        self._content = content
        self._place_weights = position_weights(last, fall)
        self._random = np.random.default_rng(seed)
        self._examples = Examples(np.zeros(0, np.int32), np.zeros((0, last), np.int32), np.zeros(0, np.int32))
        self._clicks = self._users = self._products = 0
        self._weights = start_weights(self._random, factors, width, 0 if content is None else content.shape[1])
        self._embeddings: Floats = np.zeros((0, factors), np.float32)  # y of all that can be scored, and b
        self._bias: Floats = np.zeros(0, np.float32)

    def grow(self, products: int) -> None:
        """Raises ValueError where content has no row for a product."""
        if self._content is not None and products > len(self._content):
            raise ValueError(f"{products} products, but content of {len(self._content)}: give a row for each")
        self._products = products

    def score(self, request: Request, out: Floats) -> None:
        fitted = len(self._weights.bias)
        if not fitted:
            out[:] = 0.0
            return
        history = request.history[: len(self._place_weights)]
        is_fitted = history < fitted
        user = user_embedding(
            self._weights, request.user, history[is_fitted], self._place_weights[: len(history)][is_fitted]
        )
        scored = min(len(self._embeddings), len(out))
        np.matmul(self._embeddings[:scored], user, out=out[:scored])
        out[:scored] += self._bias[:scored]
        out[scored:] = out[:scored].min()

    def learn(self, request: Request, row: int, code: int = 3) -> None:  # noqa: ARG002
        """A refit takes torch, on one thread."""
        self._keep(request, row)
        if self._clicks % self._refit_every == 0:
            self._refit()

    def _keep(self, request: Request, row: int) -> None:
        """In a ring that grows until it holds the window."""
        kept = self._examples
        place = self._clicks % self._window
        if place == len(kept.targets):
            rows = min(self._window, max(1024, 2 * place))
            kept = self._examples = Examples(*(longer(array, rows) for array in kept))
        clicks = min(len(request.history), kept.histories.shape[1])
        kept.users[place], kept.targets[place] = request.user, row
        kept.histories[place, :clicks], kept.histories[place, clicks:] = request.history[:clicks], ABSENT
        self._clicks += 1
        self._users = max(self._users, request.user + 1)

    def _refit(self) -> None:
        from encoders.baselines.two_towers_training import train  # brings torch

        kept = min(self._clicks, self._window)
        examples = Examples(*(array[:kept] for array in self._examples))
        content = None if self._content is None else self._content[: self._products]
        weights = grown(self._weights, self._random, self._users, self._products, examples.targets)
        visits = min(self._rule.visits * self._refit_every, self._rule.passes_max * kept)
        self._weights = train(weights, examples, visits, content, self._place_weights, self._rule, self._random)
        self._embeddings = product_embeddings(self._weights, self._content)
        bias = self._weights.bias
        self._bias = np.append(bias, np.full(len(self._embeddings) - len(bias), np.median(bias), np.float32))


def check_rule(rule: TrainingRule) -> None:
    """Raises ValueError where the rule cannot be trained by."""
    if not rule.learning_rate > 0:
        raise ValueError(f"the learning rate is {rule.learning_rate}: give more than 0")
    if min(rule.batch, rule.negatives, rule.visits, rule.passes_max) < 1:
        raise ValueError(f"batch, negatives, visits and passes_max must be 1 or more each: {rule}")
    shares = (rule.uniform_share, rule.dropout, rule.unknown_users, rule.unknown_products)
    if not (min(shares) >= 0 and max(shares) <= 1 and rule.dropout < 1 and rule.uniform_share > 0):
        raise ValueError(f"shares must be 0 to 1, dropout below 1 and uniform_share above 0: {rule}")


def start_weights(random: np.random.Generator, factors: int, width: int, content: int) -> TowerWeights[Floats]:
    """Without users, but for the unknown one, and products. What leads out of the layers starts small."""
    into_user, into_product = 2 * factors, factors + content
    return TowerWeights(
        users=_normal(random, 1, factors, 0.01),
        context=_normal(random, 0, factors, 0.05),
        offset=_normal(random, 0, factors, 0.01),
        bias=np.zeros(0, np.float32),
        user_in=_normal(random, into_user, width, into_user**-0.5),
        user_in_bias=np.zeros(width, np.float32),
        user_out=_normal(random, width, factors, 0.1 * width**-0.5),
        product_in=_normal(random, into_product, width, into_product**-0.5),
        product_in_bias=np.zeros(width, np.float32),
        product_out=_normal(random, width, factors, 0.1 * width**-0.5),
    )


def grown(
    weights: TowerWeights[Floats], random: np.random.Generator, users: int, products: int, targets: Rows
) -> TowerWeights[Floats]:
    """The weights with rows for U = users and P = products. A new bias starts at the product's log share of targets:
    the cross-entropy would take most of its steps to get there."""
    new_users, new_products = users + 1 - len(weights.users), products - len(weights.bias)
    factors = weights.users.shape[1]
    clicks = np.bincount(targets, minlength=products) + 0.5
    bias = np.log(clicks / clicks.sum())[len(weights.bias) :].astype(np.float32)
    return weights._replace(
        users=np.concatenate([weights.users, _normal(random, new_users, factors, 0.01)]),
        context=np.concatenate([weights.context, _normal(random, new_products, factors, 0.05)]),
        offset=np.concatenate([weights.offset, _normal(random, new_products, factors, 0.01)]),
        bias=np.concatenate([weights.bias, bias]),
    )


def _normal(random: np.random.Generator, rows: int, columns: int, deviation: float) -> Floats:
    return random.standard_normal((rows, columns), np.float32) * np.float32(deviation)
