"""Runs ``mmcert audit``, where its code is."""

import sys

from mmcert.commands.audit import main

if __name__ == '__main__':
    sys.exit(main())
