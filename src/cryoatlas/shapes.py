"""The vocabulary of array shapes, shared by every signature.

Axis words, one alphabet for the whole package:

========  =====================================================================
image     particle images in a batch or stack
particle  particles, each with one image or several in adjacent rows
view      images of one particle, taken after known tilts
pixel     Fourier coefficients inside a disc of the image plane, in raster order
pose      orientations and shifts (one per image, or candidates)
latent    coordinates of z
box       side of a cubic volume or square image
shell     rings (2-D) or spherical shells (3-D) of integer radius
atom      point scatterers of a body
========  =====================================================================

Annotations are checked at run time in the tests only
(``pytest --jaxtyping-packages=cryoatlas,beartype.beartype``).
"""

from jaxtyping import Bool, Complex, Float, Int
from numpy import ndarray as Array
from torch import Tensor

__all__ = ["Array", "Bool", "Complex", "Float", "Int", "Tensor"]
