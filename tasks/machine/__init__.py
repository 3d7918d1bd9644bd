"""The machine of this process: threads, buffers, devices, and the bits that its CPU gives."""
