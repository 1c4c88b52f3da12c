"""Backward-compatible training with prototype perturbation: a new encoder's queries find what an old one stored.

`OldSpace` is what is kept of the old encoder's embeddings: one prototype per class, how many images stand behind it and
how far they reach. `PrototypeAlignment` pulls new embeddings towards prototypes that are moved out of the crowd, by a
closed form (`neighbours`, NDPP) or by gradient (`optimised`, ODPP), anew as the new encoder learns; `Guard` bounds how
far, for the gallery itself does not move; `automatic_strength` finds how far from the old geometry alone. With
`CompatibleTrainer` that stands beside the losses of any trainer, and `HeldCodes` holds its code head to the stored
codes as a lifelong increment does. `Compatibility` has every setting; its kind "none" is prototype-BCT.

`rivals`, `rivals_adversarial`: BCT, UniBCT, LCE, hot-refresh and AdvBCT as alignments of the same shape. `forward`,
`forward_order`: FCT and FastFill, which move the gallery instead, and the orders of a partial backfill.

Source: "Prototype Perturbation for Relaxing Alignment Constraints in Backward-Compatible Learning" (arXiv 2503.14824),
of which title, abstract and research code left in a later project are known (method file, section 12). Mends of that
code are those of the method file: no class is its own neighbour, weights never attract, hinges are of normalised
vectors and averaged over active pairs, thresholds come from the data. Deviations from the method file, all chosen on
validation queries or for cost: temperature 0.1 for 0.05; NDPP perturbs the negatives too, ODPP the positives alone; new
prototypes begin with the first batch that shows a class instead of one pass over all images; classes above a cosine of
0.97 are left out as neighbours, not merged; the average that steadies prototypes is taken of guarded ones; the loop
is the product's (AdamW, cosine schedule, averaged weights, clipping at 1, label smoothing) and keeps its last average,
with no checkpoint chosen by P_1.

Ours: prototypes of classes that the new training does not show come from stored embeddings, so they stay negatives;
and, off by default, a loss towards the class's stored entries themselves, moved with their prototype (`entry_weight`).
Left out: a head from a larger to a smaller dimension (the first coordinates are compared instead), NCCL and DMU, whose
formulas were not found, and the graph of UniBCT's prototypes.
"""
