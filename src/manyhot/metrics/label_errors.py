"""Probable label errors, by confident learning of each class as a question of yes or no."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from manyhot.errors import UserError
from manyhot.metrics.columns import Labels, Scores, per_class

# Scores this little below a threshold count as reaching it: the mean of equal numbers can lie just above them.
_TOLERANCE = 1e-6
# A score of 0 or 1 is taken as this far from it, so that every log-odds is finite.
_NEAREST = 1e-12


@dataclass(frozen=True)
class LabelErrors:
    """The known (image, class) entries of a data set, the most suspect first, and the counts of C classes.

    Arguments:
        images: int64 [M]; row of the k-th most suspect entry.
        classes: int64 [M]; its column.
        suspicion: float64 [M], falling; estimated log-odds that its label is wrong.
        flagged: bool [M]; whether confident learning holds it for an error.
        thresholds: float64 [C, 2]; mean score "absent" (1 − s) of the images labelled absent, mean score "present" (s)
            of those labelled present; infinite where no image is labelled so.
        joint: int64 [C, 2, 2]; the confident joint: of the images labelled i, those confidently of true label j.
        n_missing: int64 [C]; flagged entries labelled absent.
        n_wrong: int64 [C]; flagged entries labelled present.
        missing_rate: float64 [C]; share of the truly present entries that is taken to be labelled absent.
        wrong_rate: float64 [C]; share of the truly absent entries that is taken to be labelled present.
    """

    images: NDArray[np.int64]
    classes: NDArray[np.int64]
    suspicion: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    thresholds: NDArray[np.float64]
    joint: NDArray[np.int64]
    n_missing: NDArray[np.int64]
    n_wrong: NDArray[np.int64]
    missing_rate: NDArray[np.float64]
    wrong_rate: NDArray[np.float64]

    def __len__(self) -> int:
        """Number of known entries."""
        return self.images.size


def find_label_errors(scores: Scores, labels: Labels, most: int | None = None) -> LabelErrors:
    """Rank the known entries by how probably their label is wrong, over all classes and both directions.

    An entry is flagged where the score of the other label reaches the mean score of the images that carry that label,
    and exceeds the score of its own. A class without a positive can have no entry confidently present, so none of its
    labels is flagged as missing; a class without a negative has none flagged as wrong. Both take part in the ranking.

    Source: Northcutt, Jiang and Chuang, Confident Learning, JAIR 70, 2021, section 3.1, equations 1 and 2, applied to
    each class as in Thyagarajan et al., Identifying Incorrect Annotations in Multi-Label Classification Data, 2022.
    The order is ours: docs/label-errors.md.

    Arguments:
        scores: float32 or float64 [N, C], in 0…1; from models that have not seen the image.
        labels: int8 [N, C]; 1 present, 0 absent, -1 ignored: takes no part.
        most: rank this many entries alone, the most suspect ones: for tables whose N · C entries would fill the memory.

    Raises:
        UserError: shapes or dtypes do not fit; a score is NaN or outside 0…1; a label is none of -1, 0, 1.
    """
    counted = per_class(_count, scores, labels)
    flags_NC = np.zeros(scores.shape, bool)
    for c, one in enumerate(counted):
        flags_NC[one.flagged, c] = True
    absent_C, present_C = (np.count_nonzero(labels == label, axis=0) for label in (0, 1))
    missing_C, wrong_C = (np.count_nonzero(flags_NC & (labels == label), axis=0) for label in (0, 1))
    rarer_C = np.minimum(absent_C, present_C)
    missing_rate = _rates(missing_C, wrong_C, present_C, rarer_C)
    wrong_rate = _rates(wrong_C, missing_C, absent_C, rarer_C)

    if most is None:
        images, classes = np.nonzero(labels != -1)
        suspicion = _suspicion(
            scores[images, classes], labels[images, classes], missing_rate[classes], wrong_rate[classes]
        )
        order = np.argsort(-suspicion, kind="stable")
    else:
        assert most > 0, most
        images, classes, suspicion = _candidates(scores, labels, missing_rate, wrong_rate, most)
        order = np.lexsort((classes, images, -suspicion))[:most]
    images, classes = images[order], classes[order]
    return LabelErrors(
        images=images,
        classes=classes,
        suspicion=suspicion[order],
        flagged=flags_NC[images, classes],
        thresholds=np.array([one.thresholds for one in counted], np.float64).reshape(-1, 2),
        joint=np.array([one.joint for one in counted], np.int64).reshape(-1, 2, 2),
        n_missing=missing_C,
        n_wrong=wrong_C,
        missing_rate=missing_rate,
        wrong_rate=wrong_rate,
    )


def self_confidence(scores: Scores, labels: Labels) -> NDArray[np.float64]:
    """The score of each entry's own label: s where labelled present, 1 − s where labelled absent; NaN where ignored.

    Arguments:
        scores: float32 or float64 [N, C], in 0…1.
        labels: int8 [N, C]; 1 present, 0 absent, -1 ignored.

    Returns:
        float64 [N, C], 0…1.
    """
    s = scores.astype(np.float64)
    return np.where(labels == 1, s, np.where(labels == 0, 1 - s, np.nan))


class _Counted(NamedTuple):
    """One class: rows of flagged images, thresholds (absent, present), the confident joint [given][true]."""

    flagged: NDArray[np.int64]
    thresholds: tuple[float, float]
    joint: list[list[int]]


def _count(c: int, scores_N: Scores, labels_N: Labels) -> _Counted:
    if scores_N.size and not (scores_N.min() >= 0 and scores_N.max() <= 1):
        raise UserError(f"class {c} has scores outside 0…1.", remedy="Label errors are found from probabilities.")
    given = [np.flatnonzero(labels_N == label) for label in (0, 1)]
    chance = [1 - scores_N.astype(np.float64), scores_N.astype(np.float64)]  # of being absent, of being present
    thresholds = [float(chance[k][given[k]].mean()) if given[k].size else np.inf for k in (0, 1)]
    joint, flagged = [[0, 0], [0, 0]], []
    for own in (0, 1):
        other = 1 - own
        own_chance, other_chance = chance[own][given[own]], chance[other][given[own]]
        confident_own = own_chance >= thresholds[own] - _TOLERANCE
        confident_other = other_chance >= thresholds[other] - _TOLERANCE
        # Where both reach their threshold, the likelier one is the true label.
        is_other = confident_other & (~confident_own | (other_chance > own_chance))
        joint[own][other] = int(is_other.sum())
        joint[own][own] = int((confident_own & ~is_other).sum())
        flagged.append(given[own][is_other & (other_chance > own_chance + _TOLERANCE)])
    return _Counted(np.concatenate(flagged), (thresholds[0], thresholds[1]), joint)


def _rates(
    errors_C: NDArray[np.intp], opposite_C: NDArray[np.intp], given_C: NDArray[np.intp], rarer_C: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Error rates of one direction, float64 [C], halfway in logarithm between two guesses of where errors are.

    Arguments:
        errors_C: flagged in this direction: truly A, labelled B.
        opposite_C: flagged in the other: truly B, labelled A.
        given_C: labelled A.
        rarer_C: labelled with the rarer label of the class, be it A or B.
    """
    total = int(errors_C.sum()) + 1
    everywhere = total / (int(given_C.sum()) + total - int(opposite_C.sum()) + 1)  # the same share in each class
    expected_C = total * (rarer_C + 1) / (rarer_C + 1).sum()  # in each class as many as its rarer label allows
    rates: NDArray[np.float64] = np.sqrt(everywhere * expected_C / (given_C + 1 + expected_C))
    return rates


def _candidates(
    scores: Scores,
    labels: Labels,
    missing_rate_C: NDArray[np.float64],
    wrong_rate_C: NDArray[np.float64],
    most: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Images, classes and suspicion of entries among which are the `most` most suspect ones, class by class."""
    found = []
    for c in range(labels.shape[1]):
        rows = np.flatnonzero(labels[:, c] != -1)
        rates = (np.full(rows.size, rate[c]) for rate in (missing_rate_C, wrong_rate_C))
        suspicion = _suspicion(scores[rows, c], labels[rows, c], *rates)
        if rows.size > most:  # equal ones at the end stay, so that the order among them is decided over all classes
            kept = suspicion >= np.partition(suspicion, -most)[-most]
            rows, suspicion = rows[kept], suspicion[kept]
        found.append((rows, np.full(rows.size, c), suspicion))
    rows, classes, suspicion = (np.concatenate(one) for one in zip(*found, strict=True))
    return rows, classes, suspicion


def _suspicion(
    scores_M: Scores, labels_M: Labels, missing_rate_M: NDArray[np.float64], wrong_rate_M: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Log-odds of an error by Bayes' rule, float64 [M], from the score as chance of being truly present."""
    s = scores_M.astype(np.float64)
    present = np.log(np.maximum(s, _NEAREST)) - np.log(np.maximum(1 - s, _NEAREST))
    missing = present + np.log(missing_rate_M / (1 - wrong_rate_M))
    wrong = -present + np.log(wrong_rate_M / (1 - missing_rate_M))
    suspicion: NDArray[np.float64] = np.where(labels_M == 1, wrong, missing)
    return suspicion
