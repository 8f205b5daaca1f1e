"""Runs ``mmcert convert_checkpoint``, where its code is."""

import sys

from mmcert.commands.convert_checkpoint import main

if __name__ == '__main__':
    sys.exit(main())
