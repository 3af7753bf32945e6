"""The decoder of a picture autoencoder with the widths of LaMD's: what an image or frame-by-frame latent needs."""

from __future__ import annotations

from torch import Tensor, nn

from motionloom.codecs.mcd_vae import Residual2d, SelfAttention2d, group_norm


class PictureDecoder(nn.Module):
    """(B, d, h, w) => (B, 3, 4 h, 4 w): the latent-diffusion f4 decoder, widths (4c, 2c, c), three blocks a level."""

    def __init__(self, base: int = 128, latent_channels: int = 3) -> None:
        super().__init__()
        w1, w2, w3 = base, 2 * base, 4 * base
        self.layers = nn.Sequential(
            nn.Conv2d(latent_channels, w3, 3, padding=1),
            *(Residual2d(w3, w3), SelfAttention2d(w3), Residual2d(w3, w3)),
            *(Residual2d(w3, w3) for _ in range(3)),
            *(nn.Upsample(scale_factor=2.0), nn.Conv2d(w3, w3, 3, padding=1)),
            *(Residual2d(w3, w2), Residual2d(w2, w2), Residual2d(w2, w2)),
            *(nn.Upsample(scale_factor=2.0), nn.Conv2d(w2, w2, 3, padding=1)),
            *(Residual2d(w2, w1), Residual2d(w1, w1), Residual2d(w1, w1)),
            *(group_norm(w1), nn.SiLU(), nn.Conv2d(w1, 3, 3, padding=1)),
        )

    def forward(self, latents: Tensor) -> Tensor:
        picture: Tensor = self.layers(latents)
        return picture
