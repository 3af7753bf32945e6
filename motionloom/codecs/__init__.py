"""Pixels <=> latents: image, video and motion autoencoders behind one contract (`base.Codec`)."""
