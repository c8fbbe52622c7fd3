"""Solvers: one algorithm a file."""

from cdeq.core.solvers.anderson import Anderson as Anderson
from cdeq.core.solvers.anderson import AndersonState as AndersonState
from cdeq.core.solvers.base import Solver as Solver
from cdeq.core.solvers.base import Step as Step
from cdeq.core.solvers.broyden import Broyden as Broyden
from cdeq.core.solvers.broyden import BroydenState as BroydenState
from cdeq.core.solvers.picard import Picard as Picard
from cdeq.core.solvers.runge_kutta import RK4 as RK4
from cdeq.core.solvers.runge_kutta import Euler as Euler
from cdeq.core.solvers.runge_kutta import RungeKutta as RungeKutta
