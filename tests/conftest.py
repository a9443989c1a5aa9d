"""Settings of the whole suite: Hypothesis profiles, and a fixed seed of nothing else. And the databases and the S3 store, of
which a session has one each. Temporary files are in memory where there is room."""

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings

from tests.databases import database_url, postgres
from tests.engines import one_memory_for_alike_engines
from tests.s3_store import s3_store

__all__ = ["database_url", "one_memory_for_alike_engines", "postgres", "s3_store"]

settings.register_profile("fast", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("deep", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

MEMORY = Path("/dev/shm")  # noqa: S108 - the one place for it on Linux
ROOM_BYTES = 4 << 30


def _use_memory() -> None:
    """Nobody pulls a test's plug, so its flushes need reach no disk; some thousand tests flush at every step. Whoever sets TMPDIR
    has it as they say. A memory that refuses to run programs (as some containers have it) does not serve."""
    if "TMPDIR" in os.environ or not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK):
        return
    if shutil.disk_usage(MEMORY).free >= ROOM_BYTES and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


_use_memory()
