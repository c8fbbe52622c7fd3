"""Numbering the nodes of a graph so that neighbours lie near each other in memory."""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from cdeq.data.graph import Features, NodeData
from cdeq.models.graph.sparse import SparseMatrix


def reordered(data: NodeData) -> NodeData:
    """The same graph with its nodes numbered by the reverse Cuthill-McKee order.

    Models do not care about the numbering, but memory does: a product then finds most of the rows
    that it adds in the cache.

    Example:
        >>> from cdeq.data.chains import chains
        >>> data = chains()
        >>> same = reordered(data)
        >>> torch.equal(same.label[same.train].bincount(), data.label[data.train].bincount())
        True
    """
    order = _order(data.edges, data.nodes)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    return replace(
        data,
        features=_rows(data.features, order, place),
        edges=place[data.edges],
        label=data.label[order],
        train=place[data.train].sort().values,
        validation=place[data.validation].sort().values,
        test=place[data.test].sort().values,
    )


def _order(edges: Int[Tensor, "2 e"], nodes: int) -> Int[Tensor, " n"]:
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    source, target = edges.numpy()
    ones = torch.ones(edges.shape[1], dtype=torch.bool).numpy()  # which repeated edges stay
    matrix = csr_matrix((ones, (source, target)), shape=(nodes, nodes))
    order = reverse_cuthill_mckee((matrix + matrix.T).tocsr(), symmetric_mode=True)
    return torch.from_numpy(order.copy()).long()


def _rows(features: Features, order: Tensor, place: Tensor) -> Features:
    if isinstance(features, Tensor):
        return features[order]
    crow, columns, values = features.parts()
    rows = torch.repeat_interleave(torch.arange(len(order)), crow.diff())
    shape = (features.shape[0], features.shape[1])
    return SparseMatrix.of(place[rows], columns, values, shape=shape)
