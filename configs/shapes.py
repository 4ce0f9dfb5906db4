"""Coloured shapes at 16 pixels from prompts such as "a red ring left of a blue square": the demo.

    anystep train --config shapes --workdir runs/shapes
    anystep evaluate --model runs/shapes

Hardware   2 CPU cores; any GPU or TPU takes the same file
Time       7 to 9 minutes on 2 cores
Result     384 held-out prompts, entirely right: .34 at 1 step, .66 at 2, .81 at 4, .91 at 8, .96 at 32
           (two objects / position .47 / .36 at 1, .75 / .86 at 2, .95 / 1.00 at 8)

Half of the rows learn the velocity. The other half does the same for 800 steps, then learns to jump to s = 0 along the averaged weights'
own guided velocity: two Euler steps on a grid of four nodes, then the averages' own jump, compared by absolute values.
Guidance is in the jumps, so the restart sampler pays one evaluation a step.

What helped, stem to optimizer: stem and head as a small convolutional tower at half resolution (.20 against .07 entirely right after 400
steps), captions that list objects in reading order, more noise in the draws of t (shift 3 for data of unit deviation), residual branches
that start at zero (5 % less loss), muon's step at 0.6. What did not: pooled text in the time embedding, a norm before the cross
attention, TrigFlow answers instead of x0, leaving out the q/k norm, batches of 32.

Jumps, dev prompts, overall at 1 / 2 / 8 steps, one seed each (standard error .03). By the derivative (nodes = 0): clipped at rms 1
.14 / .10 / .83, blends of modes; bare along the data .04 / - / .37 and along the guided velocity, clipped at 3, .13 / .23 / .33: the
network's du/dt is too rough here. Over a grid, live weights on the right side collapse, averages over 50 steps drift (.24 / .32 / .45),
over 100 hold. Distance: squares of x0 .24 / .64 / .93, huber .33 / .66 / .84, and l1, which leaves no ghosts of a second place,
.28 / .68 / .93 (six nodes, one hop). Walk, four nodes, l1, begun at step 550: one hop .32 / .70 / .94, two .39 / .71 / .93, the whole walk
.33 / .66 / .94, two with weight 6 .31 / .59 / .89; begun at 800: two hops .40 / .74 / .95 in less time.
What decides is that the places are learned before the jumps begin: in two runs of 1,500 steps, begun at 500 with weight 2 and at 550 with
weight 3, positions stayed at .62 and .27 at 8 steps and at .06 and .05 at one.
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
                    share=1,
                    weight=1.5,
                    start=800,
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
                sampler="restart",
                ask="zero",
                eta=1.0,
            ),
            mesh=dict(data=-1, fsdp=1),
            checkpoint=dict(every=800, keep=2),
            init_from="",
        )
    )
