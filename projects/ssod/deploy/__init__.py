"""A trained model in a form that others run; the commands are `ssod.tools.export` and
`ssod.tools.latency`.
"""
