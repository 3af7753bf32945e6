"""What a denoiser is told: tokens of the picture, words, motions."""
