"""Where sampling starts: noise that may know the first frame, behind one contract (`base.StartNoise`)."""
