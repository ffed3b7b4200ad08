"""MixUp and Mosaic, to compare the CropBank with."""
