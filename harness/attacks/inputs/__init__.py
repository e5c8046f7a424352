"""Input augmentation: transforms of the image into copies, one module for each family. Imports the parts' kinds alone."""
