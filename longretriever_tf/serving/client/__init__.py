"""A request as a caller writes it, and the ways to send it: REST, gRPC, or in this process. Imports no TensorFlow."""

from longretriever_tf.serving.client.client import Client
from longretriever_tf.serving.client.request import Request
from longretriever_tf.serving.client.response import Candidate, Interest, Response
from longretriever_tf.serving.client.transport import CallError, ClientOptions, Model

__all__ = ["CallError", "Candidate", "Client", "ClientOptions", "Interest", "Model", "Request", "Response"]
