"""What the explicit baselines share: answers about some nodes, losses, and a folder to live in."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from cdeq.models.graph.batch import GraphBatch
from cdeq.models.graph.sparse import SparseMatrix
from cdeq.plain import from_plain, to_plain
from cdeq.pretrained import check_kind, load_folder, making, save_folder
from cdeq.typing import PerSample


class ExplicitModel(nn.Module, ABC):
    r"""A node classifier of finitely many layers: no equilibrium, no solver.

    A subclass is built from its `Spec`, sets `spec`, and says how it answers; everything else
    follows from that. In evaluation mode

    .. math:: \text{answers} = \text{forward}[\text{nodes}] , \qquad
        \text{losses} = \text{loss}(\text{forward}, \text{batch}) ,

    but a model that looks at one node at a time is spared all the others on the left.
    """

    Spec: ClassVar[type]
    """The frozen dataclass of a subclass's settings, its constructor's one argument."""
    spec: Any

    @abstractmethod
    def answers(self, batch: GraphBatch) -> Float[Tensor, "s c"]:
        """The logits of `batch.nodes`, in their order; labels are not looked at."""

    @property
    @abstractmethod
    def products(self) -> float:
        """Sparse products with a matrix of the adjacency's pattern that one forward pass costs."""

    def losses(self, batch: GraphBatch) -> PerSample:
        """The cross-entropy of each node that is asked about, which is what training minimises."""
        return F.cross_entropy(self.answers(batch), batch.label[batch.nodes], reduction="none")

    def forward(self, batch: GraphBatch) -> Float[Tensor, "n c"]:
        """The logits of every node, asked about or not."""
        everywhere = torch.arange(batch.adjacency.shape[0], device=self.device)
        return self.answers(batch._replace(nodes=everywhere))

    def loss(self, output: Tensor, batch: GraphBatch) -> PerSample:
        """The cross-entropy of each node that is asked about, given the logits of every node."""
        nodes = batch.nodes
        return F.cross_entropy(output[nodes], batch.label[nodes], reduction="none")

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model to a folder: weights as safetensors, settings as JSON."""
        save_folder(folder, self, {"kind": type(self).__name__, "spec": to_plain(self.spec)})

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Self:
        """Read a model from a folder or, with `huggingface_hub` installed, from a hub repository.

        Raises:
            StoreError: When the folder is damaged or holds another kind of model.
        """
        config, weights = load_folder(source)
        check_kind(config, cls.__name__, source)
        with making(cls.__name__, source):
            model = cls(from_plain(cls.Spec, config["spec"]))  # type: ignore[call-arg]
            model.load_state_dict(weights)
        return model.eval()


def require_fitting(batch: GraphBatch, inputs: int, weight: Tensor) -> None:
    """Refuse a graph that the network cannot take.

    Arguments:
        batch: The graph.
        inputs: Features of a node that the network was built for.
        weight: One of its parameters.

    Raises:
        ValueError: When the features are not that many, the adjacency is of another number of
            nodes, or either is in another precision or on another device than the parameter.
    """
    nodes, found = batch.features.shape
    if found != inputs:
        raise ValueError(f"the model was built for {inputs} features a node; got {found}.")
    if tuple(batch.adjacency.shape) != (nodes, nodes):
        raise ValueError(
            f"features of {nodes} nodes need an adjacency of {nodes} by {nodes}; got one of shape "
            f"{tuple(batch.adjacency.shape)}."
        )
    features = batch.features if isinstance(batch.features, Tensor) else batch.features.matrix
    for name, there in (("features", features), ("adjacency", batch.adjacency.matrix)):
        if (there.dtype, there.device) != (weight.dtype, weight.device):
            raise ValueError(
                f"the model's weights are {weight.dtype} on {weight.device}; got {name} in "
                f"{there.dtype} on {there.device}; move one to the other first."
            )


def thinned(
    features: Tensor | SparseMatrix, share: float, training: bool
) -> Tensor | SparseMatrix:
    """The features in training without a random share of their entries, dense or sparse."""
    if not training or share == 0.0:
        return features
    return F.dropout(features, share) if isinstance(features, Tensor) else features.dropped(share)
