"""GPM: no propagation at all, but attention over patterns that random walks find."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq.models.graph.base import known, project, require_shares, require_sizes
from cdeq.models.graph.batch import GraphBatch, require_fitting
from cdeq.models.graph.explicit import ExplicitModel
from cdeq.models.graph.sparse import SparseMatrix
from cdeq.models.graph.walks import Walks, anonymous, random_walks

POSITIONS = 2**18
"""Nodes of walks that are computed at a time where no gradient is asked for: bounds memory."""


@dataclass(frozen=True, kw_only=True)
class GPMSpec:
    """The settings of a `GPM`.

    Arguments:
        inputs: Features of a node; None leaves it to the data.
        hidden: Features of a pattern; each head has an equal share.
        classes: Answers to choose from; None leaves it to the data.
        patterns: Walks from a node in training, drawn anew each time.
        answer_patterns: Walks from a node in evaluation, the same each time.
        steps: Steps of a walk.
        heads: Of the attention between patterns.
        layers: Transformer layers over a node's patterns.
        dropout: The share of patterns' features that is left out in training.
        seed: Decides the walks in evaluation, at least 0.

    Raises:
        ValueError: When a setting is outside its range.
    """

    inputs: int | None = None
    hidden: int = 64
    classes: int | None = None
    patterns: int = 16
    answer_patterns: int = 16
    steps: int = 8
    heads: int = 4
    layers: int = 1
    dropout: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        require_sizes(inputs=self.inputs, hidden=self.hidden, classes=self.classes)
        require_sizes(patterns=self.patterns, answer_patterns=self.answer_patterns)
        require_sizes(steps=self.steps, heads=self.heads, layers=self.layers)
        require_shares(dropout=self.dropout)
        if self.hidden % self.heads:
            raise ValueError(
                f"`hidden` features are shared equally by `heads`; got {self.hidden} and "
                f"{self.heads}; make one a multiple of the other."
            )
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"`seed` is a whole number from 0 to 2³¹ - 1; got {self.seed}.")


class GPM(ExplicitModel):
    r"""A node is what the walks from it meet, and how they return.

    For each pattern, a walk w of l steps and its anonymous form a,

    .. math:: p = \mathrm{GRU}(U x_{w_l}, \dots, U x_{w_0}) + \mathrm{GRU}'(a_0, \dots, a_l) ,
        \qquad q = \mathrm{Transformer}(p_1, \dots, p_m) , \qquad
        y = V \sum_i \alpha_i q_i + c , \quad \alpha = \mathrm{softmax}(u \cdot q)

    The parts are the paper's, the networks in them are chosen here: a GRU on the walk costs a
    third of a transformer, and reads it from its end, so that the node itself comes last; u weighs
    the patterns. In training, the walks follow torch's global random numbers, and all nodes that
    are asked about are computed together: let them be about a thousand.

    References:
        | Beyond Message Passing: Neural Graph Pattern Machine (Wang et al., 2025)
        | https://arxiv.org/abs/2501.18739

    Example:
        >>> from cdeq.models.graph.adjacency import normalised
        >>> ring = normalised(torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]), nodes=4)
        >>> model = GPM(GPMSpec(inputs=5, hidden=8, classes=3)).eval()
        >>> batch = GraphBatch(torch.rand(4, 5), ring, torch.zeros(4), torch.tensor([2, 0]))
        >>> model.answers(batch).shape, model(batch).shape
        (torch.Size([2, 3]), torch.Size([4, 3]))
    """

    Spec = GPMSpec

    def __init__(self, spec: GPMSpec) -> None:
        super().__init__()
        self.spec, hidden = spec, spec.hidden
        inputs, classes = known(spec)
        self.projection = nn.Linear(inputs, hidden)
        self.path = nn.GRU(hidden, hidden, batch_first=True)
        self.shape = nn.GRU(spec.steps + 1, hidden, batch_first=True)
        self.pattern = _transformer(spec)
        self.weigh = nn.Linear(hidden, 1, bias=False)
        self.head = nn.Linear(hidden, classes)

    @property
    def products(self) -> float:
        return 0.0

    def answers(self, batch: GraphBatch) -> Float[Tensor, "s c"]:
        spec = self.spec
        require_fitting(batch, self.projection.in_features, self.projection.weight)
        if self.training:
            seed = int(torch.randint(2**31, ()))
            return self._answers(batch, batch.nodes, spec.patterns, seed)
        nodes = max(1, POSITIONS // (spec.answer_patterns * (spec.steps + 1)))
        parts = batch.nodes.split(nodes)
        return torch.cat([self._answers(batch, p, spec.answer_patterns, spec.seed) for p in parts])

    def _answers(self, batch: GraphBatch, nodes: Tensor, patterns: int, seed: int) -> Tensor:
        walks = random_walks(
            batch.adjacency, nodes, patterns=patterns, steps=self.spec.steps, seed=seed
        )
        return self.encoded(batch.features, walks)

    def encoded(self, features: Tensor | SparseMatrix, walks: Walks) -> Float[Tensor, "s c"]:
        """The logits of the nodes that these walks start from."""
        each = walks.flatten(0, 1)
        met = self.path(self._projected(features, each.flip(1)))[0][:, -1]
        patterns = (met + self._shapes(each)).unflatten(0, walks.shape[:2])
        q = self.pattern(F.dropout(patterns, self.spec.dropout, self.training))
        return self.head((self.weigh(q).softmax(1) * q).sum(1))

    def _projected(self, features: Tensor | SparseMatrix, walks: Tensor) -> Float[Tensor, "w l d"]:
        if isinstance(features, SparseMatrix):
            return F.embedding(walks, project(features, self.projection))
        nodes, places = walks.unique(return_inverse=True)
        return F.embedding(places, self.projection(features[nodes]))

    def _shapes(self, walks: Tensor) -> Float[Tensor, "w d"]:
        # few anonymous walks are different, so each of these is computed once
        different, places = anonymous(walks).unique(dim=0, return_inverse=True)
        steps = F.one_hot(different, self.spec.steps + 1).to(self.weigh.weight.dtype)
        return F.embedding(places, self.shape(steps)[0][:, -1])


def _transformer(spec: GPMSpec) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        spec.hidden,
        spec.heads,
        2 * spec.hidden,
        spec.dropout,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
    norm = nn.LayerNorm(spec.hidden)
    return nn.TransformerEncoder(layer, spec.layers, norm, enable_nested_tensor=False)
