"""The built-in vision-language model in torch: vision encoder, mask head, projector, decoder.

Volumes are (batch, windows, slice, row, column) on the model grid; see `inference.preprocess`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

WINDOWS = 2
GRID = (64, 80, 64)
TOKEN_GRID = (4, 5, 4)
IMAGE_TOKENS = 80
WIDTHS = (16, 32, 64)
FEATURES = WIDTHS[2] + 3 + 3
"""Per image token: pooled features, three statistics of the mask, three coordinates."""

D_MODEL, HEADS, LAYERS = 128, 4, 4
HEAD_SIZE = D_MODEL // HEADS
MAX_POSITIONS = 192


def _block(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inside, outside, 3, stride, 1, bias=False),
        nn.BatchNorm3d(outside, momentum=0.05),
        nn.ReLU(inplace=True),
    )


class Vision(nn.Module):
    """Three-level U-Net: mask logits on the grid, features for the image tokens."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c = WIDTHS
        self.stem = nn.Sequential(
            nn.Conv3d(WINDOWS, a, 4, 2, 1, bias=False), nn.BatchNorm3d(a, momentum=0.05), nn.ReLU()
        )
        self.level1 = _block(a, a)
        self.level2 = nn.Sequential(_block(a, b, 2), _block(b, b))
        self.level3 = nn.Sequential(_block(b, c, 2), _block(c, c), _block(c, c))
        self.up2 = nn.ConvTranspose3d(c, b, 2, 2)
        self.join2 = _block(b, b)
        self.up1 = nn.ConvTranspose3d(b, a, 2, 2)
        self.join1 = _block(a, a)
        self.mask = nn.ConvTranspose3d(a, 1, 2, 2)
        self.occupancy = nn.Linear(c, 1)
        nn.init.constant_(self.mask.bias, -3.0)

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Mask logits (B, S, R, C) and pooled features (B, tokens, channels)."""
        one = self.level1(self.stem(volume))
        two = self.level2(one)
        three = self.level3(two)
        two = self.join2(self.up2(three) + two)
        one = self.join1(self.up1(two) + one)
        pooled = functional.avg_pool3d(three, 2).flatten(2).transpose(1, 2)
        return self.mask(one).squeeze(1), pooled


class ImageTokens(nn.Module):
    """Pooled features, mask statistics and coordinates of each token, (B, tokens, FEATURES)."""

    coordinates: Tensor

    def __init__(self) -> None:
        super().__init__()
        axes = [torch.linspace(-1, 1, extent) for extent in TOKEN_GRID]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(1, IMAGE_TOKENS, 3)
        self.register_buffer("coordinates", grid)

    def forward(self, logits: Tensor, pooled: Tensor) -> Tensor:
        """Describe each cell of the token grid."""
        probability = torch.sigmoid(logits).unsqueeze(1)
        peak = functional.max_pool3d(probability, 16).flatten(2).transpose(1, 2)
        mean = functional.avg_pool3d(probability, 16).flatten(2).transpose(1, 2)
        place = self.coordinates + torch.zeros_like(peak)
        return torch.cat([pooled, peak, mean, torch.log1p(200 * mean), place], -1)


class Projector(nn.Module):
    """Image-token descriptions to the decoder's embedding space."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(FEATURES),
            nn.Linear(FEATURES, D_MODEL),
            nn.GELU(),
            nn.Linear(D_MODEL, D_MODEL),
        )
        self.raw = nn.Linear(6, D_MODEL)

    def forward(self, described: Tensor) -> Tensor:
        """(B, tokens, FEATURES) to (B, tokens, D_MODEL)."""
        return self.layers(described) + self.raw(described[..., -6:])


class DecoderLayer(nn.Module):
    """Pre-norm causal attention with a key-value cache, then a feed-forward block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(D_MODEL), nn.LayerNorm(D_MODEL)
        self.qkv = nn.Linear(D_MODEL, 3 * D_MODEL)
        self.out = nn.Linear(D_MODEL, D_MODEL)
        self.feed = nn.Sequential(
            nn.Linear(D_MODEL, 4 * D_MODEL), nn.GELU(), nn.Linear(4 * D_MODEL, D_MODEL)
        )

    def forward(
        self, x: Tensor, past_key: Tensor, past_value: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, S, D), past (B, H, P, size), mask (S, P + S) -> x and the extended cache."""
        batch, length, _ = x.shape
        split = self.qkv(self.norm1(x)).reshape(batch, length, 3, HEADS, HEAD_SIZE)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
        score = query @ key.transpose(2, 3) * HEAD_SIZE**-0.5 + mask
        mixed = (torch.softmax(score, -1) @ value).transpose(1, 2).reshape(batch, length, D_MODEL)
        x = x + self.out(mixed)
        return x + self.feed(self.norm2(x)), key, value


class Decoder(nn.Module):
    """Autoregressive text decoder over spliced embeddings."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.position = nn.Embedding(MAX_POSITIONS, D_MODEL)
        self.layers = nn.ModuleList(DecoderLayer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(D_MODEL)
        self.head = nn.Linear(D_MODEL, vocabulary, bias=False)

    def forward(
        self, embeds: Tensor, past_keys: Tensor, past_values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """embeds (B, S, D), past (LAYERS, B, H, P, size) -> logits (B, S, V), present cache."""
        past, length = past_keys.shape[3], embeds.shape[1]
        here = torch.arange(length, device=embeds.device) + past
        there = torch.arange(past + length, device=embeds.device)
        mask = torch.where(there[None, :] <= here[:, None], 0.0, -1e4)
        x = embeds + self.position(here)[None]
        keys, values = [], []
        for index, layer in enumerate(self.layers):
            x, key, value = layer(x, past_keys[index], past_values[index], mask)
            keys.append(key)
            values.append(value)
        return self.head(self.norm(x)), torch.stack(keys), torch.stack(values)


class VisionLanguageModel(nn.Module):
    """The whole model."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vision = Vision()
        self.tokens = ImageTokens()
        self.projector = Projector()
        self.embed = nn.Embedding(vocabulary, D_MODEL)
        self.decoder = Decoder(vocabulary)

    def text_logits(self, described: Tensor, ids: Tensor) -> Tensor:
        """Logits (B, T, S, V) for T texts `ids` (B, T, S) about each image (B, tokens, features).

        The image is read once and its cache shared by the texts, as at inference.
        """
        batch, texts, _ = ids.shape
        empty = described.new_zeros(LAYERS, batch, HEADS, 0, HEAD_SIZE)
        _, keys, values = self.decoder(self.projector(described), empty, empty)
        logits, _, _ = self.decoder(
            self.embed(ids).flatten(0, 1),
            keys.repeat_interleave(texts, 1),
            values.repeat_interleave(texts, 1),
        )
        return logits.unflatten(0, (batch, texts))
