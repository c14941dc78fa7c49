"""Categories of active rows."""

import numpy as np
import pytest


@pytest.fixture
def categories(problem, mesh):
    """Maps active rows to their categories, sorted and without padding."""

    def run(rows):
        local = len(problem.proxies) // mesh.size
        rows = np.array(rows).reshape(mesh.size, -1)
        found = (rows + np.arange(mesh.size)[:, None] * local).ravel()
        return found[found < problem.num_categories]

    return run
