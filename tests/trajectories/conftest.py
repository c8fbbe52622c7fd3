"""A finished cache of the single-tensor teacher, to be read or damaged."""

from pathlib import Path

import pytest
from trajectories.toys import MANIFEST, SHARD, online, single

from cdeq.trajectories import write_cache


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    write_cache(tmp_path / "cache", MANIFEST, online(single()), shard_samples=SHARD)
    return tmp_path / "cache"
