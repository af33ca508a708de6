"""The engine, and a worker's way to it: the queue of a model whose device belongs to another process. Linux only.

A worker puts pixels into memory that both processes see (`arena`), and says so over a socket (`records`). Its end is
`remote_queue`, which takes the place of the batcher; the engine's end is `host`, which feeds the batcher.
"""
