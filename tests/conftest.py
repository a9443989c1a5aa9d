"""Settings of the whole suite: Hypothesis profiles, and a fixed seed of nothing else. And the databases and the S3 store, of
which a session has one each."""

import os

from hypothesis import HealthCheck, settings

from tests.databases import database_url, postgres
from tests.s3_store import s3_store

__all__ = ["database_url", "postgres", "s3_store"]

settings.register_profile("fast", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("deep", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))
