"""What the recipes of image classification with MDEQ have in common."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from cdeq.data.augment import Augmentation
from cdeq.data.byte_images import ByteImageSet
from cdeq.data.indexed import IndexedData
from cdeq.data.lines import Progress
from cdeq.evaluation.metrics import ACCURACY, TOP5_ACCURACY, Metric
from cdeq.models.base import EquilibriumModel
from cdeq.models.vision.explicit import ExplicitImageModel
from cdeq.models.vision.mdeq import MDEQ, MDEQSpec
from cdeq.recipes.base import Recipe, Splits
from cdeq.recipes.image_explicit import ImageExplicitRecipe
from cdeq.recipes.image_sources import Images, Source, loaded

ExplicitName: TypeAlias = Literal["alexnet", "bn_inception", "hrnet"]

MANY = 50
"""From so many classes on, the five likeliest are worth a score of their own."""


@dataclass(frozen=True, kw_only=True)
class ImageRecipe(Recipe):
    """Image classification.

    Arguments:
        source: Where the images come from.
        network: The teacher; its classes are the data's, whatever it says.
        augmentation: The random change of training images.
        explicit: Which explicit networks stand in the table.
        alexnet: How AlexNet is built and trained.
        bn_inception: The same of BN-Inception.
        hrnet: The same of HRNet.
    """

    source: Source
    alexnet: ImageExplicitRecipe
    bn_inception: ImageExplicitRecipe
    hrnet: ImageExplicitRecipe
    network: MDEQSpec = MDEQSpec()
    augmentation: Augmentation = Augmentation()
    explicit: tuple[ExplicitName, ...] = ("alexnet", "bn_inception", "hrnet")

    @property
    def images(self) -> Images:
        """What the source gives."""
        return loaded(self.source)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.images.parts.train.classes

    @property
    def metric(self) -> Metric:
        return ACCURACY

    @property
    def further_metrics(self) -> tuple[Metric, ...]:
        return (TOP5_ACCURACY,) if len(self.classes) >= MANY else ()

    @property
    def task(self) -> str:
        return "image classification"

    def model(self) -> MDEQ:
        return MDEQ(replace(self.network, classes=len(self.classes)))

    def read_model(self, folder: str) -> EquilibriumModel:
        return MDEQ.from_pretrained(folder)

    def prepare(self, progress: Progress) -> None:
        loaded(self.source, progress)

    def data(self) -> Splits:
        train, validation, test, _ = self.images.parts
        return Splits(train, validation, test)

    @property
    def remarks(self) -> tuple[str, ...]:
        return self.images.parts.skipped

    def further_data(self) -> Mapping[str, IndexedData]:
        return dict(self.images.further)

    @property
    def explicit_networks(self) -> Mapping[str, ImageExplicitRecipe]:
        return {name: getattr(self, name) for name in self.explicit}

    def explicit_model(self, name: str) -> ExplicitImageModel:
        return self.explicit_networks[name].build(len(self.classes))

    def data_digest(self, part: IndexedData) -> str:
        assert isinstance(part, ByteImageSet)
        return part.digest()

    def augment(self) -> Augmentation:
        return self.augmentation
