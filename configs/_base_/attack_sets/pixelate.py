# Factors that the surrogate knows, and those that are certified.
surrogate = dict(transformation='pixelate', low=1, high=4)
attack = dict(values=[2, 3, 4])
