"""Runs ``mmcert redraw``, where its code is."""

import sys

from mmcert.commands.redraw import main

if __name__ == '__main__':
    sys.exit(main())
