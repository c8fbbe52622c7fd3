"""What the recipes of language models have in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from cdeq.data.corpus import Corpus
from cdeq.data.indexed import IndexedData
from cdeq.data.lines import Progress
from cdeq.data.remembered import RememberedStreams, remembered
from cdeq.data.streams import Streams
from cdeq.data.tokenizer import Tokenizer
from cdeq.digest import digest_of
from cdeq.evaluation.metrics import PERPLEXITY, Metric
from cdeq.models.base import EquilibriumModel
from cdeq.models.language.deq_transformer import DEQTransformer, TransformerSpec
from cdeq.models.language.explicit import ExplicitLanguageModel
from cdeq.plain import to_plain
from cdeq.recipes.base import Recipe, Splits
from cdeq.recipes.text_explicit import TextExplicitRecipe
from cdeq.recipes.text_sources import Source, loaded
from cdeq.training.plan import require_count

ExplicitName: TypeAlias = Literal["transformer_xl", "tcn", "gated_conv", "qrnn"]


@dataclass(frozen=True, kw_only=True)
class LanguageRecipe(Recipe):
    """Language modelling: the next token, segment by segment, with a memory of those before.

    A batch of training is one segment of every stream, so a plan's `batch_size` is the number of
    streams that the training text is cut into; students, which are told the teacher's memories,
    read segments in any order.

    Arguments:
        source: Where the text comes from.
        network: The teacher; its vocabulary is the data's, whatever it says.
        length: Tokens of a segment.
        streams: Streams that validation and test texts are cut into.
        explicit: Which explicit networks stand in the table.
        transformer_xl: How Transformer-XL is built and trained.
        tcn: The same of TCN.
        gated_conv: The same of the gated convolutional network.
        qrnn: The same of QRNN.

    Raises:
        ValueError: When a setting is outside its range.
    """

    source: Source
    transformer_xl: TextExplicitRecipe
    tcn: TextExplicitRecipe
    gated_conv: TextExplicitRecipe
    qrnn: TextExplicitRecipe
    network: TransformerSpec = TransformerSpec()
    length: int = 64
    streams: int = 32
    explicit: tuple[ExplicitName, ...] = ("transformer_xl", "tcn", "gated_conv", "qrnn")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("length", self.length)
        require_count("streams", self.streams)

    @property
    def corpus(self) -> Corpus:
        """The text."""
        return loaded(self.source)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.corpus.tokenizer

    @property
    def metric(self) -> Metric:
        return PERPLEXITY

    @property
    def task(self) -> str:
        return "language modelling"

    def model(self) -> DEQTransformer:
        return DEQTransformer(replace(self.network, vocabulary=len(self.tokenizer)))

    def read_model(self, folder: str) -> EquilibriumModel:
        return DEQTransformer.from_pretrained(folder)

    def prepare(self, progress: Progress) -> None:
        loaded(self.source, progress)

    def data(self) -> Splits:
        return self._splits(self.teacher.plan.batch_size, past=self.network.memory)

    @property
    def explicit_networks(self) -> Mapping[str, TextExplicitRecipe]:
        return {name: getattr(self, name) for name in self.explicit}

    def explicit_model(self, name: str) -> ExplicitLanguageModel:
        return self.explicit_networks[name].build(len(self.tokenizer))

    def explicit_data(self, name: str, data: Splits) -> Splits:
        settings = self.explicit_networks[name]
        return self._splits(settings.plan.batch_size, past=settings.network.past)

    def told(
        self,
        part: IndexedData,
        teacher: EquilibriumModel,
        path: Path,
        *,
        samples: int | None = None,
        advance: Callable[[int, int], object] = lambda done, total: None,
    ) -> RememberedStreams:
        assert isinstance(part, Streams)
        return remembered(
            teacher,
            part,
            path,
            identity=digest_of(teacher, settings=str(to_plain(teacher.spec))),
            samples=samples,
            advance=advance,
        )

    def data_digest(self, part: IndexedData) -> str:
        assert isinstance(part, (Streams, RememberedStreams))
        return part.digest()

    def _splits(self, streams: int, *, past: int) -> Splits:
        corpus, types = self.corpus, len(self.tokenizer)
        counts = {"train": streams, "validation": self.streams, "test": self.streams}
        parts = (
            Streams(
                getattr(corpus, name), streams=count, length=self.length, past=past, types=types
            )
            for name, count in counts.items()
        )
        return Splits(*parts)
