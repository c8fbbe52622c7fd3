"""Small explicit networks for tests."""

from collections.abc import Callable

import pytest
import torch
from models.graph.zoo import SMALL, batch_of
from torch import Tensor

from cdeq.models.graph.convolutional import GAT, GCN, GCNII, GATSpec, GCNIISpec, GCNSpec
from cdeq.models.graph.explicit import ExplicitModel
from cdeq.models.graph.gpm import GPM, GPMSpec

CONVOLUTIONAL: dict[str, Callable[[], ExplicitModel]] = {
    "gcn": lambda: GCN(GCNSpec(**SMALL)),
    "gcn-1": lambda: GCN(GCNSpec(**SMALL, layers=1, norm=False)),
    "gat": lambda: GAT(GATSpec(**SMALL, heads=2)),
    "gat-1": lambda: GAT(GATSpec(**SMALL, layers=1, norm=False)),
    "gcnii": lambda: GCNII(GCNIISpec(**SMALL, layers=4, alpha=0.3, theta=0.7)),
    "gcnii-shared": lambda: GCNII(GCNIISpec(**SMALL, layers=3, norm=False, shared=True)),
}


ALL = {**CONVOLUTIONAL, "gpm": lambda: GPM(GPMSpec(**SMALL, heads=2, steps=3, patterns=4))}


each_convolutional = pytest.mark.parametrize("name", CONVOLUTIONAL)


each_model = pytest.mark.parametrize("name", ALL)


ODD = batch_of("odd")


ARXIV = {"inputs": 128, "classes": 40}


@torch.no_grad()
def model_of(name: str, *, seed: int = 0) -> ExplicitModel:
    """In float64, and as if trained: no bias and no running average is left at its start."""
    torch.manual_seed(seed)
    model = ALL[name]().double().eval()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor += 0.3 * torch.rand(tensor.shape)
    return model


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
