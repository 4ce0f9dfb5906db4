"""Objects where the prompt says: its relations read off the maps of the first layers, and the noise moved until they are right.

"Learning to Steer" (2509.02295) and cheaper kin. Import order inside: symmetry, maps, prompts, classifier, measures, descend, program,
files, examples, fit,
learned, show.
"""

from anystep.steering.files import load, save
from anystep.steering.program import METHODS, Method, Program, Recorder, Steering, Walk

__all__ = ["METHODS", "Method", "Program", "Recorder", "Steering", "Walk", "load", "save"]
