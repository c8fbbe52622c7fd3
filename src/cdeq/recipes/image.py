"""What the recipes of image classification with MDEQ have in common."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from cdeq.data.augment import Augmentation
from cdeq.data.byte_images import ByteImageSet
from cdeq.data.indexed import IndexedData
from cdeq.data.labels import Labels
from cdeq.data.lines import Progress
from cdeq.evaluation.metrics import ACCURACY, TOP5_ACCURACY, Metric
from cdeq.models.base import EquilibriumModel
from cdeq.models.vision.explicit import ExplicitImageModel
from cdeq.models.vision.mdeq import MDEQ, MDEQSpec
from cdeq.recipes.base import Recipe, Splits
from cdeq.recipes.image_explicit import ImageExplicitRecipe
from cdeq.recipes.image_sources import Images, Source, loaded

ExplicitName: TypeAlias = Literal["alexnet", "bn_inception", "hrnet"]

LABELS = "labels.json"
"""In a teacher's folder: what `predict` needs to know."""
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
        self._require_sizes(train.image.shape[-1])
        return Splits(train, validation, test)

    def _require_sizes(self, side: int) -> None:
        """Refuse images that some network does not take before another is trained for hours.

        Raises:
            ValueError: Names the network.
        """
        if side % self.network.stride:
            raise ValueError(
                f"the lowest resolution is {self.network.stride} times below the images', so "
                f"their side is a multiple of that; got images of {side} × {side}."
            )
        for name, settings in self.explicit_networks.items():
            if settings.network.smallest > side:
                least = settings.network.smallest
                raise ValueError(
                    f"{name} with these settings takes images of {least} × {least} and larger; "
                    f"got {side} × {side}; leave it out of `explicit`, or have it stride less."
                )

    @property
    def remarks(self) -> tuple[str, ...]:
        return self.images.parts.skipped

    def further_data(self) -> Mapping[str, IndexedData]:
        return dict(self.images.further)

    def save_beside(self, folder: Path) -> None:
        labels = Labels(classes=self.classes, framing=self.images.framing)
        labels.save(folder / LABELS)

    @property
    def explicit_networks(self) -> Mapping[str, ImageExplicitRecipe]:
        """As they are trained: on pixels normalised as the teacher's."""
        colours = {"mean": self.network.mean, "deviation": self.network.deviation}
        chosen: dict[str, ImageExplicitRecipe] = {n: getattr(self, n) for n in self.explicit}
        return {n: replace(s, network=replace(s.network, **colours)) for n, s in chosen.items()}

    def explicit_model(self, name: str) -> ExplicitImageModel:
        return self.explicit_networks[name].build(len(self.classes))

    def data_digest(self, part: IndexedData) -> str:
        assert isinstance(part, ByteImageSet)
        return part.digest()

    def augment(self) -> Augmentation:
        return self.augmentation
