"""The labelling loop: which images to label next, labels for annotation tools, corrected labels."""
