"""Where distillation gets its trajectories: recomputed online, or from a cache on disk."""

from cdeq.trajectories.manifest import Manifest as Manifest
from cdeq.trajectories.source import OnlineTrajectories as OnlineTrajectories
from cdeq.trajectories.source import TrajectorySource as TrajectorySource
from cdeq.trajectories.store import TrajectoryStore as TrajectoryStore
from cdeq.trajectories.writer import write_cache as write_cache
