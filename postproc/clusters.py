"""Numbers about a partition of prompts: agreement with labels, most typical words."""

import re

import numpy as np


def contingency(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How many items have each pair of labels, [labels of first, labels of second]."""
    first_names, first_index = np.unique(first.astype(str), return_inverse=True)
    second_names, second_index = np.unique(second.astype(str), return_inverse=True)
    counts = np.zeros((len(first_names), len(second_names)))
    np.add.at(counts, (first_index, second_index), 1)
    return counts


def entropy(share: np.ndarray) -> float:
    share = share[share > 0]
    return float(-np.sum(share * np.log(share)))


def normalised_mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """2 I(first; second) / (H(first) + H(second)): 1 for the same partition, 0 for independent ones (0 also where both are one
    class)."""
    return agreement_of(contingency(first, second)) if len(first) else 0.0


def agreement_of(counts: np.ndarray) -> float:
    """The same of a contingency table that holds at least one item."""
    joint = counts / counts.sum()
    entropies = entropy(joint.sum(axis=1)) + entropy(joint.sum(axis=0))
    information = entropies - entropy(joint.ravel())
    return 2 * information / entropies if entropies > 0 else 0.0


def chance_agreement(first: np.ndarray, second: np.ndarray, shuffles: int = 20) -> float:
    """The same for shuffled labels: what classes of these sizes agree by chance."""
    generator = np.random.default_rng(0)
    return float(np.mean([normalised_mutual_information(first, generator.permutation(second)) for _ in range(shuffles)]))


def words_of(caption: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]{2,}", caption.lower()))


def typical_words(captions: np.ndarray, expert: np.ndarray, experts: int, count: int = 10) -> list[list[str]]:
    """Of each expert the words w with the largest q log(q / p), q the share of its prompts that contain w, p that of all prompts:
    frequent here and rarer elsewhere. At least 3 prompts of the expert contain each."""
    sets = [words_of(caption) for caption in captions]
    vocabulary = sorted(set().union(*sets))
    column = {word: i for i, word in enumerate(vocabulary)}
    found = np.zeros((experts, len(vocabulary)))  # prompts of the expert that contain the word
    for k, words in zip(expert, sets):
        for word in words:
            found[k, column[word]] += 1
    prompts = np.bincount(expert, minlength=experts)
    share = found / np.maximum(prompts, 1)[:, None]
    overall = found.sum(axis=0) / max(len(captions), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.where(found >= 3, share * np.log(share / overall), 0.0)
    return [[vocabulary[i] for i in np.argsort(-row, kind="stable")[:count] if row[i] > 0] for row in score]
