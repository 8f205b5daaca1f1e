# Plain noise (Cohen, Rosenfeld, Kolter, ICML 2019), two copies of each image in a step.
custom_hooks = [dict(type='mmcert.SmoothTraining', sigma=0.25, copies=2)]
