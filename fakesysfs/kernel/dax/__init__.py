"""drivers/dax: the dax bus, its regions and devices, and the drivers that bind to them."""
