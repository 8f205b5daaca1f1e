"""Runs ``mmcert train_denoiser``, where its code is."""

import sys

from mmcert.commands.train_denoiser import main

if __name__ == '__main__':
    sys.exit(main())
