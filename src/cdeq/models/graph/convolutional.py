"""GCN, GAT and GCNII: a fixed number of propagations, each with weights of its own."""

from abc import abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq.models.graph.base import known, project, require_shares, require_sizes
from cdeq.models.graph.batch import GraphBatch, require_fitting, thinned
from cdeq.models.graph.explicit import ExplicitModel
from cdeq.models.graph.geometric import Projected, convolutions
from cdeq.models.graph.sparse import SparseMatrix


class ConvolutionalModel(ExplicitModel):
    """A model that computes all nodes at once, whichever are asked about."""

    @abstractmethod
    def logits(
        self, features: Tensor | SparseMatrix, adjacency: SparseMatrix
    ) -> Float[Tensor, "n c"]:
        """The logits of every node."""

    def forward(self, batch: GraphBatch) -> Float[Tensor, "n c"]:
        require_fitting(batch, known(self.spec)[0], next(self.parameters()))
        return self.logits(batch.features, batch.adjacency)

    def answers(self, batch: GraphBatch) -> Float[Tensor, "s c"]:
        return self(batch)[batch.nodes]


def _norms(count: int, width: int, norm: bool) -> nn.ModuleList:
    return nn.ModuleList([nn.BatchNorm1d(width) if norm else nn.Identity() for _ in range(count)])


@dataclass(frozen=True, kw_only=True)
class GCNSpec:
    """The settings of a `GCN`.

    Arguments:
        inputs: Features of a node; None leaves it to the data.
        hidden: Features between two layers.
        classes: Answers to choose from; None leaves it to the data.
        layers: How many, at least 1.
        dropout: The share of the features between two layers that is left out in training.
        norm: Whether they pass a batch normalisation.

    Raises:
        ValueError: When a setting is outside its range.
    """

    inputs: int | None = None
    hidden: int = 256
    classes: int | None = None
    layers: int = 3
    dropout: float = 0.5
    norm: bool = True

    def __post_init__(self) -> None:
        require_sizes(inputs=self.inputs, hidden=self.hidden, classes=self.classes)
        require_sizes(layers=self.layers)
        require_shares(dropout=self.dropout)


class GCN(ConvolutionalModel):
    r"""Graph convolutions, with the adjacency as the batch has normalised it.

    .. math:: H_{l+1} = \mathrm{dropout}(\mathrm{ReLU}(\mathrm{norm}(A H_l W_l + b_l))) ,
        \qquad Y = A H_{L-1} W_{L-1} + b_{L-1}

    With its defaults this is OGB's example for ogbn-arxiv.

    References:
        | Semi-Supervised Classification with Graph Convolutional Networks (Kipf & Welling, 2017)
        | https://arxiv.org/abs/1609.02907

    Example:
        >>> sum(p.numel() for p in GCN(GCNSpec(inputs=128, classes=40)).parameters())
        110120
    """

    Spec = GCNSpec

    def __init__(self, spec: GCNSpec) -> None:
        super().__init__()
        self.spec, kind = spec, convolutions().gcn
        inputs, classes = known(spec)
        *before, last = [inputs, *[spec.hidden] * (spec.layers - 1)]
        self.layers = nn.ModuleList(
            [Projected(kind(width, spec.hidden, normalize=False)) for width in before]
        )
        self.last = Projected(kind(last, classes, normalize=False))
        self.norms = _norms(spec.layers - 1, spec.hidden, spec.norm)

    @property
    def products(self) -> float:
        return float(self.spec.layers)

    def logits(
        self, features: Tensor | SparseMatrix, adjacency: SparseMatrix
    ) -> Float[Tensor, "n c"]:
        x = features
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.dropout(norm(layer(x, adjacency)).relu(), self.spec.dropout, self.training)
        return self.last(x, adjacency)


@dataclass(frozen=True, kw_only=True)
class GATSpec:
    """The settings of a `GAT`.

    Arguments:
        inputs: Features of a node; None leaves it to the data.
        hidden: Features between two layers, of all heads together; each has an equal share.
        classes: Answers to choose from; None leaves it to the data.
        heads: Attentions side by side in all layers but the last, which has one.
        layers: How many, at least 1.
        dropout: The share of the features between two layers that is left out in training.
        attention_dropout: The share of the neighbours that is left out in training.
        norm: Whether the features between two layers pass a batch normalisation.

    Raises:
        ValueError: When a setting is outside its range.
    """

    inputs: int | None = None
    hidden: int = 64
    classes: int | None = None
    heads: int = 4
    layers: int = 3
    dropout: float = 0.5
    attention_dropout: float = 0.0
    norm: bool = True

    def __post_init__(self) -> None:
        require_sizes(inputs=self.inputs, hidden=self.hidden, classes=self.classes)
        require_sizes(heads=self.heads, layers=self.layers)
        require_shares(dropout=self.dropout, attention_dropout=self.attention_dropout)
        if self.hidden % self.heads:
            raise ValueError(
                f"`hidden` features are shared equally by `heads`; got {self.hidden} and "
                f"{self.heads}; make one a multiple of the other."
            )


class GAT(ConvolutionalModel):
    r"""Graph attention: the neighbours' weights are learned, the adjacency's are not looked at.

    .. math:: H_{l+1} = \mathrm{dropout}\Big(\mathrm{ELU}\Big(\mathrm{norm}\Big(
        \big\Vert_h \textstyle\sum_j a_{ijh} W_{lh} H_{lj} + b_l \Big)\Big)\Big) , \qquad
        a_{ijh} \propto_j \exp \mathrm{LeakyReLU}( u_h \cdot W_{lh} H_{li} + v_h \cdot W_{lh}
        H_{lj} )

    j runs over the entries of the adjacency's row i, self-loop included.

    References:
        | Graph Attention Networks (Veličković et al., 2018)
        | https://arxiv.org/abs/1710.10903

    Example:
        >>> sum(p.numel() for p in GAT(GATSpec(inputs=128, classes=40)).parameters())
        15608
    """

    Spec = GATSpec

    def __init__(self, spec: GATSpec) -> None:
        super().__init__()
        self.spec, hidden = spec, spec.hidden
        inputs, classes = known(spec)
        *before, last = [inputs, *[hidden] * (spec.layers - 1)]
        self.layers = nn.ModuleList(
            [self._layer(width, hidden // spec.heads, spec.heads) for width in before]
        )
        self.last = self._layer(last, classes, 1)
        self.norms = _norms(spec.layers - 1, hidden, spec.norm)

    def _layer(self, inputs: int, outputs: int, heads: int) -> Projected:
        # the adjacency has its self-loops already
        settings = {"dropout": self.spec.attention_dropout, "add_self_loops": False}
        return Projected(convolutions().gat(inputs, outputs, heads, **settings))

    @property
    def products(self) -> float:
        """One a head."""
        return float((self.spec.layers - 1) * self.spec.heads + 1)

    def logits(
        self, features: Tensor | SparseMatrix, adjacency: SparseMatrix
    ) -> Float[Tensor, "n c"]:
        x, pattern = features, adjacency.matrix
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.dropout(F.elu(norm(layer(x, pattern))), self.spec.dropout, self.training)
        return self.last(x, pattern)


@dataclass(frozen=True, kw_only=True)
class GCNIISpec:
    """The settings of a `GCNII`.

    Arguments:
        inputs: Features of a node; None leaves it to the data.
        hidden: Features of its state.
        classes: Answers to choose from; None leaves it to the data.
        layers: How many propagations, at least 1.
        alpha: α in [0, 1], the share of the first state in every propagation.
        theta: θ > 0; layer l's weights count log(θ / l + 1).
        dropout: The share of input and state that each map does not see in training.
        norm: Whether every propagated state passes a batch normalisation.
        shared: Whether a layer maps the first state by the same weights as the propagated one.

    Raises:
        ValueError: When a setting is outside its range.
    """

    inputs: int | None = None
    hidden: int = 256
    classes: int | None = None
    layers: int = 16
    alpha: float = 0.5
    theta: float = 1.0
    dropout: float = 0.1
    norm: bool = True
    shared: bool = False

    def __post_init__(self) -> None:
        require_sizes(inputs=self.inputs, hidden=self.hidden, classes=self.classes)
        require_sizes(layers=self.layers)
        require_shares(dropout=self.dropout)
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"`alpha` mixes two states, so it is in [0, 1]; got {self.alpha}.")
        if not self.theta > 0.0:
            raise ValueError(f"`theta` is above 0, else weights count nothing; got {self.theta}.")


class GCNII(ConvolutionalModel):
    r"""Deep graph convolutions that keep the first state in sight and start near the identity.

    .. math:: H_0 = \mathrm{ReLU}(X U + b) , \qquad H_l = \mathrm{ReLU}(\mathrm{norm}(
        (1 - \alpha) A H_{l-1} M_l + \alpha H_0 M_l')) , \qquad
        M_l = (1 - \beta_l) I + \beta_l W_l , \quad \beta_l = \log(\theta / l + 1)

    and a linear map of :math:`H_L`. M′ has weights of its own unless they are shared. With its
    defaults this is the entry for ogbn-arxiv on OGB's leaderboard, which has the weights of the
    variant that its paper marks by a star, and a batch normalisation in each layer.

    References:
        | Simple and Deep Graph Convolutional Networks (Chen et al., 2020)
        | https://arxiv.org/abs/2007.02133

    Example:
        >>> sum(p.numel() for p in GCNII(GCNIISpec(inputs=128, classes=40)).parameters())
        2148648
    """

    Spec = GCNIISpec

    def __init__(self, spec: GCNIISpec) -> None:
        super().__init__()
        self.spec, kind = spec, convolutions().gcnii
        inputs, classes = known(spec)
        self.first = nn.Linear(inputs, spec.hidden)
        settings = {"theta": spec.theta, "shared_weights": spec.shared, "normalize": False}
        self.layers = nn.ModuleList(
            [kind(spec.hidden, spec.alpha, layer=1 + i, **settings) for i in range(spec.layers)]
        )
        self.norms = _norms(spec.layers, spec.hidden, spec.norm)
        self.head = nn.Linear(spec.hidden, classes)

    @property
    def products(self) -> float:
        return float(self.spec.layers)

    def logits(
        self, features: Tensor | SparseMatrix, adjacency: SparseMatrix
    ) -> Float[Tensor, "n c"]:
        share = self.spec.dropout
        x = first = project(thinned(features, share, self.training), self.first).relu()
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(layer(F.dropout(x, share, self.training), first, adjacency)).relu()
        return self.head(F.dropout(x, share, self.training))
