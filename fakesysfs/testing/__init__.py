"""What users and tests import: drivers of the model without a mount, and the replayer of recorded sessions."""
