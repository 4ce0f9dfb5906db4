"""The persistent compile cache: a second start of the same program compiles nothing. Local disk, $ANYSTEP_CACHE or ~/.cache/anystep; ""
in the variable turns it off."""

import os
import pathlib

import jax


def use_compile_cache():
    """To be called before the first compilation. Every program is kept: the many small ones of a start cost as much as the large one."""
    folder = os.environ.get("ANYSTEP_CACHE", str(pathlib.Path.home() / ".cache" / "anystep"))
    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
