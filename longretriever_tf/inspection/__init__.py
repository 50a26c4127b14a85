"""What `inspect_log` says of a log and draws of it, before anything is trained."""
