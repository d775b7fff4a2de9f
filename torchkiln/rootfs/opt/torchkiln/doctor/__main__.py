"""Run the doctor from the modules beside this file."""

import sys

from torchkiln.doctor.__main__ import main

sys.exit(main(sys.argv[1:]))
