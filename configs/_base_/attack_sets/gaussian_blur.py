# Variances in squared pixels that the surrogate knows, and those that are certified.
surrogate = dict(transformation='gaussian_blur', low=0, high=6)
attack = dict(range=[0, 4])
