"""Broken callbacks, at least one for each check of the test kit, and sound ones that look as if they were broken."""

from tests.zoo.fits import FITS
from tests.zoo.states import STATES
from tests.zoo.training import TRAINING

ZOO = [*FITS, *STATES, *TRAINING]
