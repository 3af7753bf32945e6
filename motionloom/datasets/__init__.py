"""Samples to train on: folders of clips, cached latents, synthetic motion."""
