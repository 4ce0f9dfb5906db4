"""Coloured shapes at 64 pixels: all silhouettes and colours, for one GPU.

    anystep train --config shapes64 --workdir runs/shapes64
    anystep evaluate --model runs/shapes64

Hardware   one GPU of 16 GB or more
Time       not measured yet; by the count of FLOPs about ten minutes on a GPU that does 200 TFLOP/s in bfloat16
Result     not measured yet

The hybrid of the any-step study (anystep/bench/plans/any_step.py): flow matching, self-evaluation down to s = t / 4, and jumps to s = 0
along the averaged weights' own guided velocity, begun when the places are known. The shift is larger than at 16 pixels because a larger
picture of the same content drowns in noise later.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            seed=0,
            data=dict(
                kind="shapes",
                batch=256,
                size=64,
                shapes=("ring", "square", "triangle", "cross", "circle", "diamond", "heart", "star", "crescent"),
                colors=("red", "yellow", "green", "blue", "purple", "black", "orange", "pink", "brown"),
                max_objects=3,
                color_words=1.0,
                wrong_relation=0.0,
                missing_relation=0.0,
                chain=1,
            ),
            model=dict(
                net="sana",
                width=384,
                depth=8,
                double=0,
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
                second_time=True,
                guidance=False,
                control=0,
                rank=0,
                frozen=False,
                scan=False,
                remat=False,
                dtype="bfloat16",
                shift=0.78,
                scale=0.4,
                text=dict(encoder="hashed", folder="", digest="", vocabulary=2048, length=16, width=128, depth=2, heads=4),
            ),
            path=dict(name="linear"),
            objective=dict(
                time=dict(law="logit_normal", mean=0.0, std=1.0, shift=6.0, base_tokens=0),
                prompt_dropout=0.1,
                control_dropout=0.0,
                teacher=dict(folder="", digest="", scales=(1.0,), null_mask="own"),
                flow_matching=dict(share=1, weight=1.0, weighting="huber"),
                self_evaluation=dict(
                    share=1,
                    weight=1.0,
                    start=0,
                    s_min=0.25,
                    anneal=2000,
                    renorm=True,
                    weighting="huber",
                    dropped="diagonal",
                    auxiliary_k=1.0,
                    auxiliary_start=0,
                    auxiliary_warmup=0,
                    auxiliary_weight=1.0,
                ),
                consistency=dict(
                    share=2,
                    weight=1.5,
                    start=5000,
                    at_zero=1.0,
                    s_min=0.0,
                    nodes=4,
                    hops=2,
                    velocity="ema",
                    guidance=2.0,
                    interval=(0.0, 0.95),
                    at_noise=0.6,
                    warmup=0,
                    form="linear",
                    tangent_norm="none",
                    tangent_constant=0.1,
                    prior=False,
                    weighting="l1",
                ),
                adversarial=dict(
                    share=0,
                    weight=1.0,
                    blocks=(0,),
                    at_noise=0.5,
                    mean=0.0,
                    std=1.0,
                    one_level=False,
                    misaligned=True,
                    rate=1.0,
                ),
            ),
            optim=dict(
                name="muon", lr=3e-3, final_lr=0.05, warmup=200, b1=0.9, b2=0.99, muon_rms=0.6, weight_decay=0.0, clip=1.0, ema=0.999
            ),
            train=dict(
                steps=10000,
                log_every=50,
                sample_every=1000,
                also="none",
                guard=dict(sigma=6.0, window=128, patience=20, rewinds=3),
            ),
            eval=dict(
                steps=(1, 2, 4, 8, 32),
                prompts=64,
                scale=2.0,
                energy_preserving=False,
                interval=(0.0, 0.95),
                sampler="restart",
                ask="zero",
                eta=1.0,
            ),
            mesh=dict(data=-1, fsdp=1),
            checkpoint=dict(every=2500, keep=2),
            init_from="",
        )
    )
