"""Which images of an unsorted folder show what the labelled ones show: PUDet's purification
(`ssod.tools.purify`).
"""
