"""Clips and pictures: read, write, resize, resample in time. Nothing here needs torch."""
