"""Recipes of the explicit image classifiers: a network, and how it is trained."""

from dataclasses import dataclass, replace
from typing import TypeAlias

from cdeq.models.vision.alexnet import AlexNet, AlexNetSpec
from cdeq.models.vision.bn_inception import BNInception, BNInceptionSpec
from cdeq.models.vision.explicit import ExplicitImageModel
from cdeq.models.vision.hrnet import HRNet, HRNetSpec
from cdeq.recipes.explicit import ExplicitSettings
from cdeq.training.supervised import SupervisedObjective
from cdeq.training.teacher import Augment

ImageExplicitSpec: TypeAlias = AlexNetSpec | BNInceptionSpec | HRNetSpec


@dataclass(frozen=True, kw_only=True)
class ImageExplicitRecipe(ExplicitSettings[ExplicitImageModel]):
    """All settings of one explicit image classifier.

    Arguments:
        network: Its settings; the classes are the data's, and beside a teacher pixels are
            normalised as the teacher's.
        plan: How it is trained.
    """

    networks = (AlexNet, BNInception, HRNet)

    network: ImageExplicitSpec

    def build(self, classes: int) -> ExplicitImageModel:
        """A fresh network for so many classes; its weights depend on torch's global seed."""
        return self.kind(replace(self.network, classes=classes))

    def objective(
        self, model: ExplicitImageModel, augment: Augment | None = None
    ) -> SupervisedObjective:
        """The network in training, on batches that are changed at random."""
        return SupervisedObjective(model, augment)
