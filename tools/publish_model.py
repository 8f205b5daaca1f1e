"""Runs ``mmcert publish_model``, where its code is."""

import sys

from mmcert.commands.publish_model import main

if __name__ == '__main__':
    sys.exit(main())
