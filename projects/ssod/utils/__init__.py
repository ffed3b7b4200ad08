"""Small tools that know nothing of detectors: files, ranks, safe unpickling, drawing boxes."""
