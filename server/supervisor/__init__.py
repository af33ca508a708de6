"""The supervisor: starts the processes of one server, watches and replaces them, and is what others see of it.

Linux only. It serves no calls, and knows neither gRPC nor a framework.
"""
