"""Training on several devices and machines: who they are, which batches each takes, how their gradients become one."""
