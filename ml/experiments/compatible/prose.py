"""What docs/results.md says of the compatible study in words: what it came to, how to read it, why these settings."""

# Written of the recorded run: look at them again when the run is made anew.
FINDINGS = (
    (
        "A compatible encoder searches the old gallery where a freely trained one finds nothing (1 to 3 % of mAP). "
        "On grocery cross-test beats the old system by 6.5 to 8 points in tier A. On the union it does so by 1.6 to"
        " 2.6 points in the mean for more data, more classes and a larger trunk, but the intervals, sixteen of them"
        " together, reach below 0; learning new classes alone loses 2.5 points. End to end grocery gains 4 points, "
        "with three seeds. C8 holds in 4 of 16 cells."
    ),
    (
        "What limits it: classes that nobody learned. Alignment to prototypes says nothing of them, and their "
        "queries find half to two thirds of what the new encoder finds by itself: with more data on the union 17 "
        "points of 29, against 29 on learned classes and the old system's 25 over all. Crowding alone does not say "
        "it: grocery gains as much with the nearest prototype at a cosine of 0.41 as at 0.81. End to end on the "
        "union 1,000 steps are short: learned classes reach 20 points, the old system has 19.6 over all."
    ),
    (
        "Compatibility costs no discrimination here. Every arm that is aligned to prototypes is better by itself "
        "than free training (C9a holds everywhere, 0.5 to 11 %): prototypes are one more teacher. Holding codes "
        "alone does not do that. So there is nothing for a perturbation to win back, and the first clause of C9b "
        "never applies."
    ),
    (
        "What perturbing prototypes adds is small. NDPP: +0.4 to +0.6 points of cross-test on the union, nothing in"
        " self-test, -0.8 in one grocery setting, which C9b does not allow. ODPP: +0.3 in self-test and +0.1 to "
        "+0.3 in cross-test on the union, a little less than nothing on grocery. The paper's claim in direction on "
        "the union, not in size, and not on grocery. UniBCT at scale 10, a margin and no perturbation, does as well"
        " on the union (35.3 self, 27.3 cross for more data) and loses self-test on grocery."
    ),
    (
        "The mechanism shows where old and new classes differ: with more classes and with new classes the most "
        "crowded quarter gains 0.5 to 1.4 points more than the rest, elsewhere it does not (4 of 16). P_1 over the "
        "strength is flat: its best inside beats both ends on the union by 0.007 and 0.001, on grocery strength 0 "
        "is as good. The automatic strength lands within 0.004 of the best."
    ),
    (
        "Ours, pulling towards the class's stored entries too, reaches more of the old gallery than both: +0.7 to "
        "+1.3 points of cross-test over NDPP on the union (validation and final, three seeds; end to end +2.1, one "
        "seed) and two to three points of Recall@1, with self-test within half a point of ODPP. On grocery it helps"
        " with more classes and end to end, not with a larger trunk in tier A. Most of it comes from the entries: "
        "with nothing perturbed 27.7 of 28.0 points, one seed. Off by default."
    ),
    (
        "Recall@1 on the old gallery is below the old system's on the union (more data 33.9 of 36.2, end to end 25 "
        "of 31), above it on grocery. 13 to 23 % of queries turn from right to wrong at first place, 1.3 to 1.8 "
        "times as many as after a full backfill: C10 does not hold. It is fewer than chance (rNFR 0.6 to 0.9); but "
        "neither a compatible encoder nor a full backfill would pass a gate of 5 %."
    ),
    (
        "Held codes carry: by codes alone new queries find 2 to 7 points more in the old codes than the old ones "
        "did (new classes: -4), end to end on grocery 11. The fused answer gains 1.3 to 9 points over the old "
        "system (new classes: -2)."
    ),
    (
        "A chain wears out: generation 3 finds 14 to 15 points in what generation 0 stored, where generation 0 "
        "finds 20. Each step is gained or held against the one before, until the larger trunk, which has no "
        "headroom left. A gallery of all four generations gives 23 to 24."
    ),
    (
        "A gallery half of which is encoded anew treats both halves alike: 45.6 to 52.4 % of the ten best are old "
        "ones, 50 expected."
    ),
    (
        "Moving the gallery instead: FCT reaches 0.83 to 0.90 of what a full backfill gains, FastFill more than a "
        "backfill, for it sees the labels of the very entries it moves; on classes that nobody learned both fall "
        "below the old system. Orders of a partial backfill differ by a point: class mean is best on mapped "
        "galleries, no order beats random on a compatible one."
    ),
    (
        "Wrong labels cost all arms alike: at 40 % 5 to 6 points of self-test, 3.5 to 3.7 of cross-test; what is "
        "aligned stays ahead of free training. On Fashion-MNIST, with seven learned classes, nothing beats the old "
        "system in cross-test: there is little to gain and no crowd."
    ),
)
ABOUT = (
    "**Settings.** `more data`: from 30 % of each class's images to all; `more classes`: from 30 % of the classes"
    " to all; `new classes`: the new encoder learns the other 70 % alone; `larger trunk`: from a small trunk that"
    " saw 30 % of the images to a larger one that saw all. **Tier A** trains a layer of 256, a code head and an "
    "embedding head on cached features (four augmented views of each image) of trunks that were trained without a"
    " thought of each other; all arms of a setting share them. Aligned arms differ from `independent` in the "
    "alignment and in having their codes held to stored ones instead of a code loss of their own; `held codes "
    "alone` has the latter without the former. Rivals have their published temperatures, which suit these "
    "trainings less than 0.1; at 0.1 they stand beside them where the curve is drawn. The curve's upper end is "
    "the guard: from a strength of 1.6 on nearly all classes are at its 20 degrees. **End to end** trains whole "
    "encoders at 64 pixels, 1,000 steps; old and `independent` are those of the corrector experiment. The gallery"
    " holds every training image, those of reserved classes that nobody learned too. Prototypes of all classes "
    "come from the old encoder's stored embeddings. Ten seeds in tier A of what claims on mAP name, three end to "
    "end; flips, codes and fused answers, the chain and the curve have three seeds of the ten registered, for "
    "want of time. "
)
CHOICES = (
    {
        "setting": "temperature 0.1",
        "chosen by": "validation queries of the union (more data) and of grocery (more classes), two and three seeds: "
        "prototype-BCT at 0.05, 0.07, 0.1 reached 0.261, 0.265, 0.267 self and 0.192, 0.201, 0.206 cross (union), "
        "0.479, 0.481, 0.486 and 0.271, 0.280, 0.288 (grocery). The method file sweeps to 0.07; 0.2 was no "
        "better (0.265, 0.199; 0.490, 0.293).",
    },
    {
        "setting": "NDPP perturbs negatives too, ODPP positives alone",
        "chosen by": "the same queries. NDPP at 0.4, positives alone: +0.002 self and +0.005 cross over prototype-BCT "
        "on the union, -0.002 and -0.004 on grocery; all perturbed: +0.001, +0.003 and +0.003, -0.002. ODPP the other "
        "way: +0.005, +0.004 and 0.000, +0.001 against +0.001, -0.001 and +0.001, +0.001. All of it is close to the "
        "noise.",
    },
    {
        "setting": "automatic strength: what half of the classes bear",
        "chosen by": "not tuned: a half of half the angle to the nearest neighbour, decided before the curve was seen",
    },
    {
        "setting": "tier A: scale 10, learning rate 3e-3, a layer of 256 between features and heads",
        "chosen by": "self-test of free training on validation queries: scale 10 for 16 gave +0.012 on the union and "
        "-0.004 on grocery. Without the layer cross-test stays below the old system on the union (0.165 of 0.172).",
    },
    {
        "setting": "ours: entry weight 1, temperature 0.1",
        "chosen by": "the same queries, of 0.03, 0.05, 0.1 and of weights 0.3 and 1; entries alone, and the distance "
        "to the image's own stored embedding (weights 1 and 4), were tried beside it and were worse",
    },
)
