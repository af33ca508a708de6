"""Access control: who may call, how callers prove who they are, how often they may call, and the audit log."""
