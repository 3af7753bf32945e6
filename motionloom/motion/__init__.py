"""Motion as data: the units of flow, camera paths, and warping a picture by a flow.

Flow is *backward* and in *frame units*: frame t shows at place x what the photo showed at x + flow(x), and 1 is the
square root of the frame's area, the same for both axes, so a flow means the same motion at every size and shape.
Coordinates are centred: the middle of the picture is (0, 0), x points right, y points down.
"""
