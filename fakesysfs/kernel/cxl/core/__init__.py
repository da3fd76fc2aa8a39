"""The core of CXL: drivers/cxl/core, one module for each source file of the kernel."""
