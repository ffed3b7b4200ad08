"""MixUp and Mosaic, which the CropBank is compared with."""
