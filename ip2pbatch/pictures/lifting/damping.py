"""What an autoencoder damps in fine detail, read off a picture that is known, and made good in one that is new.

A decoder gives back less of the two finest octaves than its encoder was shown. How much less hangs on what there is to
see; so it is asked of the photo, band by band (Burt and Adelson 1983) and place by place, as a gain: no pixel of the
photo comes with it.
"""

from __future__ import annotations

import numpy as np

from ip2pbatch.pictures.lifting.planes import Floats, gauss, luma

_OCTAVES = 0.7, 1.6  # σ between which bands lie; the next one's gain is 1.02, and left out
_AROUND = 12.0  # σ of the window in which a band's power is compared
_WEAK = 1.0  # of 255: what is weaker is noise, and noise that a decoder swallowed is not missed
_MOST = 2.5


def undamped(made: Floats, known: Floats, back: Floats) -> Floats:
    """`made` by a decoder [3, h, w], with its fine detail as much stronger as that of a picture that was `known` is
    beside what came `back` of it from encoder and decoder, up to what the known one has there; from 0 to 255. Detail
    is never made weaker.
    """
    mended = made.copy()
    for own, was, now in zip(_bands(made), _bands(luma(known)), _bands(luma(back)), strict=True):
        powers = gauss(np.concatenate([was * was, now * now, luma(own) ** 2]), _AROUND) + _WEAK**2
        gain = np.sqrt(powers[:1] / powers[1:].max(axis=0))
        mended += (np.clip(gain, 1, _MOST) - 1) * own
    return mended


def _bands(planes: Floats) -> list[Floats]:
    """Finest first."""
    found, finer = list[Floats](), planes
    for sigma in _OCTAVES:
        softer = gauss(planes, sigma)
        found.append(finer - softer)
        finer = softer
    return found
