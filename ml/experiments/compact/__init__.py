"""Claims C1, C2 and C2b: the compact involution encoder (method file compact_involution).

`arms` says what is trained, `runs` trains and measures one arm, `study` asks the claims and draws the tables.
"""

from ml.experiments.compact.study import EXPERIMENT

__all__ = ["EXPERIMENT"]
