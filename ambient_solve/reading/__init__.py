"""Files of others, measured before they are read: limits, HDF5, NumPy arrays and zip archives."""
