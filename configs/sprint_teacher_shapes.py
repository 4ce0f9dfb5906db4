"""The teacher of sprint_shapes: flow matching on coloured shapes at 16 pixels, one time, with the null prompt learned for guidance.

    anystep train --config sprint_teacher_shapes --workdir runs/sprint_teacher
    anystep evaluate --model runs/sprint_teacher

Starts from   nothing
Images seen   1,600 steps of 64: 102,400
Hardware      2 CPU cores; any GPU or TPU takes the same file
Time          9 to 16 minutes of one core beside other work
Result        512 held-out prompts, seeds 0, 1, 2: .00 right at 1 step, .07 to .12 at 2, .69 to .75 at 4, .85 to .88 at 32
              (Euler, guidance 2)

The network and the optimizer of the demo (configs/shapes.py), without the second time, since SANA-Sprint's networks know one, and putting
out a velocity, for the sake of its students (configs/sprint_shapes.py). Its time embedding is dense, its highest frequency 4 rad per unit
of time, and queries and keys are normalised: what the paper's fine-tuning adds to a SANA before it may teach is there from the first step.
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
                shapes=("ring", "square", "triangle", "cross"),
                colors=("red", "green", "blue", "yellow", "purple", "black"),
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
                predicts="v",
                time_frequency=4.0,
                time_span=16.0,
                second_time=False,
                guidance=False,
                control=0,
                rank=0,
                frozen=False,
                scan=False,
                remat=False,
                dtype="float32",
                shift=0.78,
                scale=0.4,
                text=dict(encoder="hashed", folder="", digest="", vocabulary=2048, length=14, width=64, depth=2, heads=4),
            ),
            path=dict(name="linear"),
            objective=dict(
                time=dict(law="logit_normal", mean=0.0, std=1.0, shift=3.0, base_tokens=0),
                prompt_dropout=0.1,
                control_dropout=0.0,
                teacher=dict(folder="", digest="", scales=(1.0,), null_mask="own"),
                flow_matching=dict(share=1, weight=1.0, weighting="none"),
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
                    share=0,
                    weight=1.0,
                    start=0,
                    at_zero=1.0,
                    s_min=0.0,
                    nodes=0,
                    hops=1,
                    velocity="data",
                    guidance=1.0,
                    interval=(0.0, 1.0),
                    at_noise=0.0,
                    warmup=0,
                    form="linear",
                    tangent_norm="none",
                    tangent_constant=0.1,
                    prior=False,
                    weighting="none",
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
                steps=1600,
                log_every=20,
                sample_every=800,
                also="none",
                guard=dict(sigma=6.0, window=128, patience=20, rewinds=3),
            ),
            eval=dict(
                steps=(1, 2, 4, 8, 32),
                prompts=64,
                scale=2.0,
                energy_preserving=False,
                interval=(0.0, 0.95),
                sampler="euler",
                ask="now",
                eta=1.0,
            ),
            mesh=dict(data=-1, fsdp=1),
            checkpoint=dict(every=800, keep=2),
            init_from="",
        )
    )
