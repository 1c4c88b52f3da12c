"""Claims C3, C3b, C4 and C5: what supervision, graph, decoder and critics add to a code, and what two stages cost."""

from ml.experiments.twin_bottleneck.study import EXPERIMENT

__all__ = ["EXPERIMENT"]
