"""The Open Inference Protocol, version 2: the models of this server for the clients of Triton, KServe and others."""
