# Log factors that the surrogate knows, and those that are certified.
surrogate = dict(transformation='contrast', low=-0.5, high=0.5)
attack = dict(range=[-0.2, 0.2])
