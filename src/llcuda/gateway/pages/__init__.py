"""The pages for browsers: the status page's files, and llama.cpp's chat page."""
