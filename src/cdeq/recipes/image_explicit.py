"""Recipes of the explicit image classifiers: a network, and how it is trained."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from cdeq.data.augment import Augmentation
from cdeq.models.vision.alexnet import AlexNet, AlexNetSpec
from cdeq.models.vision.bn_inception import BNInception, BNInceptionSpec
from cdeq.models.vision.explicit import ExplicitImageModel
from cdeq.models.vision.hrnet import HRNet, HRNetSpec
from cdeq.training.plan import Plan
from cdeq.training.supervised import SupervisedObjective

AnyExplicit: TypeAlias = AlexNetSpec | BNInceptionSpec | HRNetSpec

NETWORKS: tuple[type[ExplicitImageModel], ...] = (AlexNet, BNInception, HRNet)


@dataclass(frozen=True, kw_only=True)
class ImageExplicitRecipe:
    """All settings of one explicit image classifier.

    Arguments:
        network: Its settings; the classes are the data's, whatever it says.
        plan: How it is trained.
        augmentation: The random change of training images.
    """

    network: AnyExplicit
    plan: Plan
    augmentation: Augmentation = Augmentation()

    @property
    def kind(self) -> type[ExplicitImageModel]:
        """The class of the network."""
        return next(kind for kind in NETWORKS if kind.Spec is type(self.network))

    def build(self, classes: int) -> ExplicitImageModel:
        """A fresh network; its weights depend on torch's global seed.

        Arguments:
            classes: Of the data.
        """
        return self.kind(replace(self.network, classes=classes))

    def read(self, folder: str | Path) -> ExplicitImageModel:
        """The network that was saved in a folder.

        Raises:
            StoreError: When the folder is damaged or holds another kind of model.
        """
        return self.kind.from_pretrained(folder)

    def objective(self, model: ExplicitImageModel) -> SupervisedObjective:
        """The network in training."""
        return SupervisedObjective(model, self.augmentation)
