"""Peers of LaMD made of LaMD's own layers, so that a comparison of cost compares what is compressed and nothing else.

    latent image    MotionUNet on the latent of one picture; a picture decoder
    latent video    the same network on every frame's latent, with attention over time; the picture decoder on every frame
    pixel video     the same network on the frames themselves, with attention over time; no decoder

Only cost is compared: none of them is trained, and none is part of the package.
"""
