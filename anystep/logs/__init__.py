"""What a run says and shows: rows (JSON lines, event files), progress (a line), pictures (grids, strips), plots (curves, the report).

No TensorFlow and no matplotlib: Pillow draws, tqdm counts. Nothing here knows of networks, configs or devices. Import order inside: rows,
ledger, progress, pictures, plots.
"""

from anystep.logs.ledger import Ledger
from anystep.logs.pictures import grid, save, strip
from anystep.logs.plots import curves, report_picture, score_names
from anystep.logs.progress import Progress
from anystep.logs.rows import JsonlWriter, package_of, read_rows

__all__ = [
    "JsonlWriter",
    "Ledger",
    "Progress",
    "curves",
    "grid",
    "package_of",
    "read_rows",
    "report_picture",
    "save",
    "score_names",
    "strip",
]
