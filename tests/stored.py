"""What the tests of stores share: a source of pictures, encoders of random weights, a store and a small run on it."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import tiny

from anystep import config as configs
from anystep import encode, weights
from anystep.nets.text import bert
from anystep.weights.peers.text import PEERS

FIXTURES = Path(__file__).parent / "fixtures"
CODEC = FIXTURES / "autoencoder_kl_sd"
SMALL = bert.Options(vocabulary=100, positions=32, width=12, depth=1, heads=2, hidden=16)
NAMES = [f"noise number {i}" for i in range(12)]


def bert_folder(folder, seed):
    peer = PEERS["BertModel"]
    params = jax.tree.map(lambda a: np.asarray(a) * 3, jax.jit(peer.init(SMALL))(jax.random.key(seed)))
    weights.save_folder(folder, {"peer": peer.config(SMALL)}, params)
    for file in (FIXTURES / "text_tokenizers" / "bert").iterdir():
        shutil.copy(file, folder / file.name)
    return folder


def captioned(folder):
    """Twelve pictures, two captions each, of which all share one."""
    tiny.pictures(folder)
    rows = [{"file_name": f"{i}.png", "text": [NAMES[i], "a red ring, please"]} for i in range(12)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def encoded(source, out, *more):
    flags = ["--path", str(source), "--size", "16", "--batch", "3", "--shard", "5", "--out", str(out), *map(str, more)]
    assert not encode.main(flags)
    return out


def section(path, **changes):
    plain = {"kind": "store", "path": str(path), "weights": (1.0,), "dev_share": 0.0, "pipeline": "", "autoencoder": ""}
    return SimpleNamespace(**plain | {"verify": True, "key": ""} | changes)


def config(store, *more):
    small = [f"--config.model.{field}" for field in ("width=16", "depth=1", "heads=2", "cross_heads=2", "scan=False", "dtype=float32")]
    small += [f"--config.train.{field}" for field in ("steps=6", "log_every=1", "sample_every=0")]
    small += ["--config.data.batch=8", "--config.optim.warmup=1", "--config.optim.name=adamw", "--config.checkpoint.every=3"]
    small += ["--config.objective.consistency.share=0", "--config.eval.sampler=euler", "--config.eval.ask=now"]
    small += ["--config.eval.steps=2", "--config.eval.prompts=2", f"--config.data.path={store}", "--config.data.dev_share=0.3"]
    return configs.load(["--config", "store", *small, *more])[0]
