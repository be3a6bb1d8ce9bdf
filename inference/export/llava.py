"""LLaVA-Med 1.5, HuatuoGPT-Vision 7B and 34B, and Qilin-Med-VL in their published layout.

One shape, three conversations: CLIP patches through a small projector in place of a placeholder
in the prompt of a Mistral, Qwen2 or Llama decoder.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from inference.assessment import Text
from inference.export.answers import end_ids, yes_and_no
from inference.export.checkpoint import Checkpoint
from inference.export.converted import Converted
from inference.export.decoder import export_decoder
from inference.export.graphs import ExportError
from inference.export.json_file import read_settings
from inference.export.llava_vision import (
    INSIDE,
    PROJECTOR,
    LlavaVision,
    export_vision,
    llava_vision,
    tower_folder,
)
from inference.manifest import KeySlices, Precision, Prompts, Splice

FAMILY = "llava"
DECODERS = {
    "llava_mistral": "mistral",
    "llava_qwen2": "qwen2",
    "llava_llama": "llama",
    "llava": "llama",
}
"""Published model type -> the language model inside."""

CLASSES = {
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "llama": "LlamaForCausalLM",
}
YI_VOCABULARY = 64000
"""HuatuoGPT-Vision-34B has the type of any LLaVA on Llama; Yi's vocabulary tells it apart."""

NOT_TEXT = ("mm_", "image_", "tune_mm", "freeze_mm", "use_mm", "vision_", "auto_map", "_name")
"""Beginnings of settings that are not the language model's."""

SOFT_TISSUE_HU = (-160.0, 240.0)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
PRIOR_PICTURES = 1
TEXT_ROOM = 1024
"""Positions kept for the questions: the prompt, the clinical context, a batch of packed ones."""

MAX_NEW_TOKENS = 512


@dataclass(frozen=True)
class Conversation:
    """How a model of the family was taught to be asked."""

    template: str
    begins: bool
    """With the token that begins a sequence."""
    presentation: Literal["images", "montage"]
    count: int
    repetition_penalty: float = 1.0


LLAVA_MED = Conversation("[INST] {image}\n{question} [/INST]", True, "montage", 4)
# Its published chat takes six images at most; one is kept for a prior examination.
HUATUO = Conversation("<|user|>\n{image}\n{question}\n<|assistant|>\n", False, "images", 5, 1.2)
LLAVA_V1 = Conversation(
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions. "
    "USER: {image}\n{question} ASSISTANT:",
    True,
    "montage",
    4,
)

NARRATIVE = Text(
    en="These are slices of one scan. Describe what they show, then give your impression, as in "
    "a radiology report.",
    zh="以上是同一次扫描的层面。请按放射学报告的形式描述影像所见，并给出诊断印象。",
)
STRUCTURED = "These are slices of one scan. Report its findings as JSON."


def recognises(config: dict[str, Any]) -> bool:
    """Whether a checkpoint with this config.json is of the family."""
    return config.get("model_type") in DECODERS and "mm_vision_tower" in config


def convert(
    checkpoint: Checkpoint,
    out: Path,
    precision: Precision,
    device: Literal["cpu", "cuda"],
    tell: Callable[[str], None],
) -> Converted:
    """Write the graphs and the tokenizer into the folder `out`; raises ExportError."""
    config = checkpoint.config
    if config.get("mm_use_im_start_end"):
        raise ExportError(f"{checkpoint.folder}: mm_use_im_start_end is set, which is not known.")
    conversation = _conversation(config)
    tokenizer = Tokenizer.from_file(str(checkpoint.write_tokenizer(out)))
    vision = llava_vision(checkpoint)
    spec = _preprocessing(checkpoint, vision, conversation)
    tokens = vision.encoder.embeddings.num_patches
    shown = 1 if spec.presentation == "montage" else spec.count
    length = (shown + PRIOR_PICTURES) * tokens + TEXT_ROOM + MAX_NEW_TOKENS
    vision_error = export_vision(vision, out / "vision.onnx", tell)
    del vision  # before the decoder needs the memory
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        text_model = Path(scratch) / checkpoint.folder.name
        checkpoint.write_text_model(_text_names(checkpoint), _text_config(config), text_model, tell)
        decoder = export_decoder(
            text_model, out, precision, device=device, max_length=length, tell=tell
        )
    return Converted(
        family=FAMILY,
        preprocessing=spec,
        splice=Splice(kind="placeholder", tokens=tokens),
        prompts=_prompts(checkpoint, tokenizer, conversation),
        decoder=decoder.shape,
        parity_error=max(vision_error, decoder.parity_error),
        tools=decoder.tools,
    )


def _conversation(config: dict[str, Any]) -> Conversation:
    kind = DECODERS[config["model_type"]]
    if kind == "mistral":
        return LLAVA_MED
    if kind == "qwen2" or config.get("vocab_size") == YI_VOCABULARY:
        return HUATUO
    return LLAVA_V1


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    kind = DECODERS[config["model_type"]]
    kept = {key: value for key, value in config.items() if not key.startswith(NOT_TEXT)}
    return kept | {"model_type": kind, "architectures": [CLASSES[kind]]}


def _text_names(checkpoint: Checkpoint) -> dict[str, str]:
    """Names of the language model's tensors: those of its own class, as published."""
    other = (INSIDE, PROJECTOR)
    tied = checkpoint.config.get("tie_word_embeddings", False)
    return {
        name: name
        for name in sorted(checkpoint.names())
        if not name.startswith(other)
        and not name.endswith("rotary_emb.inv_freq")  # reckoned, though old checkpoints store it
        and not (tied and name == "lm_head.weight")
    }


def _preprocessing(
    checkpoint: Checkpoint, vision: LlavaVision, conversation: Conversation
) -> KeySlices:
    tower = tower_folder(checkpoint) or checkpoint.folder
    settings = read_settings(tower / "preprocessor_config.json")
    tokens = vision.encoder.embeddings.num_patches
    longest = checkpoint.config["max_position_embeddings"]
    longest = min(longest, checkpoint.config.get("sliding_window") or longest)
    fits = (longest - TEXT_ROOM - MAX_NEW_TOKENS) // tokens - PRIOR_PICTURES
    if fits < 1:
        raise ExportError(
            f"{checkpoint.folder}: the model sees {longest} positions, too few for a picture of "
            f"{tokens} tokens, a prior one and the questions."
        )
    montage = conversation.presentation == "montage"
    return KeySlices(
        modalities=("CT", "MR"),
        window=SOFT_TISSUE_HU,
        size=vision.encoder.config.image_size,
        interpolation="bicubic",
        mean=settings.get("image_mean", CLIP_MEAN),
        std=settings.get("image_std", CLIP_STD),
        rule="uniform",
        count=conversation.count if montage else min(conversation.count, fits),
        presentation=conversation.presentation,
    )


def _prompts(checkpoint: Checkpoint, tokenizer: Tokenizer, conversation: Conversation) -> Prompts:
    yes, no = yes_and_no(tokenizer)
    return Prompts(
        template=conversation.template,
        picture_separator="\n",
        context="Clinical information: {context}\n",
        narrative=NARRATIVE,
        structured=STRUCTURED,
        first_ids=(checkpoint.config["bos_token_id"],) if conversation.begins else (),
        stop_ids=_stop_ids(checkpoint, tokenizer),
        yes_ids=yes,
        no_ids=no,
        max_new_tokens=MAX_NEW_TOKENS,
        repetition_penalty=conversation.repetition_penalty,
    )


def _stop_ids(checkpoint: Checkpoint, tokenizer: Tokenizer) -> tuple[int, ...]:
    """What ends an answer by the model's settings, its generation's, or its tokenizer's."""
    generation = read_settings(checkpoint.folder / "generation_config.json")
    found = end_ids(checkpoint.config, generation)
    token = read_settings(checkpoint.folder / "tokenizer_config.json").get("eos_token")
    content = token.get("content") if isinstance(token, dict) else token
    number = None if content is None else tokenizer.token_to_id(content)
    if number is not None:
        found.add(number)
    if not found:
        raise ExportError(f"{checkpoint.folder}: no eos_token_id says what ends an answer.")
    return tuple(sorted(found))
