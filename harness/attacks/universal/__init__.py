"""One perturbation for all images, and regions of an image that may change."""
