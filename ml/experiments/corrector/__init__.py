"""Corrector networks for stale embeddings (claims C11 and C12).

`training_*`: fine-tunings with negatives from the whole catalogue, by every policy. `serving_*`: a gallery corrected
from one encoder to another. `base_training`: negatives as an option of the product's trainer, at equal cost. `sweep`:
synthetic drift. `speed`: how fast a gallery is corrected. `shocks`: sudden drift, planted. `study` puts them together.
"""
