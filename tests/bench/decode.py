"""How fast text is read and written, as ratios against transformers and llama.cpp.

    python tests/bench/decode.py [FOLDER]

The same 0.25 billion random weights everywhere, two threads, one prompt of 600 positions and 32
tokens behind it. Each way is run in turn, several times; the medians are compared. FOLDER keeps
the converted models. llama.cpp is left out where llama-cpp-python and gguf are not installed.
"""

import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from random_decoder import THREADS, checkpoint, exported, opened, random_ids
from transformers import AutoModelForCausalLM

from inference.generate import write

PROMPT, WRITTEN, ROUNDS = 600, 32, 5
PRECISIONS = ("fp32", "int8", "int4")
Way = Callable[[], tuple[float, float]]
"""Seconds to read the prompt (with the first token) and to write the rest."""


def by_overread(folder: Path, precision: str) -> Way:
    decoder = opened(folder, precision)
    prompt = decoder.embed(random_ids(PROMPT))

    def way() -> tuple[float, float]:
        cache = decoder.open()
        start = time.perf_counter()
        write(decoder, cache, prompt, stop_ids=(), limit=1)
        read = time.perf_counter()
        cache.rewind(PROMPT - 1)
        write(decoder, cache, prompt[-1:], stop_ids=(), limit=WRITTEN)
        return read - start, time.perf_counter() - read

    return way


def by_transformers(folder: Path) -> Way:
    model = AutoModelForCausalLM.from_pretrained(checkpoint(folder)).eval()
    ids = torch.tensor([random_ids(PROMPT)])

    def generate(count: int) -> float:
        start = time.perf_counter()
        model.generate(
            ids, do_sample=False, min_new_tokens=count, max_new_tokens=count, pad_token_id=0
        )
        return time.perf_counter() - start

    def way() -> tuple[float, float]:
        read = generate(1)
        return read, generate(WRITTEN + 1) - read

    return way


def by_llama_cpp(folder: Path, kind: str) -> Way:
    import llama_cpp_decoder  # noqa: PLC0415 - optional

    model = llama_cpp_decoder.opened(folder, kind)
    prompt = random_ids(PROMPT)

    def likeliest() -> int:
        logits = np.ctypeslib.as_array(model._ctx.get_logits(), shape=(model.n_vocab(),))
        return int(logits.argmax())

    def way() -> tuple[float, float]:
        model.reset()
        start = time.perf_counter()
        model.eval(prompt)
        token = likeliest()
        read = time.perf_counter()
        for _ in range(WRITTEN):
            model.eval([token])
            token = likeliest()
        return read - start, time.perf_counter() - read

    return way


def by_reading_memory(size: int = 1 << 30) -> Way:
    numbers = torch.ones(size // 4)

    def way() -> tuple[float, float]:
        start = time.perf_counter()
        numbers.sum()
        return 0.0, (time.perf_counter() - start) / size

    return way


def main() -> None:
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        folder.mkdir(parents=True, exist_ok=True)
        ways = {"transformers": by_transformers(folder), "memory": by_reading_memory()}
        ways |= {precision: by_overread(folder, precision) for precision in PRECISIONS}
        rivals = {}
        if importlib.util.find_spec("llama_cpp") and importlib.util.find_spec("gguf"):
            rivals = {"int4": "q4_k_m", "int8": "q8_0"}
        ways |= {kind: by_llama_cpp(folder, kind) for kind in rivals.values()}
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for turn in range(ROUNDS + 1):
            for name, way in ways.items():
                taken = way()
                if turn:
                    seconds[name].append(taken)
        sizes = {
            precision: (exported(folder, precision) / f"decoder.{precision}.onnx").stat().st_size
            for precision in PRECISIONS
        }
    report(seconds, rivals, sizes)


def report(
    seconds: dict[str, list[tuple[float, float]]], rivals: dict[str, str], sizes: dict[str, int]
) -> None:
    def median(name: str, stage: int) -> float:
        return statistics.median(taken[stage] for taken in seconds[name])

    byte = median("memory", 1)
    print(f"memory is read at {1e-9 / byte:.1f} GB/s by {THREADS} threads")
    for name in ("transformers", *PRECISIONS, *rivals.values()):
        read, written = PROMPT / median(name, 0), WRITTEN / median(name, 1)
        print(f"{name:12}  reads {read:6.0f} tokens/s  writes {written:6.1f} tokens/s")
    for precision in PRECISIONS:
        for other in ("transformers", *([rivals[precision]] if precision in rivals else ())):
            read, written = (median(other, stage) / median(precision, stage) for stage in (0, 1))
            print(f"{precision} against {other}: reads {read:.2f} and writes {written:.2f} times")
        share = sizes[precision] * byte * WRITTEN / median(precision, 1)
        print(f"{precision} writes at {share:.0%} of the rate at which memory gives its weights")


if __name__ == "__main__":
    main()
