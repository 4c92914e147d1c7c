"""Long runs of faults and load against a server process, judged from outside: one command for each question.

- `python -m benchmarks.soak.answers`: is every answer right while clients hang up and the model fails?
- `python -m benchmarks.soak.overload`: what is left of a service that is asked for ten times what it can do?
"""
