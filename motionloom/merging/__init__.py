"""Arithmetic on weights: from checkpoints to a checkpoint that moves more, or obeys more.

linear, sparse, signs, angles, statistics, low_rank    one family of methods each, on tensors
draws          which entries a random mask keeps: a function of seed and tensor name alone
decoupling     Extrapolate & Decouple: the doors `extrapolate` and `decouple`
methods        the same methods as sections of a recipe
groups         parts of a network by tensor names
checkpoint     weights on disk as a lazy mapping, whatever their form
streaming      inputs => merged files, piece by piece
pipeline       threads that read, merge, hash and write at the same time
exports        a merge as a difference file, a LoRA, or for ComfyUI
sweep          one number of a recipe tried at several values, measured on photos
recipe         the YAML file that says all of it
"""
