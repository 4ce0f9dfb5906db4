"""Configs as shipped, cut to a size that a test can train. What a config says about objectives, paths and data stays as it is."""

import numpy as np
from PIL import Image

from anystep import config as configs

NAMES = sorted(configs.packaged())
ALL_OBJECTIVES = (
    "--config.objective.flow_matching.share=2",
    "--config.objective.self_evaluation.share=1",
    "--config.objective.consistency.share=1",
)


def arguments(name, folder, *more):
    """The flags that make config `name` small; `folder` is where pictures are put for a config that wants some."""
    flags = ["--config", name, "--config.data.batch=8", "--config.model.width=16", "--config.model.depth=2", "--config.model.heads=2"]
    flags += [
        "--config.model.cross_heads=2",
        "--config.model.text.width=16",
        "--config.model.text.heads=2",
        "--config.model.text.vocabulary=64",
    ]
    flags += ["--config.train.steps=6", "--config.train.log_every=1", "--config.train.sample_every=0", "--config.optim.warmup=1"]
    flags += ["--config.objective.consistency.start=2", "--config.objective.self_evaluation.anneal=2"]
    flags += ["--config.eval.steps=1,2", "--config.eval.prompts=6", "--config.checkpoint.every=3", "--config.checkpoint.keep=3"]
    if name == "shapes64":
        flags += ["--config.data.size=16", "--config.model.depth=1"]
    if name == "pictures":
        pictures(folder / "pictures")
        flags += [
            f"--config.data.path={folder / 'pictures'}",
            "--config.data.dev_share=0.3",
            "--config.data.size=16",
            "--config.data.style_captions=False",
        ]
    return [*flags, *more]


def config(name, folder, *more):
    return configs.load(arguments(name, folder, *more))[0]


def pictures(folder, n=12):
    """A folder of captioned pictures in imagefolder layout."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(folder / f"{i}.png")
        rows.append(f'{{"file_name": "{i}.png", "text": "noise number {i}"}}\n')
    (folder / "metadata.jsonl").write_text("".join(rows))
