"""The world `blocks`: scenes in the manner of CATER-GEN (v1, v2), with captions, positions and masks.

    scene.py    what is there and how it moves; the official scene file
    shapes.py   where rays meet a sphere, cylinder, cone, cube and snitch
    camera.py   from the world to the picture and back
    render.py   scene => frames and masks: a ray caster with soft shadows and one reflection
    folder.py   clip by clip into CATER-GEN's layout

The captions' grammar is in `motionloom.datasets.cater_captions`, since the reader of the official set needs it too.
"""
