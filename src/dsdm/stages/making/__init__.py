"""The calls that make each artifact: read finished ones, compute, write into a draft."""
