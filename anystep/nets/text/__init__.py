"""Prompt encoders, each a role of its own (`types.Text`). Import order inside: tokenizer, encoder."""

from anystep.nets.text.encoder import build

__all__ = ["build"]
