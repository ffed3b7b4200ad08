"""PUDet's purification: selects unlabelled images that resemble the labelled ones."""
