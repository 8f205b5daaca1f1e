# Factors that the surrogate knows, and those that are certified.
surrogate = dict(transformation='zoom_blur', low=1, high=1.08)
attack = dict(values=[1.02, 1.04, 1.06])
