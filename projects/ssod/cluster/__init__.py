"""Commands over millions of images as jobs of a cluster; needs the extra `cluster` (submitit)."""
