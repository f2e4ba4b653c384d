"""The quickstart of the README: hide 70 % of a photograph, restore it, and see how sure the restoration is."""

from PIL import Image
from skimage.data import astronaut

from ambient_solve import Solver, load_prior, operators
from ambient_solve.data.images import to_tensor

x = to_tensor(Image.fromarray(astronaut()[:256, 96:352])).float()[None] / 255
op = operators.inpaint_random(x.shape[1:], missing=0.7, sigma=0.02)  # a deepinv physics
y = op(x)
r = Solver(load_prior("photos")).solve(y, op, n_samples=4, progress=True)
r.save("out/quickstart")  # mean, spread, samples, settings
error, claimed = (r.mean - x).square().mean().sqrt(), r.std.square().mean().sqrt()
print(f"error {error:.3f}, claimed {claimed:.3f}, misfit {r.chi2.mean():.2f}")
