"""CropBank: crops of labelled and pseudo-labelled objects, pasted into strong views."""
