"""Train the built-in model on simulated heads: first its eyes, then its words.

The vision encoder learns to outline haemorrhage (dense supervision; without it a model this small
learns nothing from text). Then the frozen encoder's image tokens teach the text decoder.

    python -m inference.training.heads HEADS
    python -m inference.training.train HEADS --out CHECKPOINTS
    python -m inference.training.export CHECKPOINTS
    python -m inference.training.evaluate

The packaged bundle 0.1.0 was made in stages while heads were still being simulated: about 830
vision and 670 text steps on 800 rendered heads; 140 vision and 110 text steps on 200 of those and
200 scanned ones; then 430 vision steps on all of them, scanned heads twice, and 260 text steps on
400 rendered and 200 scanned ones. Until the last stage CLEAR_HEAD_DICE was 1.
A run with the defaults, on 32 shards of
both kinds, follows the same recipe in one go; it gives another model, not the same weights.
A `model.pt` that already lies in CHECKPOINTS is trained further.
"""

import argparse
import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional

from inference.phantom import Lesion
from inference.preprocess import apply_windows
from inference.training.grid import GRID, WINDOWS_HU
from inference.training.heads import SHARD
from inference.training.language import corpus, samples
from inference.training.model import VisionLanguageModel

BATCH = 4
TEXT_BATCH = 16
TASKS = 3
IGNORED = -100
WARM_UP_STEPS = 50
CLEAR_HEAD_DICE = 0.25
REPORT_EVERY = 50
DESCRIBED_AT_ONCE = 10
PAD, START, ANSWER, END = "<pad>", "<start>", "<answer>", "<end>"
VOCABULARY = 480


class Heads:
    """Simulated heads read from the shards that `inference.training.heads` wrote."""

    def __init__(self, folder: Path) -> None:
        self._shards: list[tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]] = []
        self.lesions: list[Lesion | None] = []
        for path in sorted(folder.glob("*.pickle")):
            content = pickle.loads(path.read_bytes())  # noqa: S301 - written by heads.py
            self._shards.append((content["hu"], content["truth"]))
            self.lesions += content["lesions"]

    def head(self, index: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """HU and truth of one head, [slice, row, column]."""
        hu, truth = self._shards[index // SHARD]
        bits = np.unpackbits(truth[index % SHARD], axis=-1, count=GRID[2])
        return hu[index % SHARD].astype(np.float32), bits.astype(bool)


def vary(
    hu: npt.NDArray[np.float32], rng: np.random.Generator, *, mirror: bool
) -> npt.NDArray[np.float32]:
    """A scanner's variation: calibration offset and noise; `mirror` exchanges left and right."""
    noise = rng.standard_normal(hu.shape, dtype=np.float32) * np.float32(rng.uniform(0, 2.5))
    varied = hu + noise + np.float32(rng.uniform(-3, 3))
    return varied[:, :, ::-1] if mirror else varied


def batches(heads: Heads, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of window channels and truth masks."""
    while True:
        volumes, masks = [], []
        for index in rng.integers(0, len(heads.lesions), BATCH):
            hu, truth = heads.head(int(index))
            mirror = bool(rng.random() < 0.5)
            volumes.append(apply_windows(vary(hu, rng, mirror=mirror), WINDOWS_HU))
            masks.append((truth[:, :, ::-1] if mirror else truth).astype(np.float32))
        yield torch.from_numpy(np.stack(volumes)), torch.from_numpy(np.stack(masks))


def learning_rate(peak: float, step: int, steps: int) -> float:
    """Warm-up, then a cosine down to almost nothing."""
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return peak * warm * (0.5 + 0.5 * float(np.cos(np.pi * step / steps))) + 1e-6


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Weighted cross-entropy plus soft Dice per head, which counts small lesions like large ones.

    Without a lesion the Dice term is near 1 for any faint guess; at full weight it teaches the
    model to keep silent on small lesions.
    """
    entropy = functional.binary_cross_entropy_with_logits(
        logits, truth, pos_weight=logits.new_tensor(4.0)
    )
    probability = torch.sigmoid(logits).flatten(1)
    flat = truth.flatten(1)
    overlap = (probability * flat).sum(1)
    dice = 1 - (2 * overlap + 1) / (probability.sum(1) + flat.sum(1) + 1)
    weight = torch.where(flat.sum(1) > 0, 1.0, CLEAR_HEAD_DICE)
    return 20 * entropy + (weight * dice).mean()


def train_vision(model: VisionLanguageModel, heads: Heads, steps: int, out: Path) -> None:
    """Teach the encoder and mask head; writes `vision.pt` now and then."""
    vision = model.vision
    optimiser = torch.optim.AdamW(vision.parameters(), lr=2e-3, weight_decay=1e-4)
    source = batches(heads, np.random.default_rng(0))
    began, seen = time.monotonic(), 0.0
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = learning_rate(2e-3, step, steps)
        volume, truth = next(source)
        logits, pooled = vision(volume)
        cells = (functional.avg_pool3d(truth[:, None], 16) > 1e-3).float()
        occupied = vision.occupancy(pooled).squeeze(-1)
        loss = mask_loss(logits, truth) + functional.binary_cross_entropy_with_logits(
            occupied, cells.flatten(1)
        )
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vision.parameters(), 5.0)
        optimiser.step()
        seen = 0.95 * seen + 0.05 * float(loss.detach()) if step else float(loss.detach())
        if step % REPORT_EVERY == REPORT_EVERY - 1:
            elapsed = time.monotonic() - began
            print(f"vision {step + 1} {elapsed:.0f} s loss {seen:.4f}", flush=True)
            torch.save(vision.state_dict(), out / "vision.pt")
    torch.save(vision.state_dict(), out / "vision.pt")


def build_tokenizer() -> Tokenizer:
    """Byte-level BPE over the sentences the model knows; any other text still encodes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, ANSWER, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that the vocabulary is known to hold."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise KeyError(f"no token {token!r}")
    return int(found)


def encode(tokenizer: Tokenizer, prompt: str, answer: str) -> tuple[list[int], int]:
    """Token ids of one task, and how many of them are the prompt."""
    asked = [START, *tokenizer.encode(prompt).tokens, ANSWER]
    ids = [token_id(tokenizer, token) for token in asked]
    said = [*tokenizer.encode(answer).ids, token_id(tokenizer, END)]
    return ids + said, len(ids)


def describe(
    model: VisionLanguageModel, heads: Heads
) -> tuple[Tensor, list[tuple[Lesion | None, bool]]]:
    """Image-token descriptions (heads, tokens, features); half of the heads are mirrored."""
    rng = np.random.default_rng(1)
    described, truths = [], []
    with torch.inference_mode():
        for start in range(0, len(heads.lesions), DESCRIBED_AT_ONCE):
            chosen = range(start, min(start + DESCRIBED_AT_ONCE, len(heads.lesions)))
            mirrored = [bool(rng.random() < 0.5) for _ in chosen]
            channels = [
                apply_windows(vary(heads.head(index)[0], rng, mirror=mirror), WINDOWS_HU)
                for index, mirror in zip(chosen, mirrored, strict=True)
            ]
            described.append(model.tokens(*model.vision(torch.from_numpy(np.stack(channels)))))
            truths += [(heads.lesions[i], m) for i, m in zip(chosen, mirrored, strict=True)]
    return torch.cat(described).clone(), truths


def train_text(model: VisionLanguageModel, heads: Heads, tokenizer: Tokenizer, steps: int) -> None:
    """Teach projector and decoder on the frozen encoder's image tokens."""
    model.vision.eval()
    described, truths = describe(model, heads)
    tasks = [
        [encode(tokenizer, task.prompt, task.answer) for task in samples(lesion, mirrored=mirror)]
        for lesion, mirror in truths
    ]
    trained = [
        *model.projector.parameters(),
        *model.embed.parameters(),
        *model.decoder.parameters(),
    ]
    optimiser = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.02)
    rng = np.random.default_rng(2)
    began = time.monotonic()
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = learning_rate(1e-3, step, steps)
        chosen = rng.integers(0, len(truths), TEXT_BATCH)
        picked = [tasks[index] for index in chosen]
        length = max(len(ids) for head in picked for ids, _ in head)
        ids = torch.full((TEXT_BATCH, TASKS, length), token_id(tokenizer, PAD))
        target = torch.full((TEXT_BATCH, TASKS, length), IGNORED)
        for row, head in enumerate(picked):
            for task, (tokens, asked) in enumerate(head):
                ids[row, task, : len(tokens)] = torch.tensor(tokens)
                target[row, task, asked : len(tokens)] = torch.tensor(tokens[asked:])
        logits = model.text_logits(described[torch.from_numpy(chosen)], ids)
        losses = functional.cross_entropy(
            logits[:, :, :-1].flatten(0, 2),
            target[:, :, 1:].flatten(),
            ignore_index=IGNORED,
            reduction="none",
        ).view(TEXT_BATCH, TASKS, -1)
        # Each task counts the same: the answer yes or no as much as a whole report.
        loss = (losses.sum(2) / (target >= 0).sum(2)).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        if step % REPORT_EVERY == REPORT_EVERY - 1:
            elapsed = time.monotonic() - began
            print(f"text {step + 1} {elapsed:.0f} s loss {float(loss.detach()):.4f}", flush=True)


def main() -> None:
    """Train and write `model.pt`, `vision.pt` and `tokenizer.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("heads", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vision-steps", type=int, default=850)
    parser.add_argument("--text-steps", type=int, default=800)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    arguments.out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save(str(arguments.out / "tokenizer.json"))
    model = VisionLanguageModel(tokenizer.get_vocab_size())
    heads = Heads(arguments.heads)
    if (arguments.out / "model.pt").exists():
        model.load_state_dict(torch.load(arguments.out / "model.pt"))
    train_vision(model, heads, arguments.vision_steps, arguments.out)
    train_text(model, heads, tokenizer, arguments.text_steps)
    torch.save(model.state_dict(), arguments.out / "model.pt")


if __name__ == "__main__":
    main()
