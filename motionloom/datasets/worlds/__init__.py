"""Worlds: small scenes with known causes, rendered by ourselves, unlimited, with the truth beside every clip.

blocks/     CATER-GEN's look-alike: shapes that slide, rotate, are picked up, contain; captions in its grammar
pushing/    BAIR's look-alike: a gripper that pushes things on a table, seen by two cameras
write.py    a world => a folder in the data set's own layout: parallel, resumable, the same bytes from the same seed
measure.py  what a clip of `blocks` shows, found by tracking, against what its caption says
"""
