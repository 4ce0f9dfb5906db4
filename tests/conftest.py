"""Markers, and settings of jax: in the environment, so that processes which tests start have them too, and before jax is imported."""

import os
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("ANYSTEP_CACHE") or Path.home() / ".cache" / "anystep") / "jax"

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")  # a forgotten axis is an error, not a broadcast
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # most of the tests' time is compilation; see full_compilation


@pytest.fixture
def full_compilation():
    """Programs as users have them, here and in processes that are started."""
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
        jax.config.update("jax_disable_most_optimizations", False)
        yield
    jax.config.update("jax_disable_most_optimizations", before)


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than about five seconds; left out of the quick suite")
    config.addinivalue_line("markers", "long: slow, and wider than what is tried elsewhere; before a release")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What is long is slow. Of a quick test with several cases the first is quick; the others are left to the slow suite."""
    first = {}
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker("slow")
        if not item.get_closest_marker("slow") and first.setdefault((item.path, item.cls, item.originalname), item) is not item:
            item.add_marker("slow")
