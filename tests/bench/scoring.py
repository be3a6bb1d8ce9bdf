"""What 30 findings cost behind one read prefix, as ratios against asking them one by one.

    python tests/bench/scoring.py [FOLDER]

A random decoder of 0.25 billion weights; a prefix of 600 positions, as of a picture, and 30
questions of 11 to 19 positions. Naively each question is asked with the prefix read anew. Each way
is run in turn, several times; the medians are compared. FOLDER keeps the converted models.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from random_decoder import opened, random_ids

from inference.decoder import Decoder, Floats

PREFIX, QUESTIONS, NAIVE_QUESTIONS, ROUNDS = 600, 30, 3, 5
PRECISIONS = ("fp32", "int8", "int4")


def ways_of(decoder: Decoder) -> dict[str, Callable[[], Floats]]:
    """From nothing to the logits (questions, vocabulary) of the answers."""
    prefix = decoder.embed(random_ids(PREFIX))
    questions = [decoder.embed(random_ids(11 + k % 9, k + 1)) for k in range(QUESTIONS)]

    def naive() -> Floats:
        # A few are enough to know the cost: they are all alike.
        whole = [np.concatenate([prefix, question]) for question in questions[:NAIVE_QUESTIONS]]
        return np.concatenate([decoder.read(decoder.open(), text).logits for text in whole])

    def one_by_one() -> Floats:
        cache = decoder.open()
        decoder.read(cache, prefix)
        said = []
        for question in questions:
            said.append(decoder.read(cache, question).logits)
            cache.rewind(PREFIX)
        return np.concatenate(said)

    def packed() -> Floats:
        cache = decoder.open()
        decoder.read(cache, prefix)
        return decoder.read_packed(cache, questions).logits

    return {"packed": packed, "one by one": one_by_one, "naive": naive}


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for precision in PRECISIONS:
            report(precision, ways_of(opened(folder, precision)))


def report(precision: str, ways: dict[str, Callable[[], Floats]]) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS + 1):
        logits = {}
        for name, way in ways.items():
            start = time.perf_counter()
            logits[name] = way()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    median["naive"] *= QUESTIONS / NAIVE_QUESTIONS
    print(f"{precision}: {QUESTIONS} findings packed in {median['packed']:.2f} s")
    for name in ("one by one", "naive"):
        apart = np.abs(logits[name] - logits["packed"][: len(logits[name])]).max()
        share = median["packed"] / median[name]
        print(f"{precision}: {share:.3f} of the time {name}; logits differ by up to {apart:.1e}")


if __name__ == "__main__":
    main()
