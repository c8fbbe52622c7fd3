"""The one seam between domains and everything else."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from typing_extensions import Self

from cdeq.core.cell import bind
from cdeq.core.deq import DEQ
from cdeq.errors import StoreError
from cdeq.plain import from_plain, to_plain
from cdeq.pretrained import check_kind, load_folder, save_folder
from cdeq.typing import Context, Map, PerSample, State

Batch: TypeAlias = Any
"""What a domain's data loader yields; only the domain's own model looks inside."""


class EquilibriumModel(nn.Module, ABC):
    r"""A network whose middle is an equilibrium.

    .. math:: x = \text{encode}(\text{batch}), \quad z^* = f(z^*, x), \quad
        y = \text{decode}(z^*, x)

    Training, distillation and evaluation know a model by these methods alone. A subclass is built
    from its `Spec` and sets `spec` and `deq` in its constructor.
    """

    Spec: ClassVar[type]
    """The frozen dataclass of a subclass's settings, its constructor's one argument."""
    spec: Any
    deq: DEQ

    @abstractmethod
    def encode(self, batch: Batch) -> Context:
        """The context x of a batch."""

    @abstractmethod
    def initial(self, x: Context) -> State:
        """The initial state z_0 for a context; the paper's is zero."""

    @abstractmethod
    def decode(self, z: State, x: Context) -> Tensor:
        """The task head: the output that belongs to a state."""

    @abstractmethod
    def loss(self, output: Tensor, batch: Batch) -> PerSample:
        """The task loss of each sample."""

    @abstractmethod
    def readout(self) -> nn.Module:
        """A fresh readout for this model's state, the identity in the state (Eq. 8)."""

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def bind(self, x: Context) -> Map:
        """The map z ↦ f(z, x)."""
        return bind(self.deq.cell, x)

    def forward(self, batch: Batch) -> Tensor:
        """The converged answer."""
        x = self.encode(batch)
        return self.decode(self.deq(x, self.initial(x)).z, x)

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
        try:
            model = cls(from_plain(cls.Spec, config["spec"]))  # type: ignore[call-arg]
            model.load_state_dict(weights)
        except (KeyError, ValueError, RuntimeError) as error:
            raise StoreError(
                f"{source} is damaged: its settings and weights make no {cls.__name__} ({error})."
            ) from error
        return model.eval()
