# Qualities that the surrogate knows, and those that are certified.
surrogate = dict(transformation='jpeg', low=10, high=100)
attack = dict(values=[80, 60, 40, 20])
