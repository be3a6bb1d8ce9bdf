"""SegVol as M3D-LaMed holds it: a state of the language model to the outline of what it speaks of.

Only what a text prompt reaches is here: points, boxes, masks and the quality head are left out.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone writes it
from torch import Tensor, nn

from inference.export.graphs import ExportError
from inference.export.m3d_modules import (
    VisionTransformer3D,
    VolumeGrid,
    attend,
    load,
    transformer_from,
)

HEADS = 8
MASK_TOKENS = 4
"""Only the first is read; all take part in attention, with the token of mask quality."""


class Attention(nn.Module):
    """Attention of queries over keys, projected to `inner` in between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.out_proj = nn.Linear(inner, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(n, S, W) over (n, T, W): (n, S, W)."""
        mixed = attend(self.q_proj(query), self.k_proj(key), self.v_proj(value), HEADS)
        result: Tensor = self.out_proj(mixed)
        return result


class FeedForward(nn.Module):
    """Two layers with ReLU between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, inner)
        self.lin2 = nn.Linear(inner, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, S, W) to the same."""
        result: Tensor = self.lin2(F.relu(self.lin1(tokens)))
        return result


class TwoWayBlock(nn.Module):
    """Tokens look at each other and at the image, then the image looks at the tokens."""

    def __init__(self, width: int, inner: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = Attention(width, width // 2)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, inner)
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = Attention(width, width // 2)

    def forward(
        self, tokens: Tensor, image: Tensor, token_places: Tensor, image_places: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(n, tokens, W) and (n, patches, W) to the same."""
        placed = tokens if self.first else tokens + token_places
        looked = self.self_attn(placed, placed, tokens)
        # The first layer has nothing to add to: its tokens are the places themselves.
        tokens = self.norm1(looked if self.first else tokens + looked)
        keys = image + image_places
        tokens = tokens + self.cross_attn_token_to_image(tokens + token_places, keys, image)
        tokens = self.norm2(tokens)
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = image + self.cross_attn_image_to_token(keys, tokens + token_places, tokens)
        return tokens, self.norm4(image)


class TwoWayTransformer(nn.Module):
    """The mask decoder's layers."""

    def __init__(self, width: int, inner: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(width, inner, first=index == 0) for index in range(layers)
        )
        self.final_attn_token_to_image = Attention(width, width // 2)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(self, places: Tensor, image: Tensor, image_places: Tensor) -> tuple[Tensor, Tensor]:
        """`places` are the tokens as they came, which also say where they stand."""
        tokens = places
        for layer in self.layers:
            tokens, image = layer(tokens, image, places, image_places)
        looked = self.final_attn_token_to_image(tokens + places, image + image_places, image)
        return self.norm_final_attn(tokens + looked), image


class Upscaling(nn.Module):
    """Patch features (n, patches, W) to features of a grid four times as fine, (n, W/8, ...)."""

    def __init__(self, grid: VolumeGrid, width: int) -> None:
        super().__init__()
        self.grid = grid
        doubled = [2 * count for count in grid.patches]
        self.coarse = nn.ConvTranspose3d(width, width // 4, kernel_size=2, stride=2)
        self.norm = nn.LayerNorm([width // 4, *doubled])
        self.fine = nn.ConvTranspose3d(width // 4, width // 8, kernel_size=2, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        """Axes of the result: (n, channel, slice, row, column)."""
        patches = image.transpose(1, 2).unflatten(2, self.grid.patches)
        fine: Tensor = F.gelu(self.fine(F.gelu(self.norm(self.coarse(patches)))))
        return fine


class MaskHead(nn.Module):
    """Three layers from the mask's token to the weights of its features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width // 8)]
        )

    def forward(self, token: Tensor) -> Tensor:
        """(n, W) to (n, W/8)."""
        first, second, last = self.layers
        result: Tensor = last(F.relu(second(F.relu(first(token)))))
        return result


class MaskDecoder(nn.Module):
    """Features of the image and prompts to mask logits on the grid of `Upscaling`."""

    def __init__(self, grid: VolumeGrid, width: int, inner: int, layers: int) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(width, inner, layers)
        self.iou_token = nn.Parameter(torch.zeros(1, width))
        self.mask_tokens = nn.Parameter(torch.zeros(MASK_TOKENS, width))
        self.upscaling = Upscaling(grid, width)
        self.mask_head = MaskHead(width)
        self.text_head = nn.Linear(width, width // 8)

    def forward(self, image: Tensor, image_places: Tensor, prompt: Tensor) -> Tensor:
        """Image (1, patches, W) and prompts (n, W) to (n, slices, rows, columns)."""
        own = torch.cat([self.iou_token, self.mask_tokens]).unsqueeze(0)
        tokens = torch.cat([own.expand(prompt.shape[0], -1, -1), prompt.unsqueeze(1)], dim=1)
        image = image.expand(prompt.shape[0], -1, -1)
        places = image_places.expand(prompt.shape[0], -1, -1)
        tokens, image = self.transformer(tokens, image, places)
        # Both scores are products with the same features: their weights are added instead.
        weights = self.mask_head(tokens[:, 1]) + self.text_head(prompt)
        fine = self.upscaling(image)
        return (weights.unsqueeze(1) @ fine.flatten(2)).unflatten(2, fine.shape[2:]).squeeze(1)


class SegVol(nn.Module):
    """Volume (1, 1, slices, rows, columns) and states (n, text width) to logits of n masks."""

    def __init__(
        self,
        encoder: VisionTransformer3D,
        decoder: MaskDecoder,
        places: Tensor,
        no_mask: Tensor,
        projector: nn.Sequential,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.projector = encoder, decoder, projector
        self.places: Tensor
        self.no_mask: Tensor
        self.register_buffer("places", places)
        self.register_buffer("no_mask", no_mask)

    def forward(self, volume: Tensor, prompt: Tensor) -> Tensor:
        """Logits (n, slices, rows, columns) on the volume's grid."""
        image = self.encoder(volume) + self.no_mask
        coarse = self.decoder(image, self.places, self.projector(prompt))
        size = self.encoder.grid.size
        fine = F.interpolate(coarse.unsqueeze(1), size, mode="trilinear", align_corners=False)
        return fine.squeeze(1)


def segvol_from(
    weights: Mapping[str, Tensor], projector_weights: Mapping[str, Tensor], grid: VolumeGrid
) -> SegVol:
    """SegVol from the checkpoint's `seg_module.*` and the two layers of its `seg_projector.*`."""
    try:
        text_width = projector_weights["0.weight"].shape[0]
        width = projector_weights["2.weight"].shape[0]
        frequencies = weights["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
        no_mask = weights["prompt_encoder.no_mask_embed.weight"]
    except KeyError as error:
        raise ExportError(f"the checkpoint has no {error} for SegVol. It is incomplete.") from error
    projector = nn.Sequential(
        nn.Linear(text_width, text_width), nn.ReLU(), nn.Linear(text_width, width)
    )
    load(projector, projector_weights)
    encoder = transformer_from(_below(weights, "image_encoder."), grid)
    decoder = _mask_decoder_from(_below(weights, "mask_decoder."), grid, width)
    places = patch_places(frequencies.float(), grid)
    return SegVol(encoder, decoder, places, no_mask.float(), projector)


def patch_places(frequencies: Tensor, grid: VolumeGrid) -> Tensor:
    """Sines and cosines (1, patches, W) of where each patch stands; `frequencies` (3, W/2)."""
    slices, rows, columns = ((torch.arange(count) + 0.5) / count for count in grid.patches)
    a, b, c = torch.meshgrid(slices, rows, columns, indexing="ij")
    # The published code was written for (height, width, depth): axis 1 comes before axis 0.
    angles = 2 * torch.pi * (2 * torch.stack([b, a, c], dim=-1) - 1) @ frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(0, 2).unsqueeze(0)


def _mask_decoder_from(weights: Mapping[str, Tensor], grid: VolumeGrid, width: int) -> MaskDecoder:
    names = {
        "iou_token.weight": "iou_token",
        "mask_tokens.weight": "mask_tokens",
        "output_upscaling.0.": "upscaling.coarse.",
        "output_upscaling.1.": "upscaling.norm.",
        "output_upscaling.3.": "upscaling.fine.",
        "output_hypernetworks_mlps.0.": "mask_head.",
        "txt_align_upscaled_embedding.": "text_head.",
        "transformer.": "transformer.",
    }
    renamed = {
        own + name.removeprefix(published): tensor
        for name, tensor in weights.items()
        for published, own in names.items()
        if name.startswith(published)
    }
    first = renamed.get("transformer.layers.0.mlp.lin1.weight")
    if first is None:
        raise ExportError("the checkpoint has no mask decoder for SegVol. It is incomplete.")
    layers = len({name.split(".")[2] for name in renamed if name.startswith("transformer.layers.")})
    decoder = MaskDecoder(grid, width, first.shape[0], layers)
    load(decoder, renamed)
    return decoder


def _below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }
