"""Corrector networks for stale embeddings: a small map stands in for encoding a whole catalogue again.

Serving: `rows_to_encode` says which images to encode anew, `fit_corrector` fits one map per source producer and gives
it up where the probe sees no help, `refitted` fits it once more to all pairs, `floor_estimate` says what no map can
mend, `corrected_gallery` applies maps to raw rows, `fit_error_head` with `backfill_order` says which images to encode
next. Training: `CatalogueNegatives` is the loss against targets that a policy chose from the whole catalogue,
`CorrectedCache` the policy of this method, `baselines` the others; `Catalogue.encodes` counts alike for all.
`HardNegativesTrainer` adds that loss to any other training (`Recipe.negatives`), and goes on from a checkpoint.
`agreement` measures the mechanism and its bounds.

Source: "A Fresh Take on Stale Embeddings" (ICML 2024, arXiv 2409.01890), of which the scoring model, the schedule of
warm-up and joint training and the mean-square drift loss are known; architecture and all numbers are the method file's
(its section 11). Deviations from that file: one encoder for queries and targets, as everywhere in the product; cosine
alone, so N always normalises; beta is fixed, not learned; drift targets are what the loss encoded, or, where the
encoder trains with batch statistics or dropout, encoded again; the error head never moves the map and learns from
errors on pairs its map had not seen. Ours: what the loss has just encoded stands in the view as it is (`remembered`);
and a map is given up, too, that does no better than one vector for all images, for where stale embeddings are far from
fresh ones a map that learned no more than their mean beats the identity, and makes all images alike.
Left out, being off by default there: importance weights of sampled targets (the loss is over all queries' draws
together, whose inclusion does not factor), write-back with stamps and replay of old batches (`remembered` does better
with no more encodes), a second block, re-embedding of the worst shard. The ceiling on near-duplicates is there and
off: `similarity_ceiling` gives one.
"""
