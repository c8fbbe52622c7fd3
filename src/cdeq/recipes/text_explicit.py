"""Recipes of the explicit language models: a network, and how it is trained."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from cdeq.models.language.explicit import ExplicitLanguageModel
from cdeq.models.language.gated_conv import GatedConvNet, GatedConvSpec
from cdeq.models.language.qrnn import QRNN, QRNNSpec
from cdeq.models.language.tcn import TCN, TCNSpec
from cdeq.models.language.transformer_xl import TransformerXL, TransformerXLSpec
from cdeq.training.plan import Plan
from cdeq.training.supervised import StreamObjective
from cdeq.training.teacher import Augment

AnyExplicit: TypeAlias = TransformerXLSpec | TCNSpec | GatedConvSpec | QRNNSpec

NETWORKS: tuple[type[ExplicitLanguageModel], ...] = (TransformerXL, TCN, GatedConvNet, QRNN)


@dataclass(frozen=True, kw_only=True)
class TextExplicitRecipe:
    """All settings of one explicit language model.

    Arguments:
        network: Its settings; the vocabulary is the data's, whatever it says.
        plan: How it is trained; a batch is one segment of every stream.
    """

    network: AnyExplicit
    plan: Plan

    @property
    def kind(self) -> type[ExplicitLanguageModel]:
        """The class of the network."""
        return next(kind for kind in NETWORKS if kind.Spec is type(self.network))

    def build(self, vocabulary: int) -> ExplicitLanguageModel:
        """A fresh network; its weights depend on torch's global seed.

        Arguments:
            vocabulary: Tokens.
        """
        return self.kind(replace(self.network, vocabulary=vocabulary))

    def read(self, folder: str | Path) -> ExplicitLanguageModel:
        """The network that was saved in a folder.

        Raises:
            StoreError: When the folder is damaged or holds another kind of model.
        """
        return self.kind.from_pretrained(folder)

    def objective(
        self, model: ExplicitLanguageModel, augment: Augment | None = None
    ) -> StreamObjective:
        """The network in training; texts are read as they are."""
        return StreamObjective(model)
