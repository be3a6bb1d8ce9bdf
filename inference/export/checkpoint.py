"""A checkpoint as it is published: its configuration, and its tensors read one at a time.

Safetensors or torch's .bin, in one file or in shards named by an index. A model of 30 GB passes
through without ever being in memory at once.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from inference.export.graphs import ExportError
from inference.export.json_file import read_json
from inference.export.tokenizer import TOKENIZER_FILES, write_tokenizer

LAYOUTS = (
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
)
"""Index of the shards, or the one file there is; the first layout found is read."""

SHARD_BYTES = 2_000_000_000
READ_BYTES = 1 << 24


class Checkpoint:
    """A folder with `config.json` and weights; raises ExportError where either cannot be had.

    `vision_tower` is the folder of the image encoder's own checkpoint, for models whose
    checkpoint names one instead of holding its weights.
    """

    def __init__(self, folder: Path, vision_tower: Path | None = None) -> None:
        self.folder = folder
        self.vision_tower = vision_tower
        self.config: dict[str, Any] = read_json(folder / "config.json")
        self._index_file, self._file_of = _weight_map(folder)
        self._open: dict[Path, _Shard] = {}

    def names(self) -> frozenset[str]:
        """Names of the tensors."""
        return frozenset(self._file_of)

    def tensor(self, name: str) -> Tensor:
        """One tensor, in the type in which it is stored, on the CPU."""
        if name not in self._file_of:
            raise ExportError(
                f"{self.folder}: there is no tensor {name}. This is not the published layout of "
                f"a {self.config.get('model_type', 'known')} model, or a part of it is missing."
            )
        path = self._file_of[name]
        if path not in self._open:
            self._open[path] = _open_shard(path)
        return self._open[path].tensor(name)

    def tensors(self, names: Mapping[str, str]) -> dict[str, Tensor]:
        """Tensors under the names on the left, read by the names on the right, as fp32."""
        return {new: self.tensor(old).float() for new, old in names.items()}

    def digest(self) -> str:
        """SHA-256 over configuration, tokenizer and weights, those of the vision tower included."""
        files = {self.folder / "config.json", *self._file_of.values()}
        files |= {self.folder / name for name in TOKENIZER_FILES}
        if self._index_file is not None:
            files.add(self._index_file)
        total = hashlib.sha256()
        for path in sorted(files):
            if path.is_file():
                total.update(f"{_sha256(path)}  {path.name}\n".encode())
        if self.vision_tower is not None:
            total.update(Checkpoint(self.vision_tower).digest().encode())
        return total.hexdigest()

    def write_tokenizer(self, folder: Path) -> Path:
        """Write the whole tokenizer as `tokenizer.json` into `folder`; raises ExportError."""
        return write_tokenizer(self.folder, folder)

    def write_text_model(
        self,
        names: Mapping[str, str],
        config: Mapping[str, Any],
        folder: Path,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Write the language model alone as a Hugging Face checkpoint, for the decoder's export.

        `names` maps the new name of each tensor to its name here; types stay as they are.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        where: dict[str, str] = {}
        shard: dict[str, Tensor] = {}
        total = filled = 0
        for new, old in names.items():
            tensor = self.tensor(old).contiguous()
            size = tensor.numel() * tensor.element_size()
            if shard and filled + size > SHARD_BYTES:
                _save_shard(shard, folder, where)
                tell(f"{total / 1e9:.0f} GB of the language model copied")
                shard, filled = {}, 0
            shard[new] = tensor
            filled, total = filled + size, total + size
        _save_shard(shard, folder, where)
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / LAYOUTS[0][0]).write_text(json.dumps(index, indent=1))


def _weight_map(folder: Path) -> tuple[Path | None, dict[str, Path]]:
    """The index, if there is one, and the file of each tensor."""
    for index, single in LAYOUTS:
        if (folder / index).is_file():
            listed = read_json(folder / index).get("weight_map")
            if not isinstance(listed, dict) or not listed:
                raise ExportError(f"{folder / index} has no weight_map. Download it again.")
            where = {name: folder / str(file) for name, file in listed.items()}
            missing = sorted({path.name for path in where.values() if not path.is_file()})
            if missing:
                raise ExportError(
                    f"{folder}: {', '.join(missing)} named in {index} is missing. "
                    "Download the whole checkpoint folder."
                )
            return folder / index, where
        if (folder / single).is_file():
            return None, dict.fromkeys(_open_shard(folder / single).names, folder / single)
    raise ExportError(
        f"{folder}: no weights found, neither {LAYOUTS[0][1]} nor {LAYOUTS[1][1]} nor an index "
        "of shards. Download the whole checkpoint folder."
    )


class _Shard:
    """One open file of weights; `read` gives a tensor by name."""

    def __init__(self, path: Path, names: frozenset[str], read: Callable[[str], Tensor]) -> None:
        self._path = path
        self.names = names
        self._read = read

    def tensor(self, name: str) -> Tensor:
        if name not in self.names:
            raise ExportError(
                f"{self._path} does not hold {name}, which the index says it does. "
                "Download the file and its index again."
            )
        return self._read(name)


def _open_shard(path: Path) -> _Shard:
    try:
        if path.suffix == ".safetensors":
            handle: Any = safe_open(path, framework="pt")
            return _Shard(path, frozenset(handle.keys()), handle.get_tensor)
        stored = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ExportError(
            f"{path} is not a whole file of weights ({error}). Download it again; if it is some "
            "hundred bytes long, it is a pointer of Git LFS."
        ) from error
    if not isinstance(stored, dict):
        raise ExportError(f"{path} holds no tensors by name. This is not a published checkpoint.")
    return _Shard(path, frozenset(stored), stored.__getitem__)


def _save_shard(shard: dict[str, Tensor], folder: Path, where: dict[str, str]) -> None:
    name = f"model-{len(set(where.values())) + 1:05d}.safetensors"
    save_file(shard, folder / name, metadata={"format": "pt"})
    where.update(dict.fromkeys(shard, name))


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            total.update(block)
    return total.hexdigest()
