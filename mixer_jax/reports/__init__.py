"""Reports: HTML pages, contact sheets and plots."""

import logging

# Without a home folder, Matplotlib warns of each folder it cannot write to.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
