"""Few-step inference for deep equilibrium models."""

from typing import TYPE_CHECKING, Any

from cdeq.consistency.anchored import AnchoredDEQ as AnchoredDEQ
from cdeq.consistency.certified import Certificate as Certificate
from cdeq.consistency.certified import certify as certify
from cdeq.consistency.increments import Full as Full
from cdeq.consistency.increments import LowRank as LowRank
from cdeq.consistency.increments import Shared as Shared
from cdeq.consistency.loss import DistillationLoss as DistillationLoss
from cdeq.consistency.loss import Losses as Losses
from cdeq.consistency.pairs import EndpointAugmentation as EndpointAugmentation
from cdeq.consistency.pairs import Window as Window
from cdeq.consistency.pairs import sample_indices as sample_indices
from cdeq.consistency.pairs import window as window
from cdeq.consistency.refine import refine as refine
from cdeq.consistency.rollout import RolloutLoss as RolloutLoss
from cdeq.consistency.rollout import RolloutLosses as RolloutLosses
from cdeq.consistency.student import ConsistencyDEQ as ConsistencyDEQ
from cdeq.consistency.student import History as History
from cdeq.consistency.time import Boundary as Boundary
from cdeq.consistency.time import ExponentialSchedule as ExponentialSchedule
from cdeq.consistency.time import PowerSchedule as PowerSchedule
from cdeq.consistency.time import Schedule as Schedule
from cdeq.consistency.time import TimeSpan as TimeSpan
from cdeq.consistency.untied import UntiedDEQ as UntiedDEQ
from cdeq.core.adjoint import Adjoint as Adjoint
from cdeq.core.adjoint import Implicit as Implicit
from cdeq.core.adjoint import JacobianFree as JacobianFree
from cdeq.core.adjoint import Phantom as Phantom
from cdeq.core.cell import Cell as Cell
from cdeq.core.cell import bind as bind
from cdeq.core.deq import DEQ as DEQ
from cdeq.core.norms import absolute as absolute
from cdeq.core.norms import relative as relative
from cdeq.core.readout import LinearReadout as LinearReadout
from cdeq.core.readout import MLPReadout as MLPReadout
from cdeq.core.regularize import jacobian_penalty as jacobian_penalty
from cdeq.core.regularize import radius_penalty as radius_penalty
from cdeq.core.regularize import spectral_radius as spectral_radius
from cdeq.core.solve import Iterate as Iterate
from cdeq.core.solve import Solution as Solution
from cdeq.core.solve import Status as Status
from cdeq.core.solve import iterate as iterate
from cdeq.core.solve import relative_error as relative_error
from cdeq.core.solve import residual_norm as residual_norm
from cdeq.core.solve import solve as solve
from cdeq.core.solvers import RK4 as RK4
from cdeq.core.solvers import Anderson as Anderson
from cdeq.core.solvers import Broyden as Broyden
from cdeq.core.solvers import Euler as Euler
from cdeq.core.solvers import Picard as Picard
from cdeq.core.solvers import Solver as Solver
from cdeq.errors import CDEQError as CDEQError
from cdeq.errors import SolveError as SolveError
from cdeq.errors import StoreError as StoreError
from cdeq.hypersolver.solver import HyperDEQ as HyperDEQ
from cdeq.models.base import EquilibriumModel as EquilibriumModel
from cdeq.models.function import FunctionModel as FunctionModel

if TYPE_CHECKING:
    from cdeq.recipes.distilling import distill as distill


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module may hold anything
    if name != "distill":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cdeq.recipes.distilling import distill  # needs the extra `train`, which few others do

    return distill
