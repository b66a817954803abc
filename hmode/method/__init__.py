"""The method of the paper and nothing else, to be read in an hour: image, density, crops, network,
gating, mixture (eq. 1), prediction, losses (eq. 2 to 7), training."""
