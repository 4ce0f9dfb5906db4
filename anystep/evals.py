"""The any-step report: how often a model draws what was asked, at 1, 2, 4, 8, 32 steps from the same noise.

GenEval's rule (2310.11513): a picture is right or wrong as a whole; the score of a tag is the mean over its prompts; overall is the plain
mean of the tag means, whatever their number of prompts. With p_k the mean and e_k the standard error of tag k of K,

    e_k = sqrt(p_k (1 - p_k) / (n_k - 1))        overall = sum p_k / K        overall's error = sqrt(sum e_k^2) / K

Who draws and who judges are given as functions: nothing here knows of a network or a world. All step counts see the same prompts and
noise, so their differences are surer than the errors of the two say.
"""

import importlib.metadata
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from anystep import logs

Draw = Callable[[list[str], int], Any]  # (prompts, steps) -> [N, ...]; the noise of a row does not depend on steps
Judge = Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]  # (picture, its metadata) -> {"correct": bool, "joint": bool}


def mean_and_error(values: Sequence[bool]) -> tuple[float, float | None]:
    """The mean and its standard error (sample variance); one value has no error: None."""
    mean = sum(values) / len(values)
    return mean, math.sqrt(mean * (1.0 - mean) / (len(values) - 1)) if len(values) > 1 else None


def scores(verdicts: Sequence[Mapping[str, Any]], metadata: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """{"overall", each tag, "joint"} and their standard errors `<name>_se` of one step count; "joint" is the mean over all prompts."""
    tags = {item["tag"]: [] for item in metadata}
    for verdict, item in zip(verdicts, metadata, strict=True):
        tags[item["tag"]].append(bool(verdict["correct"]))
    means = {tag: mean_and_error(right) for tag, right in tags.items()}
    errors = [error for _, error in means.values()]
    out: dict[str, float | None] = {"overall": sum(mean for mean, _ in means.values()) / len(means)}
    out["overall_se"] = None if None in errors else math.sqrt(sum(error**2 for error in errors)) / len(errors)
    for name, (mean, error) in {**means, "joint": mean_and_error([bool(verdict["joint"]) for verdict in verdicts])}.items():
        out[name], out[f"{name}_se"] = mean, error
    return out


def any_step_report(
    draw: Draw,
    metadata: Sequence[Mapping[str, Any]],
    steps: Sequence[int],
    judge: Judge,
    *,
    split: str = "test",
    seed: int = 0,
    guide: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What report.json holds: all prompts of `metadata` (dicts with "prompt" and "tag") drawn at each step count, each picture judged.

    "seconds" is the wall time of drawing all prompts, compiling included. `split`, `seed` and `guide` are only written down.
    """
    if not metadata or not steps:
        raise ValueError(f"a report needs prompts and step counts, got {len(metadata)} and {len(steps)}")
    table, seconds = {}, {}
    for count in steps:
        start = time.perf_counter()
        images = np.asarray(draw([item["prompt"] for item in metadata], count))
        seconds[str(count)] = round(time.perf_counter() - start, 3)
        if len(images) != len(metadata):
            raise ValueError(f"draw: {len(metadata)} prompts gave {len(images)} images")
        table[str(count)] = scores([judge(image, item) for image, item in zip(images, metadata, strict=True)], metadata)
    return {
        "steps": table,
        "prompts": len(metadata),
        "split": split,
        "seed": seed,
        "guide": dict(guide or {}),
        "seconds": seconds,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in ("anystep", "jax", "jaxlib", "numpy")}},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def table(report: Mapping[str, Any]) -> str:
    """The scores as plain text: a line for each step count, mean and standard error for each score."""
    names = logs.score_names(report)
    lines = [["steps", *(name.replace("_", " ") for name in names)]]
    for count, row in report["steps"].items():
        errors = ["" if row[f"{name}_se"] is None else f" ±{row[f'{name}_se']:.2f}" for name in names]
        lines.append([count, *(f"{row[name]:.2f}{error}" for name, error in zip(names, errors, strict=True))])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
