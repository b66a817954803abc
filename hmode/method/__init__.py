"""The method of the paper, to be read in an hour: image, density, crops, prediction, network,
gating, mixture (eq. 1), losses (eq. 2 to 7), training."""
