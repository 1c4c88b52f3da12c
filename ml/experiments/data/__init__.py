"""What an experiment runs on: opened, cut down, joined, and split by class.

`opening` reads packs, digits and class folders; `parts` says what a data set is and takes a few of its images;
`joining` makes one of several; `classes` divides one for methods that are judged on classes they never saw,
`chains` for methods that learn classes one group after another.
"""

from ml.experiments.data.chains import ClassChain, class_chain
from ml.experiments.data.classes import ClassSplit, RetrievalTask, class_split
from ml.experiments.data.joining import joined_dataset
from ml.experiments.data.opening import open_dataset
from ml.experiments.data.parts import Dataset, Described, Ids, Kind, Part, few

__all__ = [
    "ClassChain", "ClassSplit", "Dataset", "Described", "Ids", "Kind", "Part", "RetrievalTask", "class_chain",
    "class_split", "few", "joined_dataset", "open_dataset",
]  # fmt: skip
