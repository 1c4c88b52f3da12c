"""The experiments that judge every method, and the bench they share.

To add one: write `ml/experiments/<name>` with an object that fits `protocol.Experiment` and enter it below.
`plan` lists the runs; a run's `identity` holds its configuration and the data's fingerprint, its `work(checkpoint)`
trains, measures and returns a `RunRecord`: the row's values, and each query's value under the same names. A run
that stands on another's training calls `options.ledger.run(identity, work)` inside its work and reads the
record's `files`. Queries of two kinds in one run (seen and unseen classes) are either two metrics, NaN where they
do not apply, or two settings. `questions` turns the registered claims into cells: whose metric, against whose,
and the target; the harness draws the intervals, judges, and writes `FILE.json` with `FILE.per_query.csv.gz`.
`present` may add `title`, `about`, `tables` and `plots` for docs/results.md. Add the command's line to
`make experiments`. A changed code is not a changed identity: name a new ledger folder then.
"""

EXPERIMENTS = {  # the command's name -> module:object
    "compact": "ml.experiments.compact:EXPERIMENT",
    "twin-bottleneck": "ml.experiments.twin_bottleneck:EXPERIMENT",
    "lifelong": "ml.experiments.lifelong.study:EXPERIMENT",
    "compatible": "ml.experiments.compatible.study:EXPERIMENT",
    "corrector": "ml.experiments.corrector.study:EXPERIMENT",
}
