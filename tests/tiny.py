"""Configs as shipped, cut to a size that a test can train. What a config says about objectives, paths and data stays as it is."""

import json

import numpy as np
from PIL import Image

from anystep import config as configs
from anystep import stores

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
    if name == "store":
        store(folder / "store")
        flags += [f"--config.data.path={folder / 'store'}", "--config.data.dev_share=0.3"]
    return [*flags, *more]


def config(name, folder, *more):
    return configs.load(arguments(name, folder, *more))[0]


def store(folder, n=12):
    """A store of noise, as if of an autoencoder and a text encoder; and a prompt that no picture has."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, shard = np.random.default_rng(0), stores.Shard(folder, 0)

    def prompt(length):
        return stores.Prompt(rng.standard_normal((length, 8)).astype(np.float16), np.zeros(0, np.float16))

    for i in range(n):
        shard.add_picture(f"{i}.png", [f"noise number {i}"], rng.standard_normal((1, 16, 16, 4)).astype(np.float16))
        shard.add_prompt(f"noise number {i}", prompt(2 + i % 3))
    shard.add_prompt("a red ring", prompt(3))
    index = {"version": stores.VERSION, "made_with": {"text": "", "autoencoder": ""}, "albums": [n], "prompts": n + 1}
    index["picture"] = {"kind": "latents", "shape": [16, 16, 4], "dtype": "float16", "factor": 8}
    index["text"] = {"width": 8, "pooled": 0, "dtype": "float16", "null": stores.as_text(prompt(1)), "length": 4}
    index["files"] = shard.close()
    (folder / stores.INDEX).write_text(json.dumps(index | {"key": stores.key_of(index)}))


def pictures(folder, n=12):
    """A folder of captioned pictures in imagefolder layout."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(folder / f"{i}.png")
        rows.append(f'{{"file_name": "{i}.png", "text": "noise number {i}"}}\n')
    (folder / "metadata.jsonl").write_text("".join(rows))
