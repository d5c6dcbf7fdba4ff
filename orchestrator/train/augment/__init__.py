"""Changes of pictures in training: drawn by the data corridor's keys, done on the device that trains."""
