"""What is to be measured where there is a GPU, in one command: `python -m benchmarks.gpu`."""
