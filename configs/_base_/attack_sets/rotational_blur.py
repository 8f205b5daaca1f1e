# Angles in degrees that the surrogate knows, and those that are certified.
surrogate = dict(transformation='rotational_blur', low=0, high=3)
attack = dict(values=[1, 2, 3])
