"""`MotionUNet` on every frame, and attention over time after every block: the factorised video U-Net."""

from __future__ import annotations

from torch import Tensor, nn

from motionloom.denoisers.motion_unet import (
    Attention,
    Context,
    MotionUNet,
    MotionUNetConfig,
    Size,
    UNetBlock,
    zeroed,
)


class VideoUNet(nn.Module):
    """(B, C, T, h, w) and (B,) => (B, C', T, h, w).

    Args:
        config: of the network that every frame passes; its condition is joined to its input, as video diffusion does it.
    """

    def __init__(self, config: MotionUNetConfig) -> None:
        super().__init__()
        self.unet = MotionUNet(config)
        for blocks in (self.unet.down, self.unet.middle, self.unet.up):
            for index, block in enumerate(blocks):
                assert isinstance(block, UNetBlock)
                blocks[index] = InTime(block, config.heads)

    def forward(self, latents: Tensor, timestep: Tensor) -> Tensor:
        batch, _, num_frames = latents.shape[:3]
        for module in self.unet.modules():
            if isinstance(module, InTime):
                module.num_frames = num_frames
        frames = latents.transpose(1, 2).flatten(0, 1)  # (B T, C, h, w)
        prediction: Tensor = self.unet(frames, timestep.repeat_interleave(num_frames))
        return prediction.unflatten(0, (batch, num_frames)).transpose(1, 2)


class InTime(nn.Module):
    """A block, then self-attention over time at every place, residual."""

    def __init__(self, block: UNetBlock, heads: int) -> None:
        super().__init__()
        width = block.residual.conv_out.out_channels
        self.block, self.resize, self.num_frames = block, block.resize, 1
        self.norm = nn.LayerNorm(width)
        self.attend = Attention(width, width, heads)
        self.out = zeroed(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor, time: Tensor, context: Context | None, size: Size | None = None) -> Tensor:
        """(B T, c, h, w) -> (B T, c', h', w')."""
        x = self.block(x, time, context, size)
        height, width = x.shape[-2:]
        rows = x.unflatten(0, (-1, self.num_frames)).permute(0, 3, 4, 1, 2)  # (B, h, w, T, c)
        tokens = self.norm(rows.flatten(0, 2))
        read = self.attend(tokens, tokens).unflatten(0, (-1, height, width))
        return x + self.out(read.permute(0, 3, 4, 1, 2).flatten(0, 1))
