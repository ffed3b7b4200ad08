"""What the errors of pseudo-labels cost: runs that replace them, step by step, by the truth.

Everything here reads the labels of "unlabelled" images (`TRUTH`). It exists for analysis: no config
of the project uses it, and `SSOD.METHODS` does not know the method before `register_oracle` has
been called.
"""
