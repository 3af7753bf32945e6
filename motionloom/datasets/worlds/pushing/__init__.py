"""The world `pushing`: a gripper moves at random over a tray and pushes what it meets, in BAIR's form.

physics.py   the tray, the things in it, the gripper: positions over time
render.py    positions => pictures of two cameras
folder.py    trajectories as TFRecords in BAIR's layout
"""
