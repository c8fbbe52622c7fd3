"""Recipes of the explicit language models: a network, and how it is trained."""

from dataclasses import dataclass, replace
from typing import TypeAlias

from cdeq.models.language.explicit import ExplicitLanguageModel
from cdeq.models.language.gated_conv import GatedConvNet, GatedConvSpec
from cdeq.models.language.qrnn import QRNN, QRNNSpec
from cdeq.models.language.tcn import TCN, TCNSpec
from cdeq.models.language.transformer_xl import TransformerXL, TransformerXLSpec
from cdeq.recipes.explicit import ExplicitSettings
from cdeq.training.supervised import StreamObjective
from cdeq.training.teacher import Augment

TextExplicitSpec: TypeAlias = TransformerXLSpec | TCNSpec | GatedConvSpec | QRNNSpec


@dataclass(frozen=True, kw_only=True)
class TextExplicitRecipe(ExplicitSettings[ExplicitLanguageModel]):
    """All settings of one explicit language model.

    Arguments:
        network: Its settings; the vocabulary is the data's, whatever it says.
        plan: How it is trained; a batch is one segment of every stream.
    """

    networks = (TransformerXL, TCN, GatedConvNet, QRNN)

    network: TextExplicitSpec

    def build(self, vocabulary: int) -> ExplicitLanguageModel:
        """A fresh network; its weights depend on torch's global seed.

        Arguments:
            vocabulary: Tokens.
        """
        return self.kind(replace(self.network, vocabulary=vocabulary))

    def objective(
        self, model: ExplicitLanguageModel, augment: Augment | None = None
    ) -> StreamObjective:
        """The network in training; texts are read as they are."""
        return StreamObjective(model)
