"""Nine silhouettes in nine colours at 16 pixels: the model that comes with the package.

    anystep train --config nine_shapes --workdir runs/nine_shapes
    anystep sample --prompt "a pink heart above a brown star"

Hardware   2 CPU cores; any GPU or TPU takes the same file
Time       31 minutes on 2 cores by the step times of `any_step_16px_cpu.json`, 72 by those of `budget_16px_cpu.json`, which were taken
           beside two trainings
Result     .38, .76, .91, .96, .99 of 512 held-out prompts right at 1, 2, 4, 8, 32 steps, restart asking zero

The recipe is that of `shapes`, four times as long: flow matching on half of the rows, jumps to s = 0 along the averaged weights' own guided
velocity on the others, from the middle of the run on. The world is that of `anystep bench study --plan any_step`, in which flow matching
alone draws .92 at 32 steps after 1,600. The hybrid of `--plan budget` at this length draws .40, .79, .93, .97, .99: no step count tells the
two apart, and this one has an objective less.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        dict(
            seed=0,
            data=dict(
                kind="shapes",
                batch=64,
                size=16,
                shapes=("ring", "square", "triangle", "cross", "circle", "diamond", "heart", "star", "crescent"),
                colors=("red", "green", "blue", "yellow", "purple", "black", "orange", "pink", "brown"),
                max_objects=3,
                color_words=1.0,
                wrong_relation=0.0,
                missing_relation=0.0,
                chain=1,
            ),
            model=dict(
                net="sana",
                width=128,
                depth=4,
                double=0,
                heads=4,
                patch=4,
                attention="softmax",
                cross_heads=4,
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
                dtype="float32",
                shift=0.78,
                scale=0.4,
                text=dict(encoder="hashed", folder="", digest="", vocabulary=2048, length=16, width=64, depth=2, heads=4),
            ),
            path=dict(name="linear"),
            objective=dict(
                time=dict(law="logit_normal", mean=0.0, std=1.0, shift=3.0, base_tokens=0),
                prompt_dropout=0.1,
                control_dropout=0.0,
                teacher=dict(folder="", digest="", scales=(1.0,), null_mask="own"),
                flow_matching=dict(share=1, weight=1.0, weighting="huber"),
                self_evaluation=dict(
                    share=0,
                    weight=1.0,
                    start=0,
                    s_min=0.25,
                    anneal=0,
                    renorm=True,
                    weighting="none",
                    dropped="diagonal",
                    auxiliary_k=1.0,
                    auxiliary_start=0,
                    auxiliary_warmup=0,
                    auxiliary_weight=1.0,
                ),
                consistency=dict(
                    share=1,
                    weight=1.5,
                    start=3200,
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
            optim=dict(name="muon", lr=3e-3, final_lr=0.05, warmup=50, b1=0.9, b2=0.99, muon_rms=0.6, weight_decay=0.0, clip=1.0, ema=0.99),
            train=dict(
                steps=6400,
                log_every=20,
                sample_every=1600,
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
            checkpoint=dict(every=800, keep=2),
            init_from="",
        )
    )
