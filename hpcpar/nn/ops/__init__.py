"""Arithmetic of the layers: forward and backward as plain functions that write where they are told.

One source serves NumPy and CuPy. Every function takes its outputs as arguments, and scratch space
from an arena; nothing else of a tensor's size is allocated. On a CPU, elementwise work is done in
blocks of rows that stay in cache (`blocks`). The order of every sum depends on shapes alone.
"""
