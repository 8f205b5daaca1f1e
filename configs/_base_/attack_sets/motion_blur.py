# Lengths in pixels and angles in degrees that the surrogate knows, and those that are certified.
surrogate = dict(transformation='motion_blur', low=[0, -90], high=[6, 90])
attack = dict(values=[[length, angle] for length in (2, 4) for angle in (-45, 0, 45, 90)])
