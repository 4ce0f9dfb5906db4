"""What a network is trained for, a file a chapter. Objectives know `Model`s, not networks, and return the loss per sample; only `mix`
averages.

Import order inside: draws, flow_matching, self_evaluation, consistency, adversarial, mix.
"""
