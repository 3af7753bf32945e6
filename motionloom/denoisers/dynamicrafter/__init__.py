"""DynamiCrafter (arXiv 2310.12190), image + text -> video, rebuilt on diffusers and transformers parts.

unet.py         the video network, and the door `dynamicrafter_unet`
parts.py        all networks of the model, sized by one configuration
official.py     the official checkpoint's names <=> ours
checkpoint.py   an official checkpoint -> a folder, tensor by tensor
folder.py       a folder of ours <=> the parts
base.py         the base: photo -> clip
"""
