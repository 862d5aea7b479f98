"""Types that modules of several layers name."""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PathLike = str | os.PathLike[str]
Protocol = Literal["wacv2024", "exact"]  # of the instance-aware IoU; see fastia.instance_iou
