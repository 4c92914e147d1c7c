"""The public benchmarks of reward models, each by its own rules, and best-of-n curves.

A benchmark turns rows into prompts with candidate responses, and the candidates' scores into a result. Nothing here
but `scored` knows models, and nothing but `items` files.
"""
