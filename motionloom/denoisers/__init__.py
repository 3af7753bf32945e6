"""The networks that predict noise, velocity or flow, behind one contract (`base.Denoiser`)."""
