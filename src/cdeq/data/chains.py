"""Chains of nodes: the class is told at one end and asked for everywhere."""

import torch

from cdeq.data.graph import NodeData
from cdeq.data.graph_features import lean
from cdeq.data.graph_splits import split_by_shares


def chains(
    *,
    classes: int = 2,
    per_class: int = 20,
    length: int = 10,
    features: int = 100,
    noise: float = 0.0,
    shares: tuple[float, float, float] = (0.05, 0.25, 0.5),
    seed: int = 0,
) -> NodeData:
    r"""Separate paths 0 → 1 → … → l - 1, where all nodes of a path are of one class.

    The first node of a path has the one-hot vector of the class as its features, the others have
    none, so a model has to carry it along as many edges as a node is away: l - 1 at most.

    With the defaults there are 400 nodes, of which 20 are fitted, 100 select and 200 are reported,
    drawn at random: the sizes of the paper.

    References:
        | Implicit Graph Neural Networks (Gu et al., 2020), Section 6 and Appendix
        | https://arxiv.org/abs/2009.06211

    Arguments:
        classes: c ≥ 2.
        per_class: Paths a class.
        length: l ≥ 1, nodes a path.
        features: Features a node, at least c.
        noise: The standard deviation of white noise on all features.
        shares: Of the nodes that are fitted, select and are reported.
        seed: Of noise and split.

    Raises:
        ValueError: When a setting is outside its range.

    Example:
        >>> data = chains(classes=3, per_class=2, length=5)
        >>> data.nodes, data.edges.shape[1], data.label.bincount().tolist()
        (30, 24, [10, 10, 10])
    """
    if not (classes >= 2 and per_class >= 1 and length >= 1 and features >= classes):
        raise ValueError(
            "chains have at least 2 classes, 1 path a class, 1 node a path and a feature a class; "
            f"got {classes}, {per_class}, {length} and {features}."
        )
    if not 0.0 <= noise < float("inf"):
        raise ValueError(f"`noise` is a standard deviation ≥ 0; got {noise}.")
    label = torch.arange(classes).repeat_interleave(per_class * length)
    nodes = torch.arange(len(label)).view(-1, length)
    edges = torch.stack([nodes[:, :-1].flatten(), nodes[:, 1:].flatten()])
    told = torch.zeros(len(label), features)
    told[nodes[:, 0], label[nodes[:, 0]]] = 1.0
    if noise > 0.0:
        generator = torch.Generator().manual_seed(seed)
        told += noise * torch.randn(told.shape, generator=generator)
    split = split_by_shares(label, shares=shares, seed=seed)
    return NodeData(lean(told), edges, label, classes, *split, "chains")
