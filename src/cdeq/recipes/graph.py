"""What the recipes of node classification have in common."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from cdeq.data.graph import GraphPart, split_parts
from cdeq.data.indexed import IndexedData
from cdeq.data.reorder import reordered
from cdeq.data.subgraphs import SubgraphSet
from cdeq.evaluation.metrics import NODE_ACCURACY, Metric
from cdeq.models.base import EquilibriumModel
from cdeq.models.graph.adjacency import Normalisation
from cdeq.models.graph.base import GraphDEQ
from cdeq.models.graph.eignn import EIGNN, EIGNNSpec
from cdeq.models.graph.explicit import ExplicitModel
from cdeq.models.graph.ignn import IGNN, IGNNSpec
from cdeq.models.graph.mignn import MIGNN, MIGNNSpec
from cdeq.recipes.base import Recipe, Splits
from cdeq.recipes.graph_explicit import ExplicitRecipe, gat, gcn, gcnii, gpm
from cdeq.recipes.graph_sources import Source, loaded

ExplicitName: TypeAlias = Literal["gcn", "gat", "gcnii", "gpm"]

MODELS: Mapping[type, type[IGNN] | type[EIGNN] | type[MIGNN]] = {
    IGNNSpec: IGNN,
    EIGNNSpec: EIGNN,
    MIGNNSpec: MIGNN,
}
"""The teacher that belongs to each kind of specification."""


@dataclass(frozen=True, kw_only=True)
class Subgraphs:
    """Training on parts of a graph that is too large to train on whole (see `SubgraphSet`).

    Arguments:
        roots: Random walks a sub-graph, from nodes of the training split.
        length: Steps a walk.
        count: How many different sub-graphs there are; 0 trains on the whole graph.

    Raises:
        ValueError: When a number is negative.
    """

    roots: int = 6000
    length: int = 3
    count: int = 0

    def __post_init__(self) -> None:
        if min(self.roots, self.length, self.count) < 0:
            raise ValueError(f"sub-graphs are described by numbers from 0 up; got {self}.")

    def of(self, part: GraphPart, normalisation: Normalisation) -> GraphPart | SubgraphSet:
        """The sub-graphs of a part, or the part itself."""
        if self.count == 0:
            return part
        return SubgraphSet(
            graph=part.graph,
            roots=self.roots,
            length=self.length,
            count=self.count,
            normalisation=normalisation,
        )


@dataclass(frozen=True, kw_only=True)
class GraphRecipe(Recipe):
    """Node classification on one graph; answers are computed for all of it at once.

    Arguments:
        source: Where the graph comes from.
        network: The teacher; its `inputs` and `classes` are the data's, whatever it says.
        normalisation: How the adjacency matrix is scaled.
        undirected: Whether each edge also counts the other way.
        subgraphs: What an update of training sees; the whole graph where it can.
        explicit: Which explicit networks stand in the table.
        gcn: How GCN is built and trained.
        gat: The same of GAT.
        gcnii: The same of GCNII.
        gpm: The same of GPM.
    """

    source: Source
    network: IGNNSpec | EIGNNSpec | MIGNNSpec = IGNNSpec()
    normalisation: Normalisation = "symmetric"
    undirected: bool = True
    subgraphs: Subgraphs = Subgraphs()
    explicit: tuple[ExplicitName, ...] = ("gcn", "gat", "gcnii", "gpm")
    gcn: ExplicitRecipe = field(default_factory=gcn)
    gat: ExplicitRecipe = field(default_factory=gat)
    gcnii: ExplicitRecipe = field(default_factory=gcnii)
    gpm: ExplicitRecipe = field(default_factory=gpm)

    @property
    def explicit_networks(self) -> Mapping[str, ExplicitRecipe]:
        return {name: getattr(self, name) for name in self.explicit}

    def explicit_model(self, name: str) -> ExplicitModel:
        data = loaded(self.source)
        return self.explicit_networks[name].build(
            inputs=data.features.shape[1], classes=data.classes
        )

    @property
    def metric(self) -> Metric:
        return NODE_ACCURACY

    @property
    def task(self) -> str:
        note = loaded(self.source).note
        return "node classification" + (f" ({note})" if note else "")

    def model(self) -> GraphDEQ:
        data = loaded(self.source)
        kind, inputs = MODELS[type(self.network)], data.features.shape[1]
        spec = replace(self.network, inputs=inputs, classes=data.classes)
        return kind(spec)  # type: ignore[arg-type] - it is the kind's own

    def read_model(self, folder: str) -> EquilibriumModel:
        return MODELS[type(self.network)].from_pretrained(folder)

    def data(self) -> Splits:
        data = reordered(loaded(self.source))
        train, validation, test = split_parts(
            data, normalisation=self.normalisation, undirected=self.undirected
        )
        return Splits(self.subgraphs.of(train, self.normalisation), validation, test)

    def data_digest(self, part: IndexedData) -> str:
        assert isinstance(part, (GraphPart, SubgraphSet))
        return part.digest()
