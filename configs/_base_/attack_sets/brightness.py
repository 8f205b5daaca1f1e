# Shifts that the surrogate knows, and those that are certified.
surrogate = dict(transformation='brightness', low=-0.2, high=0.2)
attack = dict(range=[-0.1, 0.1])
