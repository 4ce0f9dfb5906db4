"""Objects where the prompt says: its relations read off the maps of the first layers, and the noise moved until they are right.

"Learning to Steer" (2509.02295) and cheaper kin. Import order inside: symmetry, maps, prompts, classifier, measures, method, descend, at,
program, files, rows, sources, examples, fit, amortise, show.
"""

from anystep.steering.at import Walk
from anystep.steering.files import load, save
from anystep.steering.method import METHODS, Method
from anystep.steering.program import Program, Recorder, Steering

__all__ = ["METHODS", "Method", "Program", "Recorder", "Steering", "Walk", "load", "save"]
