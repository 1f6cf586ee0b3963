"""Dividing a data set by patients where it is not divided, and keeping one patient out of two splits."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from rwkv_core.errors import InputError
from rwkv_core.training.datasets.description import Case, Dataset, Split


def with_patients(dataset: Dataset, pattern: str | None) -> Dataset:
    """Give the same data set with patients taken from the cases' ids.

    Args:
        pattern: regular expression; what its first group (or all of it) matches is the patient. None changes nothing.

    Raises:
        InputError: when it is no regular expression, or an id does not match.
    """
    if pattern is None:
        return dataset
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"patient_pattern {pattern!r} is no regular expression: {error}.") from None
    cases = []
    for case in dataset.cases:
        match = compiled.search(case.id)
        if match is None:
            raise InputError(
                f"patient_pattern {pattern!r} finds no patient in {case.id!r}.",
                hint='For ids like "p007_visit2", "^[^_]+" takes what stands before the first underscore.',
            )
        cases.append(replace(case, patient=match[1] if compiled.groups else match[0]))
    return dataset.with_cases(cases)


def divided(dataset: Dataset, validation: float, test: float, seed: int) -> Dataset:
    """Give every labelled case without a split one, patient by patient, at random but always the same for a seed.

    Cases that have a split keep it. Unlabelled cases without a split stay without.

    Args:
        dataset: its cases may have splits or not.
        validation, test: share of the patients; no validation patients are drawn where the data set has some.
    """
    known: dict[str, Split] = {case.patient: case.split for case in dataset.cases if case.split}
    open_cases = [case for case in dataset.cases if case.split is None and case.label is not None]
    patients = sorted({case.patient for case in open_cases if case.patient not in known})
    np.random.default_rng(seed).shuffle(patients)
    drawn: dict[str, Split] = {}
    for split, share in (("validation", validation), ("test", test)):
        if split in known.values():
            continue
        count = _count(len(patients), share)
        taken, patients = patients[:count], patients[count:]
        drawn |= dict.fromkeys(taken, split)  # type: ignore[arg-type]
    drawn |= dict.fromkeys(patients, "train")
    drawn |= known
    return dataset.with_cases(
        replace(case, split=drawn[case.patient]) if case.split is None and case.label is not None else case
        for case in dataset.cases
    )


def patients_in_two_splits(cases: Iterable[Case]) -> dict[str, set[Split]]:
    """Find patients whose cases lie in more than one split."""
    found: dict[str, set[Split]] = defaultdict(set)
    for case in cases:
        if case.split is not None:
            found[case.patient].add(case.split)
    return {patient: splits for patient, splits in found.items() if len(splits) > 1}


def _count(patients: int, share: float) -> int:
    """Count at least one patient where a share is asked for, and never the last one."""
    return min(max(1, round(share * patients)), max(patients - 1, 0)) if share > 0 else 0
