"""What the recipes of explicit baselines have in common: a network, and how it is trained."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from cdeq.pretrained import Pretrained
from cdeq.training.objective import Objective
from cdeq.training.plan import Plan
from cdeq.training.teacher import Augment

Network = TypeVar("Network", bound=Pretrained)


@dataclass(frozen=True, kw_only=True)
class ExplicitSettings(Generic[Network]):
    """All settings of one explicit baseline of any domain.

    Arguments:
        network: Its settings.
        plan: How it is trained.
    """

    networks: ClassVar[tuple[type[Any], ...]]
    """The classes of networks there are, each with the class of its settings as `Spec`."""

    network: Any
    plan: Plan

    @property
    def kind(self) -> type[Network]:
        """The class of the network."""
        return next(kind for kind in self.networks if kind.Spec is type(self.network))

    def read(self, folder: str | Path) -> Network:
        """The network that was saved in a folder.

        Raises:
            StoreError: When the folder is damaged or holds another kind of model.
        """
        return self.kind.from_pretrained(folder)

    @abstractmethod
    def objective(self, model: Network, augment: Augment | None = None) -> Objective:
        """The network in training, on batches that are changed at random."""
