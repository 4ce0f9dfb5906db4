from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="anystep",
    version="0.1.0",
    description="Text-to-image models that answer in any number of steps, in JAX and Flax",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[*find_packages(include=["anystep", "anystep.*"]), "anystep.configs"],
    package_dir={"anystep.configs": "configs"},  # installed inside the package, so that `--config shapes` works without a checkout
    package_data={"anystep": ["pretrained/*/*", "pretrained/*/*/*"], "anystep.bench": ["records/*"], "anystep.weights": ["*.txt"]},
    entry_points={"console_scripts": ["anystep=anystep.__main__:main"]},
    install_requires=[
        "absl-py",
        "clu>=0.0.12",
        "etils[epath]",
        "flax>=0.12.8",
        "grain>=0.2.18",
        "jax>=0.10.2",
        "ml-collections>=1.1.0",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8,<0.13",  # its v1 interface still moves between minor versions
        "pillow>=11",
        "safetensors>=0.5",
        "scipy",  # labels of connected pixels
        "tensorflow-datasets>=4.9.9",  # reads array_record and downloads without tensorflow itself
        "tqdm",
    ],
    extras_require={
        "test": [
            "gcsfs",
            "hypothesis",
            "ipykernel",
            "nbclient",
            "pytest>=8",
            "pytest-timeout",
            "pytest-xdist",
            "ruff>=0.12",
            "sentencepiece",
            "setuptools>=77",
            "tokenizers",
        ],
        "cuda": ["jax[cuda13]"],
        "tpu": ["jax[tpu]"],
        "gcs": ["gcsfs"],  # work directories and data under gs://
        "text": ["tokenizers", "sentencepiece"],
        "tensorboard": ["tensorboardX"],
        "wandb": ["wandb"],
        "demo": ["gradio"],
    },
)
