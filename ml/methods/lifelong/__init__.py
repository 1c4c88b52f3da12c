"""Lifelong cross-modal hashing: new categories are learned while every stored code stays byte for byte what it was.

`learn_base` teaches a first generation with the label network as bridge between images and texts; `learn_increment`
solves codes for new items by discrete cyclic coordinate descent and moves the heads against stored codes, known to it
only as integer statistics by label set; `generation_after` is what the next increment starts from. `increment_gates`
judges an update, `shift_alarm` and `drift.due` say when increments no longer do.

Source: DLCH (arXiv 2304.13357) and DIHN (CVPR 2019), from their released code (method file, sections 4 to 6). Eight
defects of the released code are mended here: (1) the pair loss of new codes enters the loss; (2) a sample is held to
the code of its own item, not of its position in the sample; (3) outputs of sampled new items enter the code step;
(4) the balance term is quadratic, so bits do not all run to -1; (5) one code per item is shared by both modalities
instead of a sign of a sum, so no code holds zeros; (6) the sign of 0 keeps the bit it had; (7) nothing is chosen on
test queries; (8) old images are not replayed: Gaussians of their features stand for them, or, by name, exemplars.

Ours: centred similarity, losses divided by code length, statistics instead of stored codes, codes of new label sets
started from labels and solved against stored ones too, what is replayed bounded by what is new, words taught the
majority code of the items that carry them, the image head's last layer fitted anew by ridge regression after a base
stage (`refits`), and mode `analytic`, in which an update does that and nothing else.
"""
