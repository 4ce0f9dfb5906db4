"""Your own captioned pictures at 32 pixels.

    anystep train --config pictures --config.data.path=FOLDER --workdir runs/pictures

Input      a folder in Hugging Face's imagefolder layout (pictures with metadata.jsonl or metadata.csv, or a .txt beside each), an .npz
pack, or a folder of packs
Hardware   2 CPU cores; any GPU or TPU takes the same file, with a larger --config.data.batch and --config.model.width
Time       2,000 steps; the progress line says how long
Result     samples/<step>.png: held-out captions at 1, 2, 4, 8 and 32 steps
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            seed=0,
            data=dict(kind="pictures", batch=64, size=32, path="", style_captions=False, dev_share=0.05, background="white"),
            model=dict(
                net="sana",
                width=192,
                depth=6,
                heads=6,
                patch=4,
                attention="softmax",
                cross_heads=6,
                ffn="mlp",
                mlp_ratio=4.0,
                positions="sincos",
                qk_norm=True,
                stem=64,
                predicts="x0",
                time_frequency=4.0,
                time_span=16.0,
                scan=True,
                remat=False,
                dtype="float32",
                shift=0.6,
                scale=0.6,
                text=dict(vocabulary=8192, length=24, width=96, depth=2, heads=4),
            ),
            path=dict(name="linear"),
            objective=dict(
                time=dict(law="logit_normal", mean=0.0, std=1.0, shift=2.0),
                prompt_dropout=0.1,
                flow_matching=dict(share=3, weight=1.0),
                self_evaluation=dict(share=0, weight=1.0, start=0, s_min=0.25, anneal=0, renorm=True, dropped="diagonal"),
                consistency=dict(
                    share=1,
                    weight=1.0,
                    start=0,
                    s_law="zero",
                    nodes=0,
                    velocity="data",
                    guidance=1.0,
                    interval=(0.0, 1.0),
                    at_noise=0.0,
                    warmup=0,
                    tangent_norm="clip",
                    weighting="adaptive",
                ),
            ),
            optim=dict(
                name="muon", lr=2e-3, final_lr=0.05, warmup=100, b1=0.9, b2=0.99, muon_rms=0.6, weight_decay=0.0, clip=1.0, ema=0.998
            ),
            train=dict(steps=2000, log_every=20, sample_every=500, also="none"),
            eval=dict(
                steps=(1, 2, 4, 8, 32), prompts=16, scale=2.0, energy_preserving=True, interval=(0.0, 0.95), sampler="euler", ask="next"
            ),
            mesh=dict(data=-1, fsdp=1),
            checkpoint=dict(every=500, keep=2),
            init_from="",
        )
    )
