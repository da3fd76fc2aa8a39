"""Operations and errors with an errno, for the kernel model, kernfs and the drivers."""
