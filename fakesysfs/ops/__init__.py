"""What the kernel model, the attribute face and the drivers share: operations, and errors with an errno."""
