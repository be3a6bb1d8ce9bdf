"""The tokenizer of a checkpoint as one `tokenizer.json`, whatever files it was published as."""

from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers.convert_slow_tokenizer import generate_merges

from inference.export.graphs import ExportError
from inference.export.json_file import read_json

WHOLE, SENTENCEPIECE, SETTINGS, ADDED = TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "added_tokens.json",
)
SPACE = "▁"
SAMPLES = (
    "[INST] Is there a haemorrhage? Answer yes or no. [/INST]",
    "\nUSER: 12.5 mm, right-sided;  two  spaces\nASSISTANT:",
    "<|user|>\n右侧基底节区见高密度影，约3毫升。\n",
)
"""A converted tokenizer must split these as SentencePiece does."""


def write_tokenizer(checkpoint: Path, folder: Path) -> Path:
    """Write `tokenizer.json` into `folder`, with every added token; raises ExportError."""
    if (checkpoint / WHOLE).is_file():
        tokenizer = _read(checkpoint / WHOLE)
    elif (checkpoint / SENTENCEPIECE).is_file():
        tokenizer = from_sentencepiece(checkpoint / SENTENCEPIECE)
    else:
        raise ExportError(
            f"{checkpoint}: neither tokenizer.json nor tokenizer.model is there. "
            "Download the whole checkpoint folder."
        )
    _add_tokens(tokenizer, checkpoint)
    written = folder / WHOLE
    tokenizer.save(str(written))
    return written


def from_sentencepiece(model: Path) -> Tokenizer:
    """A BPE tokenizer of SentencePiece, as Llama, Mistral and Yi have it; proved on `SAMPLES`."""
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    except (OSError, RuntimeError) as error:
        raise ExportError(f"{model} cannot be read ({error}). Download it again.") from error
    size = pieces.get_piece_size()
    vocabulary = {pieces.id_to_piece(number): number for number in range(size)}
    plain = [n for n in range(size) if not (pieces.is_control(n) or pieces.is_unknown(n))]
    scores = {pieces.id_to_piece(n): pieces.get_score(n) for n in plain if not pieces.is_byte(n)}
    tokenizer = Tokenizer(
        BPE(
            vocabulary,
            generate_merges(vocabulary, scores),
            unk_token=pieces.id_to_piece(pieces.unk_id()),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefixed = pieces.encode("a", out_type=str)[0].startswith(SPACE)
    spaces = [normalizers.Replace(" ", SPACE)]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), *spaces] if prefixed else spaces
    )
    joined = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(
        [*joined, decoders.Strip(" ", 1, 0)] if prefixed else joined
    )
    tokenizer.add_special_tokens(
        [
            AddedToken(pieces.id_to_piece(n), normalized=False, special=True)
            for n in range(size)
            if pieces.is_control(n) or pieces.is_unknown(n)
        ]
    )
    for sample in SAMPLES:
        if tokenizer.encode(sample, add_special_tokens=False).ids != pieces.encode(sample):
            raise ExportError(
                f"{model}: the converted tokenizer splits {sample!r} differently. Publish the "
                "checkpoint's tokenizer.json with it; this kind of SentencePiece is not known."
            )
    return tokenizer


def _read(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:
        # tokenizers raises Exception itself.
        raise ExportError(f"{path} cannot be read ({error}). Download it again.") from error


def _add_tokens(tokenizer: Tokenizer, folder: Path) -> None:
    """Tokens that the checkpoint keeps beside its tokenizer; each must get the id it was given."""
    wanted: dict[int, AddedToken] = {}
    if (folder / ADDED).is_file():
        for content, number in read_json(folder / ADDED).items():
            wanted[number] = AddedToken(content, normalized=False, special=True)
    if (folder / SETTINGS).is_file():
        described = read_json(folder / SETTINGS).get("added_tokens_decoder", {})
        for number, token in described.items():
            wanted[int(number)] = _added_token(token)
    for number, token in sorted(wanted.items()):
        if tokenizer.token_to_id(token.content) is None:
            tokenizer.add_tokens([token])
        if tokenizer.token_to_id(token.content) != number:
            raise ExportError(
                f"{folder}: token {token.content!r} should be number {number}, the tokenizer "
                f"makes it {tokenizer.token_to_id(token.content)}. It is of another model."
            )


def _added_token(described: dict[str, Any]) -> AddedToken:
    return AddedToken(
        described["content"],
        lstrip=described.get("lstrip", False),
        rstrip=described.get("rstrip", False),
        single_word=described.get("single_word", False),
        normalized=described.get("normalized", False),
        special=described.get("special", False),
    )
