"""Prompt encoders, each a role of its own (`types.Text`): the built-in one (`encoder`), and pretrained ones.

Import order inside: tokenizer, encoder, stored, layers, pretrained, t5, clip, gemma, bert.
"""

from anystep.nets.text.encoder import build

__all__ = ["build"]
