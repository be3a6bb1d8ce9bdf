"""M3D-LaMed's eyes in torch: 3D vision transformer and projector, named as in the checkpoint.

Written to become a fast graph: attention is one operator of ONNX Runtime, pooling is one mean.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone writes it
from torch import Tensor, nn

from inference.export.graphs import ExportError

HEAD_SIZE = 64
"""Of every published vision transformer of this family; no configuration states it."""

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class VolumeGrid:
    """Size of the model's volume and of the patches it is cut into, (slices, rows, columns)."""

    size: Triple
    patch: Triple

    def __post_init__(self) -> None:
        if any(length % step for length, step in zip(self.size, self.patch, strict=True)):
            raise ExportError(f"config.json: image_size {self.size} is no multiple of {self.patch}")

    @property
    def patches(self) -> Triple:
        """Patches along each axis."""
        a, b, c = (length // step for length, step in zip(self.size, self.patch, strict=True))
        return a, b, c


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention of (n, S, W) over (n, T, W) split into `heads`, unmasked: (n, S, W)."""
    if torch.compiler.is_exporting():
        mixed: Tensor = torch.onnx.ops.symbolic(
            "com.microsoft::MultiHeadAttention",
            (query, key, value),
            {"num_heads": heads},
            dtype=query.dtype,
            shape=query.shape,
            version=1,
        )
        return mixed
    split = [x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key, value)]
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Attention among patches; keys as in the checkpoint (`qkv` has no bias)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, S, W) to the same."""
        query, key, value = self.qkv(tokens).chunk(3, dim=2)
        mixed: Tensor = self.out_proj(attend(query, key, value, self.heads))
        return mixed


class FeedForward(nn.Module):
    """Two layers with GELU between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, inner)
        self.linear2 = nn.Linear(inner, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, S, W) to the same."""
        result: Tensor = self.linear2(F.gelu(self.linear1(tokens)))
        return result


class Block(nn.Module):
    """One layer of the vision transformer."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, width // HEAD_SIZE)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, inner)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, S, W) to the same."""
        tokens = tokens + self.attn(self.norm1(tokens))
        result: Tensor = tokens + self.mlp(self.norm2(tokens))
        return result


class VisionTransformer3D(nn.Module):
    """Volumes (n, 1, slices, rows, columns) in 0..1 to patch features (n, patches, W)."""

    def __init__(
        self, grid: VolumeGrid, width: int, inner: int, layers: int, *, class_token: bool
    ) -> None:
        super().__init__()
        self.grid = grid
        self.patch_embedding = nn.Linear(math.prod(grid.patch), width)
        self.position_embeddings = nn.Parameter(torch.zeros(1, math.prod(grid.patches), width))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        self.blocks = nn.ModuleList(Block(width, inner) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, volume: Tensor) -> Tensor:
        """The class token takes part in attention; only the patches come back."""
        (d, h, w), (pd, ph, pw) = self.grid.patches, self.grid.patch
        cut = volume.reshape(-1, d, pd, h, ph, w, pw).permute(0, 1, 3, 5, 2, 4, 6)
        tokens = self.patch_embedding(cut.reshape(-1, d * h * w, pd * ph * pw))
        tokens = tokens + self.position_embeddings
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        patches: Tensor = self.norm(tokens if self.cls_token is None else tokens[:, 1:])
        return patches


class SpatialPoolingProjector(nn.Module):
    """Mean of each cube of neighbouring patches, then two layers to the language model's width."""

    def __init__(self, grid: VolumeGrid, pooling: int, width: int, text_width: int) -> None:
        super().__init__()
        if any(count % pooling for count in grid.patches):
            raise ExportError(f"config.json: {grid.patches} patches cannot be pooled by {pooling}")
        self.grid, self.pooling = grid, pooling
        self.projector = nn.Sequential(
            nn.Linear(width, text_width), nn.GELU(), nn.Linear(text_width, text_width)
        )

    @property
    def tokens(self) -> int:
        """Image tokens to a volume."""
        return math.prod(self.grid.patches) // self.pooling**3

    def forward(self, patches: Tensor) -> Tensor:
        """(n, patches, W) to (n, tokens, text width)."""
        d, h, w = (count // self.pooling for count in self.grid.patches)
        p = self.pooling
        pooled = patches.reshape(-1, d, p, h, p, w, p, patches.shape[2]).mean(dim=(2, 4, 6))
        tokens: Tensor = self.projector(pooled.flatten(1, 3))
        return tokens


class M3DVision(nn.Module):
    """Volume (pictures, 1, slices, rows, columns) to image tokens (pictures, tokens, width)."""

    def __init__(self, tower: VisionTransformer3D, projector: SpatialPoolingProjector) -> None:
        super().__init__()
        self.tower, self.projector = tower, projector

    def forward(self, volume: Tensor) -> Tensor:
        """`volume` is in 0..1."""
        tokens: Tensor = self.projector(self.tower(volume))
        return tokens


def transformer_from(weights: Mapping[str, Tensor], grid: VolumeGrid) -> VisionTransformer3D:
    """The transformer in `weights`, named as MONAI names them; sizes are read from the tensors.

    Layers of cross attention, which newer MONAI stores and never runs, are left aside.
    """
    renamed = {
        name.replace("patch_embedding.patch_embeddings.1.", "patch_embedding.").replace(
            "patch_embedding.position_embeddings", "position_embeddings"
        ): tensor
        for name, tensor in weights.items()
        if "cross_attn" not in name
    }
    try:
        width = renamed["position_embeddings"].shape[2]
        inner = renamed["blocks.0.mlp.linear1.weight"].shape[0]
    except KeyError as error:
        raise ExportError(
            f"the checkpoint has no tensor {error} in its vision transformer. It is incomplete."
        ) from error
    layers = 1 + max(int(name.split(".")[1]) for name in renamed if name.startswith("blocks."))
    if width % HEAD_SIZE:
        raise ExportError(f"vision width {width} is no multiple of the head size {HEAD_SIZE}")
    tower = VisionTransformer3D(grid, width, inner, layers, class_token="cls_token" in renamed)
    load(tower, renamed)
    return tower


def projector_from(
    weights: Mapping[str, Tensor], grid: VolumeGrid, pooling: int
) -> SpatialPoolingProjector:
    """The projector in `weights` (`projector.{0,2}`)."""
    text_width, width = weights["projector.0.weight"].shape
    module = SpatialPoolingProjector(grid, pooling, width, text_width)
    load(module, weights)
    return module


def load(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Every tensor of `module` from `weights`, as fp32; raises ExportError where they differ."""
    module.eval()
    try:
        module.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    except RuntimeError as error:
        raise ExportError(
            f"the checkpoint's tensors are not those of M3D-LaMed: {error}"
        ) from error
