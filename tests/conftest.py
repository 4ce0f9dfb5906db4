"""Markers, and settings of jax: in the environment, so that processes which tests start have them too, and before jax is imported."""

import os
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("ANYSTEP_CACHE") or Path.home() / ".cache" / "anystep") / "jax"

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")  # a forgotten axis is an error, not a broadcast


@pytest.fixture(scope="module")
def light_compilation():
    """Most optimisations off, here and in processes that are started: for files of many small networks, whose time is compilation."""
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
    jax.config.update("jax_disable_most_optimizations", before)


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than about five seconds; left out of the quick suite")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a quick test with several cases the first is quick; the others are left to the slow suite."""
    first = {}
    for item in items:
        if not item.get_closest_marker("slow") and first.setdefault((item.path, item.cls, item.originalname), item) is not item:
            item.add_marker("slow")
