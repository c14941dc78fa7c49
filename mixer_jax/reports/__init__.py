"""Reports: HTML pages, contact sheets and plots."""

import logging

# Without a home folder, Matplotlib warns of each folder that it may not write.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
