"""Masks on which speed is compared: the same for every bench, so that figures can be set side by side.

`masks()`     16 x 513 x 513 uint8, 21 classes, about 150 components an image, 23 runs a row;
              every second image has a void rim (255)
`sparse()`    the same with 6 classes of one object each: what a pseudo mask of a few objects looks like
`noisy(m)`    5 % of the pixels replaced by random classes: about 12,600 components an image, 68 runs a row
`white()`     every pixel random: a run for almost every pixel
`giant()`     one component that covers everything but isolated pixels
`spiral()`    one component one pixel wide that winds through the whole image
All are seeded and need NumPy and SciPy only.
"""

import numpy as np
from scipy import ndimage


def masks(batch=16, height=513, width=513, classes=21, objects=6, seed=0):
    rng = np.random.default_rng(seed)
    out = np.zeros((batch, height, width), np.uint8)
    yy, xx = np.mgrid[:height, :width].astype(np.float32)
    for image in range(batch):
        mask = np.zeros((height, width), np.uint8)
        order = np.repeat(np.arange(classes), objects)
        rng.shuffle(order)
        for class_id in order:
            cy, cx = rng.uniform(0, height), rng.uniform(0, width)
            radius = np.exp(rng.uniform(np.log(8), np.log(70)))
            aspect, angle = rng.uniform(0.5, 2.0), rng.uniform(0, np.pi)
            reach = int(radius * 3) + 2
            y0, y1 = max(0, int(cy) - reach), min(height, int(cy) + reach)
            x0, x1 = max(0, int(cx) - reach), min(width, int(cx) + reach)
            dy, dx = yy[y0:y1, x0:x1] - cy, xx[y0:y1, x0:x1] - cx
            u = (np.cos(angle) * dx + np.sin(angle) * dy) / aspect
            v = (-np.sin(angle) * dx + np.cos(angle) * dy) * aspect
            phi = np.arctan2(v, u)
            k, a, p = rng.integers(2, 7, 3), rng.uniform(0, 0.2, 3), rng.uniform(0, 6.28, 3)
            outline = radius * (1 + sum(a[i] * np.sin(k[i] * phi + p[i]) for i in range(3)))
            mask[y0:y1, x0:x1][u * u + v * v < outline * outline] = class_id
        if image % 2 == 0:
            rim = np.zeros((height, width), bool)
            rim[:, 1:] |= mask[:, 1:] != mask[:, :-1]
            rim[1:] |= mask[1:] != mask[:-1]
            mask[ndimage.binary_dilation(rim)] = 255
        out[image] = mask
    return out


def sparse(batch=16, height=513, width=513, seed=2):
    return masks(batch, height, width, classes=7, objects=1, seed=seed)


def noisy(m, fraction=0.05, classes=21, seed=1):
    rng = np.random.default_rng(seed)
    m = m.copy()
    hit = rng.random(m.shape) < fraction
    m[hit] = rng.integers(0, classes, int(hit.sum()), dtype=np.uint8)
    return m


def white(batch=16, height=513, width=513, classes=21, seed=3):
    return np.random.default_rng(seed).integers(0, classes, (batch, height, width), dtype=np.uint8)


def giant(batch=16, height=513, width=513):
    m = np.ones((batch, height, width), np.uint8)
    m[:, 1::4, 1::4] = 2
    return m


def spiral(batch=16, height=513, width=513):
    m = np.zeros((height, width), np.uint8)
    top, left, bottom, right = 0, 0, height - 1, width - 1
    m[top, left : right + 1] = 1
    while right - left > 2 and bottom - top > 2:
        m[top : bottom + 1, right] = 1
        m[bottom, left : right + 1] = 1
        top += 2
        m[top : bottom + 1, left] = 1
        right -= 2
        m[top, left : right + 1] = 1
        bottom -= 2
        left += 2
    return np.repeat(m[None], batch, 0)
