"""What a prompt says of where things stand: "a dog left of a cat" -> (dog, left, cat). A grammar, no model; pure Python.

Import order inside: words, nouns, grammar.
"""

from anystep.relations.grammar import Reading, Relation, read, relations
from anystep.relations.words import WORDS

__all__ = ["WORDS", "Reading", "Relation", "read", "relations"]
